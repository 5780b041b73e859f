//! `cargo xtask test`: installs what is missing, builds, and runs every check and every test. It goes on after a
//! failure, so that one run shows them all; its last line is `N passed, N failed`.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::shell::{self, cargo, quiet};
use crate::{deny, ebpf, install, manifests, paths, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the tests whose names contain this, and no other checks
    filter: Option<String>,
}

/// What has passed and failed so far: each check counts as one, each test as one.
#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    failed: Vec<String>,
}

impl Tally {
    fn check(&mut self, title: &str, done: anyhow::Result<()>) {
        match done {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("   FAILED {title}: {error:#}");
                self.failed.push(title.to_owned());
            }
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let started = Instant::now();
    if !shell::is_root() {
        bail!(
            "the tests make network namespaces and cgroups and load BPF programs: run this as root \
             (sudo -E env PATH=\"$PATH\" cargo xtask test), or in a throw-away machine"
        );
    }
    println!("Looking for what the tests need");
    install::test_tools()?;
    install::rust_components()?;

    let mut tally = Tally::default();
    if args.filter.is_none() {
        println!("Checking the sources");
        tally.check("formatting", quiet("cargo fmt", cargo().args(["fmt", "--all", "--check"])).map(drop));
        let mut clippy = cargo();
        clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
        tally.check("clippy", quiet("cargo clippy", &mut clippy).map(drop));
    }

    println!("Building");
    quiet("cargo build", cargo().args(["build", "--workspace", "--bins"]))?;
    quiet("cargo test, building", cargo().args(["test", "--workspace", "--no-run"]))?;
    println!("Testing");
    tests(args.filter.as_deref(), &mut tally)?;
    if args.filter.is_none() {
        println!("Counting what a request costs");
        tally.check("paths", quiet("cargo xtask paths", &mut paths::command()).map(drop));
    }

    if args.filter.is_none() {
        println!("Comparing the BPF object with its source");
        setup::run(setup::Args {})?;
        tally.check("BPF object", ebpf::run(ebpf::Args { check: true, log: false }));
        println!("Comparing the manifests with their chart");
        tally.check("manifests", manifests::run(manifests::Args { check: true }));
        println!("Checking the dependencies");
        deny::install()?;
        for check in deny::CHECKS {
            tally.check(check, deny::check(check));
        }
        deny::advisories(|done| tally.check("advisories", done))?;
    }

    let minutes = started.elapsed().as_secs_f64() / 60.0;
    println!("\nFinished in {minutes:.1} minutes");
    for name in &tally.failed {
        println!("   failed: {name}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed.len());
    if !tally.failed.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

/// Runs every test program; one line for each, and the whole output of those with failures.
fn tests(filter: Option<&str>, tally: &mut Tally) -> anyhow::Result<()> {
    // Started in the background, we may have signals ignored, which children inherit; some tests send them.
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(cargo().get_program()).current_dir(shell::root());
    command.args(["test", "--workspace", "--no-fail-fast"]).args(filter);
    command.env("INTERCEPTOR_BIN", shell::target_dir().join("debug/interceptor"));
    command.env("RUST_BACKTRACE", "0");
    let mut program = Program::default();
    let mut cut_short = None;
    let ended = shell::each_line("the tests", &mut command, |line| {
        if let Some(name) = started_program(line) {
            // A program that ends without a result was ended by a signal, or never ran.
            if let Some(name) = std::mem::replace(&mut program, Program::named(name)).unfinished() {
                cut_short = Some(name);
            }
            return;
        }
        program.lines.push(line.to_owned());
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            tally.failed.push(format!("{}: {name}", program.name));
        }
        if line.starts_with("test result: ") {
            let passed = counted(line, " passed");
            tally.passed += passed;
            let failed = counted(line, " failed");
            if passed + failed > 0 {
                println!("   {}: {passed} passed, {failed} failed in {}", program.name, duration(line));
            }
            if failed > 0 {
                program
                    .lines
                    .iter()
                    .filter(|line| !line.ends_with(" ... ok"))
                    .for_each(|line| println!("      {line}"));
            }
            program = Program::default();
        }
    });
    for name in cut_short.into_iter().chain(program.unfinished()) {
        tally.failed.push(format!("{name}: ended before its result"));
    }
    match ended {
        Err(error) if tally.failed.is_empty() => Err(error).context("the tests did not run"),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A test program and what it has printed.
#[derive(Debug, Default)]
struct Program {
    name: String,
    lines: Vec<String>,
}

impl Program {
    fn named(name: String) -> Self {
        Self { name, lines: Vec::new() }
    }

    fn unfinished(self) -> Option<String> {
        if self.name.is_empty() {
            return None;
        }
        self.lines.iter().for_each(|line| println!("      {line}"));
        Some(self.name)
    }
}

/// `     Running tests/http.rs (target/debug/deps/http-0123)` and `   Doc-tests name` start a program.
fn started_program(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(rest) = line.strip_prefix("Running ") {
        // `unittests src/lib.rs` does not say of which package; the program's own name does.
        let file = rest.rsplit('/').next().unwrap_or(rest).trim_end_matches(')');
        let package = file.rsplit_once('-').map_or(file, |(name, _)| name);
        let source = rest.split(" (").next().unwrap_or(rest);
        return Some(match source.strip_prefix("unittests ") {
            Some(_) => format!("{package} (unit tests)"),
            None => source.to_owned(),
        });
    }
    line.strip_prefix("Doc-tests ").map(|name| format!("{name} (documentation)"))
}

/// The number before a word of a result line.
fn counted(line: &str, word: &str) -> u32 {
    line.split(word)
        .next()
        .and_then(|before| before.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

fn duration(line: &str) -> &str {
    line.rsplit("finished in ").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 1.20s";
        assert_eq!((counted(line, " passed"), counted(line, " failed"), duration(line)), (12, 3, "1.20s"));
    }

    #[test]
    fn programs_have_names() {
        for (line, name) in [
            ("     Running tests/http.rs (target/debug/deps/http-0123abcd)", Some("tests/http.rs")),
            (
                "     Running unittests src/lib.rs (target/debug/deps/interceptor_user-01)",
                Some("interceptor_user (unit tests)"),
            ),
            ("   Doc-tests interceptor_user", Some("interceptor_user (documentation)")),
            ("running 3 tests", None),
        ] {
            assert_eq!(started_program(line).as_deref(), name, "{line}");
        }
    }
}
