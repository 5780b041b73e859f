//! Which unix sockets resources may name as endpoints. The proxy opens them as itself: where others than its own user
//! write the resources, a path is refused unless a directory above it was allowed.

use std::path::{Component, Path, PathBuf};

use crate::resource::service_entry::{Resolution, WorkloadEntry as Endpoint};
use crate::resource::{Diagnostic, Labels, Meta, ServiceEntry, UnixPath, WorkloadEntry, World, code};

/// The paths that are used. Abstract names always are: they belong to a workload's own network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixEndpoints {
    /// Those that name any path of the proxy's mount namespace.
    Any,
    /// Those that name a path below one of these directories, as it is written: links are not followed here.
    Below(Vec<PathBuf>),
}

/// What was not told to be allowed is not.
impl Default for UnixEndpoints {
    fn default() -> Self {
        Self::Below(Vec::new())
    }
}

/// An endpoint that is left out.
#[derive(Debug)]
pub(crate) struct Refused<'a> {
    /// The ServiceEntry or the WorkloadEntry.
    pub(crate) meta: &'a Meta,
    pub(crate) field: String,
    pub(crate) endpoint: &'a Endpoint,
}

impl UnixEndpoints {
    /// A directory that can be meant: absolute, without `..`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_directory(text: &str) -> Result<PathBuf, String> {
        let directory = PathBuf::from(text);
        if !directory.is_absolute() || is_leading_out(&directory) {
            return Err("expected an absolute path of a directory, without `..`".into());
        }
        Ok(directory)
    }

    /// Whether an endpoint with this address is used; those that are no unix sockets are.
    pub fn allow(&self, address: &str) -> bool {
        match (self, UnixPath::of_address(address)) {
            (Self::Any, _) | (_, None) => true,
            // Left out for that.
            (_, Some(Err(_))) => false,
            (Self::Below(directories), Some(Ok(path))) => {
                let is_below = |path: &Path| directories.iter().any(|directory| path.starts_with(directory));
                let path = Path::new(path.as_str());
                !path.is_absolute() || (!is_leading_out(path) && is_below(path))
            }
        }
    }

    /// The endpoints of `entry` that are left out, those that it selects among them.
    pub(crate) fn refused<'a>(&self, entry: &'a ServiceEntry, world: &'a World) -> Vec<Refused<'a>> {
        self.refused_of(entry, &self.refused_workloads(world))
    }

    /// The same of every entry that is `seen`, as findings.
    pub(crate) fn findings(&self, world: &World, seen: impl Fn(&ServiceEntry) -> bool) -> Vec<Diagnostic> {
        let Self::Below(directories) = self else { return Vec::new() };
        let workloads = self.refused_workloads(world);
        let entries = world.service_entries().filter(|entry| seen(entry));
        let refused = entries.flat_map(|entry| self.refused_of(entry, &workloads));
        refused.map(|refused| refused.finding(directories)).collect()
    }

    fn refused_workloads<'a>(&self, world: &'a World) -> Vec<&'a WorkloadEntry> {
        world
            .workload_entries()
            .map(|entry| &**entry)
            .filter(|entry| !self.allow(&entry.endpoint.address))
            .collect()
    }

    fn refused_of<'a>(&self, entry: &'a ServiceEntry, workloads: &[&'a WorkloadEntry]) -> Vec<Refused<'a>> {
        if entry.resolution != Resolution::Static {
            return Vec::new();
        }
        let own = entry.endpoints.iter().enumerate().filter(|(_, endpoint)| !self.allow(&endpoint.address));
        let own = own.map(|(index, endpoint)| Refused {
            meta: &entry.meta,
            field: format!("spec.endpoints[{index}].address"),
            endpoint,
        });
        let is_selected = |workload: &&&WorkloadEntry| {
            workload.meta.namespace() == entry.meta.namespace()
                && entry
                    .workload_selector
                    .as_ref()
                    .is_some_and(|wanted| has(&workload.endpoint.labels, wanted))
        };
        let selected = workloads.iter().filter(is_selected).map(|workload| Refused {
            meta: &workload.meta,
            field: "spec.address".into(),
            endpoint: &workload.endpoint,
        });
        own.chain(selected).collect()
    }
}

impl Refused<'_> {
    fn finding(&self, directories: &[PathBuf]) -> Diagnostic {
        let code = &code::EGR0124;
        let allowed = match directories {
            [] => "nothing".into(),
            some => some.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        };
        let message = format!(
            "{} is a socket of the node, and --allow-unix-endpoints allows {allowed}",
            self.endpoint.address
        );
        let finding = self.meta.finding(code.level, self.endpoint.position, &self.field, message);
        Diagnostic { code: Some(code.id), effect: code.effect.into(), mend: code.mend.into(), ..finding }
    }
}

fn is_leading_out(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}

fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_a_directory_are_allowed_and_no_others() {
        let below =
            |directories: &[&str]| UnixEndpoints::Below(directories.iter().map(PathBuf::from).collect());
        let sidecars = below(&["/run/sidecars", "/srv/db/"]);
        for (address, expected) in [
            ("unix:///run/sidecars/a.sock", true),
            ("unix:///run/sidecars/deep/a.sock", true),
            ("unix:///run//./sidecars/a.sock", true),
            ("unix:///srv/db/a.sock", true),
            ("unix:///run/docker.sock", false),
            ("unix:///run/sidecars-of-others/a.sock", false),
            ("unix:///run/sidecars/../docker.sock", false),
            ("unix:///run/sidecars/..", false),
            ("unix://run/sidecars/a.sock", false),
            ("unix:///a/run/sidecars/a.sock", false),
            ("unix://@run/docker.sock", true),
            ("unix://@/run/docker.sock", true),
            ("10.0.0.1", true),
            ("a.example.com", true),
        ] {
            assert_eq!(sidecars.allow(address), expected, "{address}");
            assert!(UnixEndpoints::Any.allow(address));
            assert_eq!(
                UnixEndpoints::default().allow(address),
                expected && !address.contains(":///"),
                "{address}"
            );
        }
        assert!(below(&["/"]).allow("unix:///run/docker.sock"));
        assert!(!below(&["/"]).allow("unix:///a/../run/docker.sock"));
    }

    #[test]
    fn directories_are_absolute() {
        assert_eq!(UnixEndpoints::parse_directory("/run/a"), Ok("/run/a".into()));
        for text in ["", "run", "./run", "/run/../etc", "~/run"] {
            assert!(UnixEndpoints::parse_directory(text).is_err(), "{text}");
        }
    }
}
