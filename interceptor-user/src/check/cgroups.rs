//! Where the cgroup2 hierarchy and the pods in it are, and whether maps and links can be pinned.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Finding, Places};
use crate::enroll::{Kubepods, processes};

/// So many things of a kind are named.
const NAMED_MAX: usize = 8;

/// The part of the cgroup2 hierarchy in which pods are.
#[derive(Debug)]
pub(super) struct Cgroups {
    pub(super) root: PathBuf,
    /// `None`: no pod has been started here.
    pub(super) kubepods: Option<Kubepods>,
}

/// A mounted file system, by the fields of /proc/self/mounts that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    kind: String,
    point: PathBuf,
    writable: bool,
}

pub(super) fn findings(places: &Places) -> (Vec<Finding>, Option<Cgroups>) {
    let mounts = mounts(&fs::read_to_string("/proc/self/mounts").unwrap_or_default());
    let mut findings = vec![bpf_fs(&mounts, &places.pins)];
    let (hierarchy, root) = match &places.cgroup_root {
        Some(root) => given(root),
        None => hierarchy(&mounts),
    };
    findings.extend(hierarchy);
    let Some(root) = root else { return (findings, None) };
    let kubepods = match &places.kubepods {
        Some(directory) => Kubepods::at(&root, directory.clone()),
        None => Kubepods::find(&root),
    };
    findings.push(pods(kubepods.as_ref()));
    findings.extend(kubepods.as_ref().ok().and_then(visible_processes));
    (findings, Some(Cgroups { root, kubepods: kubepods.ok() }))
}

fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let writable = !options.split(',').any(|option| option == "ro");
        Some(Mount { kind: kind.to_owned(), point: point.into(), writable })
    };
    text.lines().filter_map(mount).collect()
}

fn bpf_fs(mounts: &[Mount], pins: &Path) -> Finding {
    const WHAT: &str = "bpf file system";
    // The mount that holds the directory: of those above it, the deepest and latest.
    let above = mounts.iter().filter(|mount| pins.starts_with(&mount.point));
    let holding = above.max_by_key(|mount| mount.point.components().count());
    match holding {
        Some(mount) if mount.kind == "bpf" && mount.writable => {
            Finding::ok(WHAT, format!("mounted at {}", mount.point.display()))
        }
        Some(mount) if mount.kind == "bpf" => Finding::failure(
            WHAT,
            format!("mounted read-only at {}", mount.point.display()),
            format!("mount -o remount,rw {}", mount.point.display()),
        ),
        Some(_) | None => Finding::failure(
            WHAT,
            format!("none holds {}", pins.display()),
            "mount -t bpf bpf /sys/fs/bpf (systemd does so at boot); a container needs the node's /sys/fs/bpf with \
             mountPropagation HostToContainer or Bidirectional",
        ),
    }
}

fn hierarchy(mounts: &[Mount]) -> (Option<Finding>, Option<PathBuf>) {
    const WHAT: &str = "cgroup2";
    let is_hybrid = mounts.iter().any(|mount| mount.kind == "cgroup");
    let all = mounts.iter().filter(|mount| mount.kind == "cgroup2");
    let Some(mount) = all.max_by_key(|mount| mount.writable) else {
        let finding = Finding::failure(
            WHAT,
            "not mounted",
            "boot with systemd.unified_cgroup_hierarchy=1, or mount it beside version 1: mkdir /sys/fs/cgroup/unified; \
             mount -t cgroup2 none /sys/fs/cgroup/unified; a container needs the node's /sys/fs/cgroup",
        );
        return (Some(finding), None);
    };
    let shown = mount.point.display();
    let found = if is_hybrid {
        format!("at {shown}, beside version 1 (hybrid)")
    } else {
        format!("at {shown}, alone (unified)")
    };
    let finding = if mount.writable {
        Finding::ok(WHAT, found)
    } else {
        Finding::failure(WHAT, format!("{found}, read-only"), format!("mount -o remount,rw {shown}"))
    };
    (Some(finding), Some(mount.point.clone()))
}

/// The root that was named.
fn given(root: &Path) -> (Option<Finding>, Option<PathBuf>) {
    const WHAT: &str = "cgroup2";
    let shown = root.display();
    let found = match rustix::fs::statfs(root) {
        Ok(found) if is_cgroup2(&found) => {
            return (Some(Finding::ok(WHAT, format!("at {shown}, as told"))), Some(root.to_owned()));
        }
        Ok(_) => format!("{shown} is no part of a cgroup2 hierarchy"),
        Err(error) => format!("{shown}: {}", std::io::Error::from(error)),
    };
    let mend = "name the directory where it is mounted, or leave --cgroup-root out to have it found";
    (Some(Finding::failure(WHAT, found, mend)), None)
}

fn pods(kubepods: Result<&Kubepods, &anyhow::Error>) -> Finding {
    const WHAT: &str = "pods";
    match kubepods {
        Ok(kubepods) => {
            let count = kubepods.pods().map_or(0, |pods| pods.len());
            Finding::ok(WHAT, format!("{count} below {}", kubepods.directory.display()))
        }
        Err(error) => Finding::warning(WHAT, error.to_string(), "no pod is found until then"),
    }
}

/// A pid namespace of our own hides the pods' processes, and with them their network namespaces.
fn visible_processes(kubepods: &Kubepods) -> Option<Finding> {
    const WHAT: &str = "processes";
    let processes = processes(&kubepods.directory);
    let hidden = processes.iter().filter(|pid| **pid == 0).count();
    if processes.is_empty() {
        return None;
    }
    if hidden == 0 {
        return Some(Finding::ok(WHAT, format!("{} of pods are visible", processes.len())));
    }
    Some(Finding::failure(
        WHAT,
        format!("{hidden} of {} processes of pods are not visible", processes.len()),
        "run in the node's pid namespace (hostPID: true)",
    ))
}

fn is_cgroup2(found: &rustix::fs::StatFs) -> bool {
    const CGROUP2_MAGIC: u64 = 0x6367_7270;
    u64::try_from(found.f_type).is_ok_and(|magic| magic == CGROUP2_MAGIC)
}

/// Whether something can be pinned there.
pub(super) fn is_bpf_fs(found: &rustix::fs::StatFs) -> bool {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    u64::try_from(found.f_type).is_ok_and(|magic| magic == BPF_FS_MAGIC)
}

/// Separated by commas, and not without an end.
pub(super) fn list<T: AsRef<str>>(names: BTreeSet<T>) -> String {
    let count = names.len();
    let mut text = names.iter().take(NAMED_MAX).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if count > NAMED_MAX {
        text = format!("{text} and {} more", count - NAMED_MAX);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    const HYBRID: &str = "\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0";
    const UNIFIED: &str = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev 0 0
bpf /sys/fs/bpf bpf rw,nosuid 0 0";
    const READ_ONLY: &str = "cgroup /sys/fs/cgroup cgroup2 ro,nosuid 0 0
bpf /sys/fs/bpf bpf ro 0 0";
    const V1: &str = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0
sysfs /sys sysfs rw 0 0";

    #[test]
    fn hierarchies() {
        for (text, found, verdict) in [
            (HYBRID, "at /sys/fs/cgroup/unified, beside version 1 (hybrid)", Verdict::Ok),
            (UNIFIED, "at /sys/fs/cgroup, alone (unified)", Verdict::Ok),
            (READ_ONLY, "at /sys/fs/cgroup, alone (unified), read-only", Verdict::Failure),
            (V1, "not mounted", Verdict::Failure),
        ] {
            let (finding, _) = hierarchy(&mounts(text));
            let finding = finding.unwrap();
            assert_eq!((finding.found.as_str(), finding.verdict), (found, verdict));
        }
        assert_eq!(hierarchy(&mounts(HYBRID)).1, Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn a_root_that_is_named_has_to_be_one() {
        let directory = tempfile::tempdir().unwrap();
        for (root, why) in [
            (directory.path().to_owned(), "is no part of a cgroup2 hierarchy"),
            (directory.path().join("nope"), ": No such file or directory"),
        ] {
            let (finding, root) = given(&root);
            let finding = finding.unwrap();
            assert_eq!((finding.what, finding.verdict, root), ("cgroup2", Verdict::Failure, None));
            assert!(finding.found.contains(why), "{}", finding.found);
        }
    }

    #[test]
    fn pins_need_a_bpf_file_system() {
        let pins = Path::new("/sys/fs/bpf/interceptor");
        for (text, found, verdict) in [
            (UNIFIED, "mounted at /sys/fs/bpf", Verdict::Ok),
            (READ_ONLY, "mounted read-only at /sys/fs/bpf", Verdict::Failure),
            (V1, "none holds /sys/fs/bpf/interceptor", Verdict::Failure),
            ("", "none holds /sys/fs/bpf/interceptor", Verdict::Failure),
        ] {
            let finding = bpf_fs(&mounts(text), pins);
            assert_eq!((finding.found.as_str(), finding.verdict), (found, verdict), "{text}");
        }
    }
}
