//! `cargo xtask setup`: installs the toolchain that rebuilds the BPF object. Nobody else needs it: the object is
//! committed. Prints each thing before it is installed; quick when all is there.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::ebpf::compiler_of_record;
use crate::ebpf::toolchain::{LINKER_VERSION, Toolchain, debian_llvm_major};
use crate::install::{apt, apt_update};
use crate::shell::{cargo, has, quiet};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    let wanted = compiler_of_record()?;
    if let Ok(toolchain) = Toolchain::find()
        && !is_older(&toolchain.rustc, &wanted)
    {
        println!("   the BPF toolchain is there: {}, {}", toolchain.rustc, toolchain.linker_version);
        return Ok(());
    }
    if has("apt-get") {
        debian(&wanted)?;
    } else {
        rustup()?;
    }
    let toolchain = Toolchain::find().context("installed, but still not usable")?;
    println!("   the BPF toolchain is there now: {}, {}", toolchain.rustc, toolchain.linker_version);
    if is_older(&toolchain.rustc, &wanted) {
        println!("   note: the committed object was built by rustc {wanted}: this one builds other bytes");
    }
    Ok(())
}

/// Whether `rustc 1.95.0 (…)`, or the version of a package, is older than `wanted`.
fn is_older(rustc: &str, wanted: &str) -> bool {
    let version = |text: &str| -> Vec<u32> {
        let text = text.trim_start_matches("rustc ");
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        text[..end].split('.').map_while(|part| part.parse().ok()).collect()
    };
    version(rustc) < version(wanted)
}

/// Debian's compiler that follows Rust's releases, with the source of `core`, and a linker with the same LLVM.
fn debian(wanted: &str) -> anyhow::Result<()> {
    // Old package lists name old compilers, which install just as well.
    if candidate("rustc-web")?.is_none_or(|version| is_older(&version, wanted)) || lists_are_old() {
        apt_update()?;
    }
    apt(&["rustc-web", "rust-web-src", "cargo-web", "build-essential"])?;
    let llvm = debian_llvm_major()?;
    apt(&[&format!("llvm-{llvm}-dev"), &format!("libclang-{llvm}-dev")])?;
    linker(&llvm, &format!("/usr/lib/llvm-{llvm}"))
}

/// The version of a package that apt would install.
fn candidate(package: &str) -> anyhow::Result<Option<String>> {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    let output = output.context("cannot run apt-cache policy")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.filter(|version| *version != "(none)").map(str::to_owned))
}

/// Whether nobody has updated the package lists for a day.
fn lists_are_old() -> bool {
    const OLD: Duration = Duration::from_secs(24 * 3600);
    let updated = std::fs::metadata("/var/lib/apt/lists").and_then(|metadata| metadata.modified());
    updated.map_or(true, |updated| updated.elapsed().is_ok_and(|age| age > OLD))
}

fn rustup() -> anyhow::Result<()> {
    if !has("rustup") {
        bail!("rustup is needed on this system: install it from https://rustup.rs, then run this again");
    }
    println!("   installing with rustup: nightly, with rust-src");
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    quiet("rustup toolchain install nightly", &mut install)?;
    if has("bpf-linker") {
        return Ok(());
    }
    bail!(
        "bpf-linker {LINKER_VERSION} is missing: install it with `cargo binstall bpf-linker@{LINKER_VERSION}`, or, \
         with the development files of the LLVM that nightly uses (`rustup run nightly rustc -vV` names it), \
         with `cargo install bpf-linker --version {LINKER_VERSION} --no-default-features --features llvm-22`; then \
         run this again"
    )
}

fn linker(llvm: &str, prefix: &str) -> anyhow::Result<()> {
    println!("   installing with cargo: bpf-linker {LINKER_VERSION}");
    let mut install = cargo();
    install.env("LLVM_PREFIX", prefix);
    install.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
    install.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    quiet("cargo install bpf-linker", &mut install).map(drop)
}

#[cfg(test)]
mod tests {
    use super::is_older;

    #[test]
    fn versions_of_compilers_and_packages() {
        for (version, expected) in [
            ("rustc 1.96.0 (ac68faa20 2026-05-25), LLVM 22.1.8", false),
            ("1.96.0+dfsg1-1~deb12u2", false),
            ("1.100.0+dfsg1-1", false),
            ("rustc 1.95.1 (x)", true),
            ("1.78.0+dfsg1-2~deb12u3", true),
            ("", true),
        ] {
            assert_eq!(is_older(version, "1.96.0"), expected, "{version}");
        }
    }
}
