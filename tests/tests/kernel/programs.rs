//! What the verifier says of the programs, against what is recorded.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, bail, ensure};
use interceptor_user::datapath::Datapath;

/// Set to write the record anew.
const RECORD: &str = "RECORD_INSTRUCTIONS";

fn record_path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../interceptor-ebpf/bpf/instructions.txt"))
}

/// One `program count` a line; other lines begin with `#`.
fn parse(text: &str) -> anyhow::Result<BTreeMap<String, u32>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (program, count) = line.split_once(' ').with_context(|| format!("not a record: {line:?}"))?;
            Ok((program.to_owned(), count.parse()?))
        })
        .collect()
}

fn write(counts: &BTreeMap<String, u32>) -> anyhow::Result<()> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut text = format!(
        "# Instructions that the verifier followed (kernel {kernel}). A test fails when one grows by a quarter.\n\
         # Recorded by: {RECORD}=1 cargo test -p interceptor-tests --test kernel programs\n"
    );
    for (program, count) in counts {
        text.push_str(&format!("{program} {count}\n"));
    }
    fs::write(record_path(), text).context("cannot write the record")
}

#[test]
fn no_program_grows_by_a_quarter() -> anyhow::Result<()> {
    let counts = Datapath::load()?.verified_instructions()?;
    ensure!(!counts.is_empty(), "this kernel does not tell how many instructions it verified; 5.16 does");
    if std::env::var_os(RECORD).is_some() {
        return write(&counts);
    }
    let text =
        fs::read_to_string(record_path()).with_context(|| format!("no record; run with {RECORD}=1"))?;
    let recorded = parse(&text)?;
    let names: (Vec<_>, Vec<_>) = (counts.keys().collect(), recorded.keys().collect());
    ensure!(
        names.0 == names.1,
        "other programs than recorded: {names:?}; run with {RECORD}=1 to record them"
    );
    for (program, &count) in &counts {
        let before = recorded[program];
        if count * 4 > before * 5 {
            bail!(
                "{program} grew from {before} to {count} verified instructions, more than a quarter: find out why; \
                 if it is worth it, record it anew with {RECORD}=1 cargo test -p interceptor-tests --test kernel \
                 programs, and say why in the commit"
            );
        }
    }
    Ok(())
}
