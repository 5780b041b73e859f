//! CPU time and memory of processes, as /proc tells them.

use std::fs;
use std::ops::{Add, Sub};

use anyhow::Context;

/// /proc counts CPU time in hundredths of a second (USER_HZ is 100 wherever Linux runs today).
const TICK_US: f64 = 10_000.0;

/// CPU time in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct CpuTime {
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
}

impl CpuTime {
    pub(crate) fn total_us(self) -> f64 {
        self.user_us + self.system_us
    }
}

impl Add for CpuTime {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { user_us: self.user_us + other.user_us, system_us: self.system_us + other.system_us }
    }
}

impl Sub for CpuTime {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { user_us: self.user_us - other.user_us, system_us: self.system_us - other.system_us }
    }
}

/// What a process and its threads have used, those that ended included; with `children` also what its ended
/// children have.
pub(crate) fn of_process(pid: u32, children: bool) -> anyhow::Result<CpuTime> {
    let fields = stat(pid)?;
    // utime, stime, cutime, cstime are fields 14 to 17; `fields` starts with the third.
    let time = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok());
    let read =
        |user, system| Some(CpuTime { user_us: time(user)? * TICK_US, system_us: time(system)? * TICK_US });
    let own = read(14, 15).with_context(|| format!("no CPU times in /proc/{pid}/stat"))?;
    let ended = if children { read(16, 17).unwrap_or_default() } else { CpuTime::default() };
    Ok(own + ended)
}

/// The sum over processes; one that has ended is an error, as its share would be missing.
pub(crate) fn of_processes(pids: &[u32]) -> anyhow::Result<CpuTime> {
    pids.iter().try_fold(CpuTime::default(), |sum, pid| Ok(sum + of_process(*pid, false)?))
}

/// What all processes of this machine have used, and what its hypervisor took away: everything but idle.
pub(crate) fn of_machine() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let times: Vec<f64> = line.split_whitespace().skip(1).filter_map(|text| text.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are part of user already.
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|column| times.get(*column)).sum::<f64>();
    Ok(busy * TICK_US)
}

/// `root` and everything that descends from it, without `except` and what descends from that.
pub(crate) fn tree(root: u32, except: Option<u32>) -> anyhow::Result<Vec<u32>> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .context("cannot list /proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid).ok()?.get(1)?.parse().ok()?)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        let children = parents.iter().filter(|(pid, of)| *of == parent && Some(*pid) != except);
        tree.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(tree)
}

/// The fields of /proc/PID/stat from the third on: the second is a name, which may hold spaces.
fn stat(pid: u32) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended"))?;
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

/// Memory in KiB: RSS counts pages shared between processes in each of them, PSS once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) rss_kib: f64,
    pub(crate) pss_kib: f64,
}

pub(crate) fn memory(pids: &[u32]) -> anyhow::Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
                })
                .with_context(|| format!("no {name} in {path}"))
        };
        sum.rss_kib += field("Rss:")?;
        sum.pss_kib += field("Pss:")?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_tree_has_the_children_but_not_what_is_excepted() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (own, pid) = (std::process::id(), child.id());
        assert!(tree(own, None).unwrap().contains(&pid));
        assert!(!tree(own, Some(pid)).unwrap().contains(&pid));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn work_is_counted_for_who_does_it_and_for_the_machine() {
        let (own, machine) = (of_process(std::process::id(), false).unwrap(), of_machine().unwrap());
        let spent = || of_process(std::process::id(), false).unwrap() - own;
        let mut turns = 0_u64;
        while spent().total_us() < 50_000.0 {
            turns = std::hint::black_box(turns + 1);
        }
        assert!(of_machine().unwrap() - machine >= 20_000.0);
    }
}
