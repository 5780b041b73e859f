//! Runs a command under callgrind and reads what it counted.

use std::collections::HashSet;
use std::path::Path as File;
use std::process::Command;

use anyhow::{Context, ensure};

/// What a whole process did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Counts {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
}

/// Functions that each call of is an allocation.
const ALLOCATING: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];

/// `program` under callgrind, which writes its counts to `out`.
pub(crate) fn command(program: &File, out: &File) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--tool=callgrind", "--compress-pos=no", "--compress-strings=yes"]);
    command.arg(format!("--callgrind-out-file={}", out.display())).arg(program);
    command
}

pub(crate) fn read(out: &File) -> anyhow::Result<Counts> {
    let text = std::fs::read_to_string(out).with_context(|| format!("cannot read {}", out.display()))?;
    let counts = counts(&text).with_context(|| format!("{} has no totals", out.display()))?;
    ensure!(
        counts.allocations > 0.0,
        "no allocation was seen: is the program linked with malloc of its own?"
    );
    Ok(counts)
}

/// Reads Callgrind's format (its manual, "Callgrind Format Specification"): names stand in full where they come first,
/// and as their numbers from then on.
fn counts(text: &str) -> Option<Counts> {
    let mut allocating = HashSet::new();
    let (mut instructions, mut allocations, mut is_allocation) = (None, 0.0, false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
            let (number, name) = name.split_once(' ').unwrap_or((name, ""));
            // A function that calls itself is numbered anew by an apostrophe and a level.
            let name = name.split('\'').next().unwrap_or(name);
            if ALLOCATING.contains(&name) {
                allocating.insert(number.to_owned());
            }
            is_allocation = line.starts_with("cfn=") && allocating.contains(number);
        } else if let Some(calls) = line.strip_prefix("calls=") {
            let count = calls.split(' ').next()?.parse::<f64>().ok()?;
            allocations += if is_allocation { count } else { 0.0 };
        } else if let Some(totals) = line.strip_prefix("totals: ") {
            instructions = totals.trim().parse().ok();
        }
    }
    Some(Counts { instructions: instructions?, allocations })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_malloc_are_allocations() {
        let text = "fn=(1) main\n1 5\ncob=(2) /lib/libc.so\ncfn=(7) malloc\ncalls=3 0\n1 90\ncfn=(8) free\ncalls=9 0\n1 9\n\
                    fn=(2) other\ncfn=(7)\ncalls=2 0\n1 4\nfn=(7)\n0 3\ncfn=(9) calloc'2\ncalls=1 0\n0 1\ntotals: 1234\n";
        assert_eq!(counts(text), Some(Counts { instructions: 1234.0, allocations: 6.0 }));
        assert_eq!(counts("fn=(1) main\n"), None);
    }
}
