//! SIGKILL to ourselves: nothing goes out unseen afterwards, and nothing stays.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{directory_of, exec, in_quiet_network, processes, wait_for};

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("the process is there");
}

/// Delays spread over what start-up takes, so that every step of it is cut at least once.
#[test]
fn at_any_moment_of_the_start_nothing_stays() {
    let mut pids = Vec::new();
    for step in 0..40 {
        let mut child =
            exec(&["sh", "-c", "sleep 1000 & exec sleep 1000"]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(step * 6));
        child.kill().unwrap();
        child.wait().unwrap();
        pids.push(child.id().to_string());
    }
    let output = exec(&["cat", "/proc/self/cgroup"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("0::")).unwrap();
    let home = directory_of(line).parent().unwrap().to_owned();
    for pid in pids {
        let directory = home.join(format!("interceptor-{pid}"));
        wait_for("the cgroup to go", || (!directory.exists()).then_some(()));
        wait_for("the watcher to go", || {
            processes(&["interceptor", "__watch", &pid]).is_empty().then_some(())
        });
    }
}

/// Says how each attempt to connect ended, for ever; a grandchild of ours, which dies of nothing but the watcher.
const ATTEMPTS: &str = "grep ^0:: /proc/self/cgroup; (while :; do (exec 3<>/dev/tcp/198.51.100.2/80) 2>&1 | \
    grep -o 'refused\\|route' || echo taken; sleep 0.02; done) & wait";

#[test]
fn connections_are_refused_until_the_command_is_gone() {
    let mut child =
        in_quiet_network(&exec(&["bash", "-c", ATTEMPTS])).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let directory = directory_of(&lines.next().unwrap());
    assert_eq!(lines.next().unwrap(), "taken", "the proxy accepts whatever becomes of it");

    // The watcher is held, so that there is time to see what the orphans can do.
    let pid = i32::try_from(child.id()).unwrap();
    let watcher = processes(&["interceptor", "__watch", &pid.to_string()])[0];
    send(watcher, Signal::STOP);
    send(pid, Signal::KILL);
    child.wait().unwrap();
    let after: Vec<String> = lines.by_ref().skip_while(|outcome| outcome == "taken").take(5).collect();
    assert_eq!(after, ["refused"; 5]);
    assert!(directory.exists());

    send(watcher, Signal::CONT);
    // The output ends with the last process that holds it.
    for outcome in lines {
        assert_eq!(outcome, "refused");
    }
    wait_for("the cgroup to go", || (!directory.exists()).then_some(()));
}

#[test]
fn without_the_watcher_the_command_is_ended() {
    let mut child = exec(&["sh", "-c", "echo ready; sleep 1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    send(processes(&["interceptor", "__watch", &child.id().to_string()])[0], Signal::KILL);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("watcher"));
}
