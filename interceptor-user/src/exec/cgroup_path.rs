//! Finds the directory of the process's own cgroup in the cgroup2 file system, from the text of /proc/self/mountinfo
//! and /proc/self/cgroup. Pure: pure v2 hosts, hybrid ones, containers and cgroup namespaces are rows of a test.

use std::path::{Path, PathBuf};

/// Why there is no such directory. The text says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoCgroup {
    #[error(
        "cgroup2 is not mounted: mount it with `mount -t cgroup2 none /sys/fs/cgroup` (where cgroup v1 sits there: in a \
         new directory /sys/fs/cgroup/unified); in a container, run it privileged with the host's /sys/fs/cgroup; `ip \
         netns exec` hides the mount, `nsenter --net=/run/netns/NAME` does not"
    )]
    NotMounted,
    #[error("the kernel has no cgroup2: it needs Linux 5.15 or later with CONFIG_CGROUPS")]
    NoHierarchy,
    #[error(
        "the cgroup2 mount at {mount} does not show our own cgroup {cgroup}: run with the host's cgroup \
             namespace and /sys/fs/cgroup (docker: --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw)"
    )]
    Hidden { mount: String, cgroup: String },
    #[error("our own cgroup {cgroup} has been removed: start from a new session")]
    Removed { cgroup: String },
}

/// A cgroup2 mount: which cgroup its root shows, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    root: String,
    point: String,
    writable: bool,
}

/// The directory of the cgroup we are in.
pub(super) fn own_directory(mountinfo: &str, self_cgroup: &str) -> Result<PathBuf, NoCgroup> {
    let cgroup =
        self_cgroup.lines().find_map(|line| line.strip_prefix("0::")).ok_or(NoCgroup::NoHierarchy)?;
    if let Some(cgroup) = cgroup.strip_suffix(" (deleted)") {
        return Err(NoCgroup::Removed { cgroup: cgroup.to_owned() });
    }
    let mounts = mounts(mountinfo);
    let Some(any) = mounts.first() else { return Err(NoCgroup::NotMounted) };
    let visible = |mount: &Mount| directory_below(mount, cgroup).map(|path| (mount.writable, path));
    // Of several mounts the writable one; among equals the latest, which may lie on top of others.
    mounts
        .iter()
        .filter_map(visible)
        .max_by_key(|(writable, _)| *writable)
        .map(|(_, path)| path)
        .ok_or_else(|| NoCgroup::Hidden { mount: any.point.clone(), cgroup: cgroup.to_owned() })
}

/// Where `cgroup` is seen through `mount`, if it is.
fn directory_below(mount: &Mount, cgroup: &str) -> Option<PathBuf> {
    // A cgroup outside of our cgroup namespace is written as a path that climbs out of it.
    if cgroup.split('/').chain(mount.root.split('/')).any(|part| part == "..") {
        return None;
    }
    let below = Path::new(cgroup).strip_prefix(&mount.root).ok()?;
    Some(Path::new(&mount.point).join(below).components().collect())
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(mount).collect()
}

/// One line: `id parent major:minor root point options [optional fields] - type source super-options`.
fn mount(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    if back.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let mut fields = front.split(' ').skip(3);
    let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    let writable = !read_only(options) && !back.split(' ').nth(2).is_some_and(read_only);
    Some(Mount { root: unescaped(root), point: unescaped(point), writable })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescaped(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                text.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime shared:9 - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate";
    const PURE: &str = "\
25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw
34 25 0:29 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
    const V1_ONLY: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu";
    const READ_ONLY: &str = "729 728 0:29 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw";
    const BIND: &str = "729 728 0:29 /docker/abc /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw";
    const OUTSIDE: &str = "729 728 0:29 /../.. /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw";
    const SPACE: &str = r"729 728 0:29 / /mnt/my\040cgroups\134 rw - cgroup2 none rw";

    #[test]
    fn the_own_directory_of_every_layout() {
        let two = format!("{READ_ONLY}\n{HYBRID}");
        for (mountinfo, cgroup, expected) in [
            (HYBRID, "9:name=systemd:/user.slice\n1:cpu:/\n0::/", "/sys/fs/cgroup/unified"),
            (
                HYBRID,
                "1:cpu:/\n0::/user.slice/session-1.scope",
                "/sys/fs/cgroup/unified/user.slice/session-1.scope",
            ),
            (PURE, "0::/user.slice", "/sys/fs/cgroup/user.slice"),
            // a cgroup namespace: we are its root
            (PURE, "0::/", "/sys/fs/cgroup"),
            // a container without one, whose mount shows its own cgroup as the root
            (BIND, "0::/docker/abc", "/sys/fs/cgroup"),
            (BIND, "0::/docker/abc/nested", "/sys/fs/cgroup/nested"),
            (SPACE, "0::/a:b", "/mnt/my cgroups\\/a:b"),
            (READ_ONLY, "0::/", "/sys/fs/cgroup"),
            (&two, "0::/a", "/sys/fs/cgroup/unified/a"),
        ] {
            assert_eq!(own_directory(mountinfo, cgroup), Ok(PathBuf::from(expected)), "{mountinfo} {cgroup}");
        }
    }

    #[test]
    fn no_directory_is_explained() {
        let hidden =
            |cgroup: &str| NoCgroup::Hidden { mount: "/sys/fs/cgroup".into(), cgroup: cgroup.into() };
        for (mountinfo, cgroup, expected) in [
            (V1_ONLY, "1:cpu:/\n0::/", NoCgroup::NotMounted),
            ("", "0::/", NoCgroup::NotMounted),
            (V1_ONLY, "1:cpu:/", NoCgroup::NoHierarchy),
            (PURE, "0::/a (deleted)", NoCgroup::Removed { cgroup: "/a".into() }),
            (PURE, "0::/../other", hidden("/../other")),
            (OUTSIDE, "0::/", hidden("/")),
            (BIND, "0::/docker/abcdef", hidden("/docker/abcdef")),
        ] {
            assert_eq!(own_directory(mountinfo, cgroup), Err(expected), "{mountinfo} {cgroup}");
        }
    }
}
