//! `cargo xtask ebpf`: rebuilds the committed BPF object from its source, or says whether it is what the source
//! builds to. Beside the object lies a record of what built it: other compilers give other bytes.

mod record;
mod strip;
pub(crate) mod toolchain;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use crate::shell::{self, quiet};
use record::Record;
use toolchain::Toolchain;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compare only: fail when the committed object is not what its source builds to
    #[arg(long)]
    pub(crate) check: bool,
    /// Build an object that logs every decision, for `cargo build --features log`; the committed one stays
    #[arg(long, conflicts_with = "check")]
    pub(crate) log: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let toolchain = Toolchain::find()
        .context("the BPF object can't be built here; `cargo xtask setup` installs what is missing")?;
    match args {
        Args { check: true, .. } => check(&toolchain),
        Args { log: true, .. } => build_logging(&toolchain),
        Args { .. } => rebuild(&toolchain),
    }
}

/// The version of the compiler that built the committed object: `1.96.0`.
pub(crate) fn compiler_of_record() -> anyhow::Result<String> {
    let record = Record::read()?;
    let version = record.built_by.strip_prefix("rustc ").and_then(|rest| rest.split(' ').next());
    version.map(str::to_owned).with_context(|| format!("no version of rustc in `{}`", record.built_by))
}

fn build_logging(toolchain: &Toolchain) -> anyhow::Result<()> {
    let object = build(toolchain, &["log"])?;
    let path = directory().join("target/interceptor-log.bpf.o");
    fs::write(&path, &object).with_context(|| format!("cannot write {}", path.display()))?;
    println!(
        "   {}: {} bytes; run what embeds it with `cargo run --features log`",
        path.display(),
        object.len()
    );
    Ok(())
}

fn rebuild(toolchain: &Toolchain) -> anyhow::Result<()> {
    let object = build(toolchain, &[])?;
    let path = object_path();
    fs::create_dir_all(directory().join("bpf")).context("cannot make interceptor-ebpf/bpf")?;
    fs::write(&path, &object).with_context(|| format!("cannot write {}", path.display()))?;
    Record::new(toolchain, &object)?.write()?;
    println!(
        "   interceptor-ebpf/bpf/interceptor.bpf.o: {} bytes, built by {}",
        object.len(),
        toolchain.rustc
    );
    Ok(())
}

fn check(toolchain: &Toolchain) -> anyhow::Result<()> {
    let mut format = shell::cargo();
    format.current_dir(directory()).args(["fmt", "--check"]);
    quiet("cargo fmt of interceptor-ebpf", &mut format)?;
    let committed = fs::read(object_path()).context("cannot read interceptor-ebpf/bpf/interceptor.bpf.o")?;
    let recorded = Record::read()?;
    let current = Record::new(toolchain, &committed)?;
    if recorded.object != current.object {
        bail!(
            "the BPF object is not the one that was recorded: run `cargo xtask ebpf` and commit what it writes"
        );
    }
    if recorded.source != current.source {
        bail!("the BPF object is older than its source: run `cargo xtask ebpf` and commit what it writes");
    }
    if recorded.built_by != current.built_by {
        bail!(
            "the BPF object was built by {}, but here is {}, which may give other bytes: install the former, or \
             run `cargo xtask ebpf` and commit what it writes",
            recorded.built_by,
            current.built_by
        );
    }
    if build(toolchain, &[])? != committed {
        bail!(
            "the BPF object differs from what its source builds to: run `cargo xtask ebpf` and commit what it writes"
        );
    }
    println!("   the BPF object is what its source builds to");
    Ok(())
}

/// The object as it is committed: only what the loader needs, and the same bytes in whatever directory.
fn build(toolchain: &Toolchain, features: &[&str]) -> anyhow::Result<Vec<u8>> {
    let target = directory().join("target");
    let mut command = toolchain.cargo();
    command
        .current_dir(directory())
        .args(["build", "--release", "--locked", "--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .args(["--features", &features.join(",")])
        .arg("--target-dir")
        .arg(&target);
    without_callers_settings(&mut command);
    // One object serves all: the programs read nothing that differs between machines but byte order.
    command.env("AYA_BPF_TARGET_ARCH", "x86_64");
    command.env("RUSTFLAGS", rustflags(toolchain)?);
    quiet("building the BPF object", &mut command)?;
    let built = target.join("bpfel-unknown-none/release/interceptor");
    let built = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    strip::strip(&built).context("the BPF linker wrote something that is no BPF object")
}

/// Debug information becomes BTF, which the maps of socket storage need; paths in it must not name this machine.
fn rustflags(toolchain: &Toolchain) -> anyhow::Result<String> {
    let mut flags = vec![
        format!("-C linker={}", toolchain.linker.display()),
        "-C debuginfo=2 -C link-arg=--btf".to_owned(),
    ];
    let mut remap =
        |from: PathBuf, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    remap(shell::root(), ".");
    remap(toolchain.std_sources.clone(), "rust");
    for entry in fs::read_dir(toolchain.registry()?).context("cannot list cargo's registry")? {
        remap(entry.context("cannot list cargo's registry")?.path(), "crates");
    }
    Ok(flags.join(" "))
}

/// What `cargo xtask` itself was started with is about another toolchain.
fn without_callers_settings(command: &mut Command) {
    let inherited = ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"];
    for name in inherited {
        command.env_remove(name);
    }
}

fn directory() -> PathBuf {
    shell::root().join("interceptor-ebpf")
}

fn object_path() -> PathBuf {
    directory().join("bpf/interceptor.bpf.o")
}
