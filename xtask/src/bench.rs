//! `cargo xtask bench`: measures what interception costs.

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the benchmark is not built yet")
}
