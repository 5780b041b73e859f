//! Measures what interception costs, beside no proxy and beside the proxies that people would put there instead.
//! Rows alternate round by round, each with a fresh process. `cargo xtask bench` builds and starts this program.
#![expect(clippy::print_stdout, reason = "the table is for the person who started it")]

mod busy;
mod carry;
mod client;
mod connect;
mod cpu;
mod gateway;
mod job;
mod lab;
mod machine;
mod node;
mod peers;
mod plot;
mod pod;
mod report;
mod row;
mod scale;
mod sink;
mod web;
mod window;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use crate::report::Report;
use crate::row::Row;
use crate::workload::{Effort, Stage, Workload};

/// Measures connect(), HTTP, TLS origination, opaque TCP, memory and an agent: the interceptor beside other ways
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(
    after_help = "Example:\n  cargo xtask bench --workload keepalive,originate --rounds 3 --against nginx,envoy"
)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    args: Args,
}

/// What this program is, when it starts itself.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Client,
    #[command(hide = true)]
    Sink,
}

#[derive(Debug, clap::Args)]
struct Args {
    /// Only these workloads
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', num_args = 1..)]
    workload: Vec<Workload>,
    /// How often each row is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// What to compare with
    #[arg(long, value_name = "PEER,…", value_delimiter = ',', num_args = 1.., default_value = "direct,envoy,nginx,haproxy")]
    against: Vec<Against>,
    /// One short round of each: shows that it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Where to write the figures (JSON; tables and plots go beside it as .md and .svg) [default: docs/benchmarks/latest.json
    /// for a whole run, bench/last.json below the target directory for a part or a quick one]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Args {
    /// What the documentation shows must not be replaced by a part, or by figures that were taken in a hurry.
    fn out(&self) -> anyhow::Result<PathBuf> {
        if let Some(out) = &self.out {
            ensure!(!out.is_dir(), "--out {}: expected a file's name, this is a directory", out.display());
            return Ok(out.clone());
        }
        if self.workload.is_empty() && self.against.len() == Against::value_variants().len() && !self.quick {
            return Ok(PathBuf::from("docs/benchmarks/latest.json"));
        }
        Ok(row::target_dir()?.join("bench/last.json"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Against {
    Direct,
    Envoy,
    Nginx,
    Haproxy,
}

impl Against {
    fn row(self) -> Row {
        match self {
            Self::Direct => Row::Direct,
            Self::Envoy => Row::Envoy,
            Self::Nginx => Row::Nginx,
            Self::Haproxy => Row::Haproxy,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.role {
        Some(Role::Client) => client::serve(),
        Some(Role::Sink) => sink::serve(),
        None => bench(&cli.args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> anyhow::Result<()> {
    let started = Instant::now();
    let out = args.out()?;
    machine::allow_many_files()?;
    let against: Vec<Row> = args.against.iter().map(|against| against.row()).collect();
    let workloads = if args.workload.is_empty() { Workload::ALL.to_vec() } else { args.workload.clone() };
    let rounds = if args.quick { 1 } else { usize::from(args.rounds) };
    let effort = if args.quick {
        Effort { seconds: 1, connects: 1000, download_bytes: 512 << 20 }
    } else {
        Effort { seconds: 2, connects: 5000, download_bytes: 2 << 30 }
    };
    let mut report = Report::new(machine::versions()?);
    for (name, version) in &report.versions {
        println!("{name}: {version}");
    }
    let stage = Stage::new().context("cannot build the namespaces")?;
    let mut tables = Vec::new();
    for workload in workloads {
        println!("\n{}", workload.title());
        for round in 1..=rounds {
            println!("  round {round} of {rounds} …");
            for (row, measured) in workload.round(&stage, &against, effort) {
                report.add(workload, row, round, measured);
            }
        }
        let table = report.finish(workload);
        println!("{table}");
        tables.push((workload, table));
    }
    report.write(&out, &tables)?;
    println!("Figures: {}  ({:.0} s)", out.display(), started.elapsed().as_secs_f64());
    let failures = report.failures();
    ensure!(failures.is_empty(), "some rounds failed:\n  {}", failures.join("\n  "));
    Ok(())
}
