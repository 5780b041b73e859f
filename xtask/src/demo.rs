//! `cargo xtask demo`: builds, then plays the scenarios on the terminal (tests/src/bin/demo.rs).

use anyhow::bail;

use crate::{install, shell};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    if !shell::is_root() {
        bail!(
            "the demo makes network namespaces and loads BPF programs: run it as root (sudo -E cargo xtask demo)"
        );
    }
    println!("Looking for what the demo needs …");
    install::demo_tools()?;
    println!("Building (a few minutes the first time) …");
    shell::run(shell::cargo().args(["build", "--bin", "interceptor", "--bin", "demo"]))?;
    let built = shell::target_dir().join("debug");
    let mut demo = std::process::Command::new(built.join("demo"));
    shell::run(demo.env("INTERCEPTOR_BIN", built.join("interceptor")))
}
