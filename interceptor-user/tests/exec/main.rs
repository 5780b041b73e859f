//! `interceptor exec` in a terminal under a shell with job control, killed at any moment, and on a host whose addresses
//! change. Needs root.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

mod addresses;
mod killed;
mod terminal;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_interceptor");
const DEADLINE: Duration = Duration::from_secs(60);

fn exec(command: &[&str]) -> Command {
    let mut interceptor = Command::new(BINARY);
    interceptor.arg("exec").arg("--").args(command);
    interceptor
}

/// Makes a network with one address of ours and nobody else, in a namespace of its own.
const QUIET_NETWORK: &str = "ip link set lo up && ip link add quiet type veth && ip link set veth0 up \
    && ip address add 198.51.100.1/24 dev quiet && ip link set quiet up && exec \"$@\"";

fn in_quiet_network(command: &Command) -> Command {
    let mut inside = Command::new("unshare");
    inside
        .args(["--net", "sh", "-c", QUIET_NETWORK, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    inside
}

/// Polls until there is a value; panics at the deadline, naming what was waited for.
#[track_caller]
fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The cgroup directory that the command's own /proc/self/cgroup line names, without its last part.
fn directory_of(cgroup_line: &str) -> PathBuf {
    let path = cgroup_line.trim().strip_prefix("0::").expect("a line of cgroup v2");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mount =
        mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2 is mounted");
    let point = mount.split(' ').nth(1).expect("a mount point");
    let command = Path::new(point).join(path.trim_start_matches('/'));
    command.parent().expect("it is not the root").to_owned()
}

/// Ids of processes whose command line is exactly this.
fn processes(arguments: &[&str]) -> Vec<i32> {
    let wanted: Vec<u8> = arguments.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|id| std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|text| text == wanted)).collect()
}
