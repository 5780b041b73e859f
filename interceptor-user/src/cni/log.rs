//! One line for each call, in a file: runtimes throw away what plugins write to standard error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// At this size the file becomes `FILE.1`, in place of an older one.
const BYTES_MAX: u64 = 1024 * 1024;

/// Logging is no reason for a call to fail: what can't be written goes to standard error.
pub(super) fn write(file: Option<&Path>, line: &str) {
    let line = format!("{:.3} {line}\n", jiff::Timestamp::now());
    let written = file.map_or(Ok(()), |file| open(file)?.write_all(line.as_bytes()));
    let mut stderr = io::stderr();
    if let (Err(error), Some(file)) = (&written, file) {
        drop(writeln!(stderr, "can't write {}: {error}", file.display()));
    }
    if file.is_none() || written.is_err() {
        drop(stderr.write_all(line.as_bytes()));
    }
}

fn open(file: &Path) -> io::Result<File> {
    if fs::metadata(file).is_ok_and(|metadata| metadata.len() >= BYTES_MAX) {
        let mut older = file.as_os_str().to_owned();
        older.push(".1");
        fs::rename(file, PathBuf::from(older))?;
    }
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    OpenOptions::new().create(true).append(true).open(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_makes_room() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("logs/cni.log");
        write(Some(&file), "first");
        assert!(fs::read_to_string(&file).unwrap().ends_with("Z first\n"));
        OpenOptions::new().write(true).open(&file).unwrap().set_len(BYTES_MAX).unwrap();
        write(Some(&file), "second");
        assert!(fs::read_to_string(&file).unwrap().ends_with("Z second\n"));
        assert_eq!(fs::metadata(directory.path().join("logs/cni.log.1")).unwrap().len(), BYTES_MAX);
    }
}
