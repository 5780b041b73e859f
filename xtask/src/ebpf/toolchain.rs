//! Which compiler and linker build the BPF object: Debian's own, or rustup's nightly. Both build `core` themselves,
//! so they need its source; linker and compiler must have the same LLVM.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::shell;

/// The version that is installed by `cargo xtask setup`, and that built the committed object.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

#[derive(Debug)]
enum Source {
    Debian,
    Rustup,
}

#[derive(Debug)]
pub(crate) struct Toolchain {
    source: Source,
    /// `rustc 1.96.0 (…), LLVM 22.1.8`
    pub(crate) rustc: String,
    pub(crate) std_sources: PathBuf,
    pub(crate) linker: PathBuf,
    pub(crate) linker_version: String,
}

impl Toolchain {
    /// Debian's if it is complete, else rustup's; the error says what is missing of the one to install here.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let debian = Self::debian();
        if debian.is_ok() || shell::has("apt-get") {
            return debian;
        }
        Self::rustup()
    }

    fn debian() -> anyhow::Result<Self> {
        if !Path::new("/usr/bin/cargo").exists() {
            bail!("Debian's cargo-web is missing");
        }
        Self::new(Source::Debian)
    }

    fn rustup() -> anyhow::Result<Self> {
        Self::new(Source::Rustup)
    }

    fn new(source: Source) -> anyhow::Result<Self> {
        let about = said(rustc(&source).arg("-vV"))?;
        let sysroot = said(rustc(&source).args(["--print", "sysroot"]))?;
        let std_sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
        if !std_sources.join("library/core").is_dir() {
            bail!("the source of Rust's core library is missing below {}", std_sources.display());
        }
        let linker = find_linker().context("bpf-linker is missing")?;
        let linker_version = said(Command::new(&linker).arg("--version"))?.trim().to_owned();
        if linker_version != format!("bpf-linker {LINKER_VERSION}") {
            bail!("bpf-linker {LINKER_VERSION} is needed, but {} is {linker_version}", linker.display());
        }
        let llvm = llvm_version(&about).context("rustc -vV names no LLVM version")?;
        let first = about.lines().next().unwrap_or_default();
        Ok(Self { source, rustc: format!("{first}, LLVM {llvm}"), std_sources, linker, linker_version })
    }

    pub(crate) fn cargo(&self) -> Command {
        match self.source {
            Source::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                // -Z build-std with a stable compiler.
                command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc");
                command
            }
            Source::Rustup => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]).env_remove("RUSTC");
                command
            }
        }
    }

    /// Where cargo keeps the sources of crates.
    pub(crate) fn registry(&self) -> anyhow::Result<PathBuf> {
        let registry = cargo_home().context("neither CARGO_HOME nor HOME is set")?.join("registry/src");
        // A fresh machine has none before the first fetch.
        let mut fetch = self.cargo();
        fetch.current_dir(super::directory()).args(["fetch", "--quiet", "--locked"]);
        fetch.env_remove("RUSTUP_TOOLCHAIN");
        shell::run(&mut fetch)?;
        Ok(registry)
    }
}

fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}

/// Where cargo installs programs, if that is not in PATH.
fn find_linker() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = cargo_home().map(|home| home.join("bin"));
    let mut candidates = std::env::split_paths(&path).chain(installed).map(|bin| bin.join("bpf-linker"));
    candidates.find(|candidate| candidate.is_file())
}

/// LLVM's first number, which `llvm-22-dev` has in its name.
pub(crate) fn debian_llvm_major() -> anyhow::Result<String> {
    let about = said(rustc(&Source::Debian).arg("-vV"))?;
    let version = llvm_version(&about).context("rustc -vV names no LLVM version")?;
    Ok(version.split('.').next().unwrap_or(version).to_owned())
}

fn rustc(source: &Source) -> Command {
    match source {
        Source::Debian => Command::new("/usr/bin/rustc"),
        Source::Rustup => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "rustc"]);
            command
        }
    }
}

fn llvm_version(about: &str) -> Option<&str> {
    about.lines().find_map(|line| line.strip_prefix("LLVM version: "))
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
