//! Paths that name a descriptor which this process was started with: `/dev/stderr`, `/dev/fd/N`, `/proc/self/fd/N`, and links
//! to those. A regular file that is opened by such a name anew has an offset of its own: whoever else writes there is
//! overwritten.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use crate::datapath;

/// As the kernel: links that lead to links.
const LINKS_MAX: usize = 40;

/// A duplicate of the descriptor that `path` names, if it names one.
///
/// # Errors
/// When it was not passed to this process.
pub(crate) fn open(path: &Path) -> Option<io::Result<File>> {
    named_by(path).map(datapath::duplicate_inherited)
}

fn named_by(path: &Path) -> Option<RawFd> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match path.to_str()? {
            "/dev/stdin" => return Some(0),
            "/dev/stdout" => return Some(1),
            "/dev/stderr" => return Some(2),
            name => {
                let number = name.strip_prefix("/dev/fd/").or_else(|| name.strip_prefix("/proc/self/fd/"));
                if let Some(number) = number {
                    return number.parse().ok().filter(|number| *number >= 0);
                }
            }
        }
        let target = std::fs::read_link(&path).ok()?;
        // `join` with an absolute path is that path.
        path = path.parent().unwrap_or(&path).join(target);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn names_of_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let link = |name: &str, to: &str| {
            let path = folder.path().join(name);
            std::os::unix::fs::symlink(to, &path).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (direct, around, ring) = (link("a", "/dev/stderr"), link("b", "a"), link("ring", "ring"));
        for (path, expected) in [
            ("/dev/stdout", Some(1)),
            ("/dev/stderr", Some(2)),
            ("/dev/fd/7", Some(7)),
            ("/proc/self/fd/1", Some(1)),
            (&direct, Some(2)),
            (&around, Some(2)),
            (&ring, None),
            ("/dev/fd/x", None),
            ("/dev/fd/-1", None),
            ("/dev/null", None),
            ("access.log", None),
        ] {
            assert_eq!(named_by(Path::new(path)), expected, "{path}");
        }
    }

    /// A number says nothing of a descriptor that this process has made for itself.
    #[test]
    fn only_what_was_passed_is_written_to() {
        let file = tempfile::tempfile().unwrap();
        let path = format!("/dev/fd/{}", file.as_raw_fd());
        let error = open(Path::new(&path)).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        assert!(open(Path::new(&path)).unwrap().is_ok());
    }
}
