//! `cargo xtask setup`: installs the toolchain that rebuilds the BPF object. Nobody else needs it: the object is
//! committed. Prints each thing before it is installed; quick when all is there.

use std::process::Command;

use anyhow::{Context, bail};

use crate::ebpf::toolchain::{LINKER_VERSION, Toolchain, debian_llvm_major};
use crate::install::apt;
use crate::shell::{cargo, has, quiet};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    if let Ok(toolchain) = Toolchain::find() {
        println!("   the BPF toolchain is there: {}, {}", toolchain.rustc, toolchain.linker_version);
        return Ok(());
    }
    if has("apt-get") {
        debian()?;
    } else {
        rustup()?;
    }
    let toolchain = Toolchain::find().context("installed, but still not usable")?;
    println!("   the BPF toolchain is there now: {}, {}", toolchain.rustc, toolchain.linker_version);
    Ok(())
}

/// Debian's compiler that follows Rust's releases, with the source of `core`, and a linker with the same LLVM.
fn debian() -> anyhow::Result<()> {
    apt(&["rustc-web", "rust-web-src", "cargo-web", "build-essential"])?;
    let llvm = debian_llvm_major()?;
    apt(&[&format!("llvm-{llvm}-dev"), &format!("libclang-{llvm}-dev")])?;
    linker(&llvm, &format!("/usr/lib/llvm-{llvm}"))
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
