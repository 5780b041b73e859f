//! What the fixed paths of a request cost: instructions and allocations, counted by valgrind, so that the answer is the
//! same on a busy machine. `cargo xtask paths` starts this program, and `cargo xtask test` with it.
//!
//! Counted is a process with nothing but the proxy in it, on one thread; its client and its server are outside.
#![expect(clippy::print_stdout, reason = "the table is for the person who started it")]

mod callgrind;
mod carrier;
mod path;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};

use crate::path::Path;

/// How much more a path may cost than it did, in parts of that.
const GROWTH_MAX: f64 = 0.1;
/// Where what paths cost is written down.
const RECORD: &str = "docs/benchmarks/paths.json";

/// Counts what each path of a request costs, and fails when one has grown by a tenth
#[derive(Debug, Parser)]
#[command(name = "cargo xtask paths", args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(
    after_help = "Examples:\n  cargo xtask paths\n  cargo xtask paths --write      write down what they cost now"
)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    /// Write down what the paths cost now, instead of comparing
    #[arg(long)]
    write: bool,
}

/// What this program is, when it starts itself.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Carry { path: Path, server: SocketAddr },
}

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    counted_with: String,
    paths: BTreeMap<String, Cost>,
}

/// What one request or connection costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.role {
        Some(Role::Carry { path, server }) => carrier::carry(path, server),
        None => compare(cli.write),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paths: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(write: bool) -> anyhow::Result<()> {
    let record = PathBuf::from(RECORD);
    let counted = Record { counted_with: counted_with()?, paths: count()? };
    if write {
        let text = serde_json::to_string_pretty(&counted).context("cannot write JSON")?;
        std::fs::write(&record, text + "\n").with_context(|| format!("cannot write {}", record.display()))?;
    }
    let text =
        std::fs::read_to_string(&record).with_context(|| format!("cannot read {}", record.display()))?;
    let before: Record = serde_json::from_str(&text)
        .with_context(|| format!("{} is not what --write writes", record.display()))?;
    let mut grown = Vec::new();
    for (name, cost) in &counted.paths {
        let Some(before) = before.paths.get(name) else {
            bail!("{} has no `{name}`: write it down with `cargo xtask paths --write`", record.display());
        };
        println!(
            "{name:<12} {:>9.0} instructions (before {:.0})   {:>6.1} allocations (before {:.1})",
            cost.instructions, before.instructions, cost.allocations, before.allocations
        );
        grown.extend(growth(name, *before, *cost));
    }
    if !grown.is_empty() {
        let other = if before.counted_with == counted.counted_with {
            String::new()
        } else {
            format!(
                " (counted before with {}, now with {}, which may be why)",
                before.counted_with, counted.counted_with
            )
        };
        bail!(
            "{}{other}; if that is what it has to cost, write it down with `cargo xtask paths --write` and say so in the \
             commit",
            grown.join("; ")
        );
    }
    Ok(())
}

/// Every path, all at a time: they wait for each other's processes more than they compute.
fn count() -> anyhow::Result<BTreeMap<String, Cost>> {
    let counted: Vec<anyhow::Result<Cost>> = std::thread::scope(|scope| {
        let running: Vec<_> = Path::ALL.iter().map(|path| scope.spawn(|| path.cost())).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect()
    });
    let named = |(path, cost): (&Path, anyhow::Result<Cost>)| {
        Ok((path.to_string(), cost.with_context(|| format!("cannot count {path}"))?))
    };
    Path::ALL.iter().zip(counted).map(named).collect()
}

/// The compiler and the C library: another one of either makes other counts of the same source.
fn counted_with() -> anyhow::Result<String> {
    let first_line = |program: &str| -> anyhow::Result<String> {
        let output = Command::new(program).arg("--version").output();
        let output = output.with_context(|| format!("cannot run {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    Ok(format!("{}, {}", first_line("rustc")?, first_line("ldd")?))
}

/// What of a path has grown too much.
fn growth(name: &str, before: Cost, now: Cost) -> Option<String> {
    let allowed = 1.0 + GROWTH_MAX;
    if now.instructions > before.instructions * allowed {
        let (now, before) = (now.instructions, before.instructions);
        return Some(format!("`{name}` takes {now:.0} instructions where it took {before:.0}"));
    }
    if now.allocations > before.allocations * allowed {
        let (now, before) = (now.allocations, before.allocations);
        return Some(format!("`{name}` allocates {now:.1} times where it did {before:.1}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_more_is_too_much() {
        let before = Cost { instructions: 1000.0, allocations: 20.0 };
        for (instructions, allocations, fails) in
            [(1000.0, 20.0, false), (1099.0, 21.0, false), (1101.0, 20.0, true), (900.0, 23.0, true)]
        {
            let now = Cost { instructions, allocations };
            assert_eq!(growth("x", before, now).is_some(), fails, "{now:?}");
        }
    }
}
