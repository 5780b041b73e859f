//! cargo-deny: licences, banned and duplicate crates, sources, and advisories (deny.toml).

use std::path::PathBuf;
use std::process::Command;

use crate::shell::{self, cargo, quiet};

/// What must hold without a network.
pub(crate) const CHECKS: &[&str] = &["licenses", "bans", "sources"];

/// The workspace, and the BPF programs with their own lock file.
const TREES: &[&str] = &["Cargo.toml", "interceptor-ebpf/Cargo.toml"];

const VERSION: &str = "0.20.2";

/// Installs it below target/tools unless it is there, or in PATH.
pub(crate) fn install() -> anyhow::Result<()> {
    if program().is_some() {
        return Ok(());
    }
    println!("   installing cargo-deny {VERSION} into target/tools (some minutes, once)");
    let root = shell::target_dir().join("tools");
    let mut command = cargo();
    command.args(["install", "cargo-deny", "--locked", "--version", VERSION, "--root"]).arg(root);
    quiet("cargo install cargo-deny", &mut command).map(drop)
}

pub(crate) fn check(what: &str) -> anyhow::Result<()> {
    for tree in TREES {
        quiet(&format!("cargo deny check {what} ({tree})"), &mut command(tree, what))?;
    }
    Ok(())
}

/// The advisories are a database on the network: that it can't be fetched is said, and is no failure of ours.
pub(crate) fn advisories(tell: impl FnOnce(anyhow::Result<()>)) -> anyhow::Result<()> {
    for tree in TREES {
        println!("   cargo deny check advisories ({tree}) …");
        let output = command(tree, "advisories").output()?;
        if output.status.success() {
            continue;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if ["failed to fetch advisory", "failed to load advisory"].iter().any(|words| said.contains(words)) {
            println!(
                "   NOT CHECKED: advisories. Their database can't be fetched; run this again with a network"
            );
            return Ok(());
        }
        said.lines().for_each(|line| println!("      {line}"));
        tell(Err(anyhow::anyhow!("a dependency has a known problem")));
        return Ok(());
    }
    tell(Ok(()));
    Ok(())
}

fn command(tree: &str, what: &str) -> Command {
    let root = shell::root();
    let mut command = program().unwrap_or_else(|| Command::new("cargo-deny"));
    command.arg("--manifest-path").arg(root.join(tree)).arg("--all-features");
    command.arg("--config").arg(root.join("deny.toml"));
    command.args(["check", "--hide-inclusion-graph", what]).current_dir(root);
    command
}

fn program() -> Option<Command> {
    let own: PathBuf = shell::target_dir().join("tools/bin/cargo-deny");
    if own.is_file() {
        return Some(Command::new(own));
    }
    let version = Command::new("cargo-deny").arg("--version").output().ok()?;
    version.status.success().then(|| Command::new("cargo-deny"))
}
