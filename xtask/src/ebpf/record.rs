//! What built the committed object, from what: `interceptor-ebpf/bpf/interceptor.bpf.txt`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::toolchain::Toolchain;
use crate::shell;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Compiler and linker.
    pub(super) built_by: String,
    /// Of everything that the object is built from.
    pub(super) source: String,
    pub(super) object: String,
}

impl Record {
    pub(super) fn new(toolchain: &Toolchain, object: &[u8]) -> anyhow::Result<Self> {
        let built_by = format!("{} and {}", toolchain.rustc, toolchain.linker_version);
        Ok(Self { built_by, source: source_hash()?, object: sha256(object)? })
    }

    pub(super) fn read() -> anyhow::Result<Self> {
        let path = path();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let field = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.map(str::to_owned).with_context(|| format!("{} has no line `{name}: …`", path.display()))
        };
        Ok(Self { built_by: field("built by")?, source: field("source")?, object: field("object")? })
    }

    pub(super) fn write(&self) -> anyhow::Result<()> {
        let text = format!(
            "Written by `cargo xtask ebpf`; compared by `cargo xtask ebpf --check`.\n\
             built by: {}\nsource: {}\nobject: {}\n",
            self.built_by, self.source, self.object
        );
        let path = path();
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn path() -> PathBuf {
    super::directory().join("bpf/interceptor.bpf.txt")
}

/// Over the names and contents of all source files, in order of their names.
fn source_hash() -> anyhow::Result<String> {
    let root = shell::root();
    let mut files = vec![
        root.join("interceptor-ebpf/Cargo.toml"),
        root.join("interceptor-ebpf/Cargo.lock"),
        root.join("interceptor-common/Cargo.toml"),
    ];
    for crate_name in ["interceptor-ebpf", "interceptor-common"] {
        rust_files(&root.join(crate_name).join("src"), &mut files)?;
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(&root).unwrap_or(&file).display();
        writeln!(all, "{name} {}", content.len())?;
        all.extend(content);
    }
    sha256(&all)
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry.context("cannot list the source")?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> anyhow::Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run sha256sum (Debian package coreutils)")?;
    let mut stdin = child.stdin.take().context("sha256sum takes no input")?;
    stdin.write_all(bytes).context("cannot talk to sha256sum")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for sha256sum")?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split_whitespace().next() {
        Some(hash) if output.status.success() => Ok(format!("sha256 {hash}")),
        _ => bail!("sha256sum: {}", output.status),
    }
}
