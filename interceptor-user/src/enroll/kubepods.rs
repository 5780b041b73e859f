//! Where the kubelet puts pods in the cgroup hierarchy: below `kubepods` (cgroupfs driver) or `kubepods.slice` (systemd
//! driver), directly or below their class of service.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

/// How deep below the hierarchy's root the kubelet's own directory is looked for: clusters in containers nest it.
const DEPTH_MAX: usize = 6;

/// The common ancestor of all pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubepods {
    pub directory: PathBuf,
    /// Of the hierarchy that it is in.
    root: PathBuf,
}

/// A pod's cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodCgroup {
    pub uid: Arc<str>,
    pub directory: PathBuf,
}

impl Kubepods {
    /// Looks for it below the cgroup2 hierarchy `root`.
    pub fn find(root: &Path) -> anyhow::Result<Self> {
        let mut found = Vec::new();
        look(root, DEPTH_MAX, &mut found);
        match found.as_slice() {
            [directory] => Ok(Self { directory: directory.clone(), root: root.to_owned() }),
            [] => bail!(
                "there is no kubepods or kubepods.slice below {}: no kubelet has started pods here yet, or its cgroups \
                 are elsewhere; name the directory with --kubepods",
                root.display()
            ),
            several => bail!(
                "there is more than one kubepods below {} ({}): name the one of this node with --kubepods",
                root.display(),
                several.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// `directory` is in the cgroup2 hierarchy `root`.
    pub fn at(root: &Path, directory: PathBuf) -> anyhow::Result<Self> {
        if !directory.starts_with(root) {
            bail!("{} is not below the cgroup2 hierarchy {}", directory.display(), root.display());
        }
        fs::read_dir(&directory).with_context(|| format!("can't list {}", directory.display()))?;
        Ok(Self { directory, root: root.to_owned() })
    }

    /// How far below the root of the hierarchy it is: 1 for a child of the root.
    pub fn level(&self) -> u32 {
        let below = self.directory.strip_prefix(&self.root).map(|path| path.components().count());
        below.ok().and_then(|count| u32::try_from(count).ok()).unwrap_or_default()
    }

    /// Every pod's cgroup that is there now: all of them, or an error.
    pub fn pods(&self) -> io::Result<Vec<PodCgroup>> {
        let mut pods = Vec::new();
        for directory in self.parents()? {
            let children = match subdirectories(&directory) {
                // A class of service may have gone meanwhile.
                Err(error) if directory != self.directory && error.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                children => children?,
            };
            pods.extend(children.into_iter().filter_map(|directory| {
                Some(PodCgroup { uid: uid_of(directory.file_name()?.to_str()?)?, directory })
            }));
        }
        Ok(pods)
    }

    /// The pod whose cgroup `path` is, or in whose cgroup it directly is. What lies in a pod's cgroup is that pod's, whatever it
    /// is called: another's name there is no other pod.
    pub fn pod_of(&self, path: &Path) -> Option<PodCgroup> {
        path.ancestors().take(2).filter(|directory| self.holds_pods(directory.parent())).find_map(
            |directory| {
                let uid = uid_of(directory.file_name()?.to_str()?)?;
                Some(PodCgroup { uid, directory: directory.to_owned() })
            },
        )
    }

    /// Whether it is one of the directories in which pods' cgroups are made.
    fn holds_pods(&self, directory: Option<&Path>) -> bool {
        let is_own = |directory: Option<&Path>| directory == Some(&*self.directory);
        is_own(directory)
            || directory.is_some_and(|directory| is_own(directory.parent()) && is_class(directory))
    }

    /// The directories in which pods' cgroups are made.
    pub fn parents(&self) -> io::Result<Vec<PathBuf>> {
        let mut parents = vec![self.directory.clone()];
        parents.extend(subdirectories(&self.directory)?.into_iter().filter(|directory| is_class(directory)));
        Ok(parents)
    }
}

/// `kubepods`, `kubepods.slice`, or with a prefix of the kubelet's cgroup root `kubelet-kubepods.slice`.
fn is_kubepods(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

/// `burstable`, `besteffort`, `kubepods-burstable.slice` and so on.
fn is_class(directory: &Path) -> bool {
    let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let class = name.strip_suffix(".slice").unwrap_or(name).rsplit('-').next();
    matches!(class, Some("burstable" | "besteffort")) && uid_of(name).is_none()
}

/// The uid in `podUID` or in `kubepods-CLASS-podUID.slice`, where systemd has `_` for `-`.
fn uid_of(name: &str) -> Option<Arc<str>> {
    if let Some(name) = name.strip_suffix(".slice") {
        let (_, uid) = name.rsplit_once("-pod")?;
        return (!uid.is_empty()).then(|| uid.replace('_', "-").into());
    }
    let uid = name.strip_prefix("pod")?;
    (!uid.is_empty()).then(|| uid.into())
}

fn look(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(children) = subdirectories(directory) else { return };
    for child in children {
        if child.file_name().and_then(|name| name.to_str()).is_some_and(is_kubepods) {
            found.push(child);
        } else if depth > 1 {
            look(&child, depth - 1, found);
        }
    }
}

fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    let entries = entries.into_iter();
    // The kernel tells the kind with the name.
    Ok(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids() {
        for (name, uid) in [
            ("pod0f0c", Some("0f0c")),
            ("podb1946ac9-2492-4d23-a1c3-c1f4d4a0b7b7", Some("b1946ac9-2492-4d23-a1c3-c1f4d4a0b7b7")),
            ("kubepods-besteffort-podb1946ac9_2492.slice", Some("b1946ac9-2492")),
            ("kubepods-podb1946ac9_2492.slice", Some("b1946ac9-2492")),
            ("kubelet-kubepods-burstable-podb1946ac9.slice", Some("b1946ac9")),
            ("burstable", None),
            ("kubepods-burstable.slice", None),
            ("pod", None),
            ("cri-containerd-podium.scope", None),
        ] {
            assert_eq!(uid_of(name).as_deref(), uid, "{name}");
        }
    }

    #[test]
    fn pods_of_both_drivers_are_found_at_any_depth() {
        for (kubepods, pods) in [
            ("kubepods", ["podaaaa", "burstable/podbbbb", "besteffort/podcccc"]),
            ("docker/1234/kubelet/kubepods", ["podaaaa", "burstable/podbbbb", "besteffort/podcccc"]),
            (
                "kubepods.slice",
                [
                    "kubepods-podaaaa.slice",
                    "kubepods-burstable.slice/kubepods-burstable-podbbbb.slice",
                    "kubepods-besteffort.slice/kubepods-besteffort-podcccc.slice",
                ],
            ),
        ] {
            let root = tempfile::tempdir().unwrap();
            for pod in pods {
                fs::create_dir_all(root.path().join(kubepods).join(pod).join("container")).unwrap();
            }
            let found = Kubepods::find(root.path()).unwrap();
            assert_eq!(found.directory, root.path().join(kubepods));
            assert_eq!(usize::try_from(found.level()).unwrap(), kubepods.split('/').count());
            let mut uids: Vec<_> = found.pods().unwrap().into_iter().map(|pod| pod.uid.to_string()).collect();
            uids.sort();
            assert_eq!(uids, ["aaaa", "bbbb", "cccc"], "{kubepods}");
            assert_eq!(found.parents().unwrap().len(), 3);
            for pod in found.pods().unwrap() {
                assert_eq!(found.pod_of(&pod.directory).as_ref(), Some(&pod));
                assert_eq!(found.pod_of(&pod.directory.join("container")).as_ref(), Some(&pod));
                assert_eq!(found.pod_of(&pod.directory.join("container/below")), None);
            }
            assert_eq!(found.pod_of(&found.directory.join("burstable")), None);
            let pods = found.pods().unwrap();
            let nested = pods[0].directory.join(pods[1].directory.file_name().unwrap());
            assert_eq!(found.pod_of(&nested).as_ref(), Some(&pods[0]), "a name of another's in it");
            assert_eq!(found.pod_of(&nested.join("container")), None);
        }
    }

    #[test]
    fn none_and_several_are_told() {
        let root = tempfile::tempdir().unwrap();
        let error = Kubepods::find(root.path()).unwrap_err().to_string();
        assert!(error.contains("--kubepods"), "{error}");
        for node in ["a", "b"] {
            fs::create_dir_all(root.path().join(node).join("kubepods")).unwrap();
        }
        let error = Kubepods::find(root.path()).unwrap_err().to_string();
        assert!(error.contains("more than one"), "{error}");
    }
}
