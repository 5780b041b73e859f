//! cargo-deny: licences, banned and duplicate crates, sources, and advisories (deny.toml).

use std::path::PathBuf;
use std::process::Command;

use crate::shell::{self, cargo, quiet};

/// What must hold without a network.
pub(crate) const CHECKS: &[&str] = &["licenses", "bans", "sources"];

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
    quiet(&format!("cargo deny check {what}"), &mut command(what)).map(drop)
}

/// The advisories are a database on the network: that it can't be fetched is said, and is no failure of ours.
pub(crate) fn advisories(tell: impl FnOnce(anyhow::Result<()>)) -> anyhow::Result<()> {
    let output = command("advisories").output()?;
    if output.status.success() {
        println!("   cargo deny check advisories: done");
        tell(Ok(()));
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("failed to fetch advisory database") || said.contains("failed to load advisory database")
    {
        println!(
            "   NOT CHECKED: advisories. The database could not be fetched (no network?): run this again with one"
        );
        return Ok(());
    }
    said.lines().for_each(|line| println!("      {line}"));
    tell(Err(anyhow::anyhow!("a dependency has a known problem")));
    Ok(())
}

fn command(what: &str) -> Command {
    let mut command = program().unwrap_or_else(|| Command::new("cargo-deny"));
    command.current_dir(shell::root()).args(["--all-features", "check", "--hide-inclusion-graph", what]);
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
