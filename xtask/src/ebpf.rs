//! `cargo xtask ebpf`: rebuilds the committed BPF object from its source.

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compare only: fail when the committed object is not what its source builds to
    #[arg(long)]
    pub(crate) check: bool,
}

pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the BPF build is not set up yet")
}
