//! `cargo xtask setup`: installs the toolchain that rebuilds the BPF object.

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    crate::install::test_tools()
}
