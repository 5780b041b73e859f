//! Directories of which nobody can tell what they hold: what they held goes on acting until somebody can.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::reload::{entry, hosts, watch};

fn make(directory: &Path, host: &str) {
    fs::create_dir(directory).unwrap();
    fs::write(directory.join("a.yaml"), entry("a", host)).unwrap();
}

/// Under ALLOW_ANY no resources would mean that everything is let through.
#[test]
fn a_directory_that_is_renamed_away_and_comes_back() {
    let parent = tempfile::tempdir().unwrap();
    let (path, away) = (parent.path().join("config"), parent.path().join("away"));
    make(&path, "one.example.com");
    let watched = watch(&path, None);
    fs::rename(&path, &away).unwrap();
    let kept = format!(
        "{0}: error: can't read {0}: No such file or directory (os error 2); its resources stay as they were; put it back",
        path.display()
    );
    watched.until("away", |world, said| {
        hosts(world) == ["one.example.com"] && said.starts_with(&kept) && said.lines().count() == 1
    });
    fs::write(away.join("a.yaml"), entry("a", "two.example.com")).unwrap();
    fs::rename(&away, &path).unwrap();
    watched.until("back", |world, said| hosts(world) == ["two.example.com"] && said.is_empty());
    // One that is there and empty says that there is nothing.
    fs::remove_file(path.join("a.yaml")).unwrap();
    watched.until("empty", |world, said| hosts(world).is_empty() && said.contains("no resource was found"));
}

#[test]
fn a_directory_that_becomes_a_file() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("config");
    make(&path, "one.example.com");
    let watched = watch(&path, None);
    fs::rename(&path, parent.path().join("away")).unwrap();
    fs::write(&path, entry("b", "two.example.com")).unwrap();
    watched.until("a file", |world, said| {
        hosts(world) == ["one.example.com"] && said.contains("was a directory and is a file now")
    });
    fs::remove_file(&path).unwrap();
    make(&path, "three.example.com");
    watched.until("back", |world, said| hosts(world) == ["three.example.com"] && said.is_empty());
}

/// As when a file system that links lead to is unmounted.
#[test]
fn links_that_lead_nowhere() {
    let parent = tempfile::tempdir().unwrap();
    let (path, outside) = (parent.path().join("config"), parent.path().join("outside"));
    make(&path, "one.example.com");
    make(&outside, "two.example.com");
    fs::write(outside.join("a.yaml"), entry("b", "two.example.com")).unwrap();
    fs::create_dir(parent.path().join("files")).unwrap();
    fs::write(parent.path().join("files/c.yaml"), entry("c", "three.example.com")).unwrap();
    symlink(&outside, path.join("directory")).unwrap();
    symlink("../files/c.yaml", path.join("c.yaml")).unwrap();
    let watched = watch(&path, None);
    fs::rename(&outside, parent.path().join("away")).unwrap();
    fs::rename(parent.path().join("files"), parent.path().join("files-away")).unwrap();
    // What can be read is followed meanwhile.
    fs::write(path.join("a.yaml"), entry("a", "four.example.com")).unwrap();
    watched.until("away", |world, said| {
        hosts(world) == ["four.example.com", "two.example.com", "three.example.com"]
            && said.matches("stay as they were").count() == 2
    });
    // A link that is taken away is a file that is removed.
    fs::remove_file(path.join("c.yaml")).unwrap();
    fs::remove_file(path.join("directory")).unwrap();
    watched.until("removed", |world, said| hosts(world) == ["four.example.com"] && said.is_empty());
}

/// Nothing is left there that could tell of a change.
#[test]
fn a_directory_whose_parent_is_away() {
    let parent = tempfile::tempdir().unwrap();
    let (upper, away) = (parent.path().join("upper"), parent.path().join("away"));
    fs::create_dir(&upper).unwrap();
    make(&upper.join("config"), "one.example.com");
    let watched = watch(&upper.join("config"), None);
    fs::rename(&upper, &away).unwrap();
    watched.until("away", |world, said| hosts(world) == ["one.example.com"] && said.contains("put it back"));
    fs::write(away.join("config/a.yaml"), entry("a", "two.example.com")).unwrap();
    fs::rename(&away, &upper).unwrap();
    watched.until("back", |world, said| hosts(world) == ["two.example.com"] && said.is_empty());
}
