//! Stops when the command stops, so that the shell that started us notices, and continues it when we are continued.

use std::fs::{self, File};

use anyhow::Context;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpgid, getpgrp, getpid, kill_process, kill_process_group, waitid,
};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// What stops a whole process group from a terminal.
const BY_TERMINAL: [Signal; 3] = [Signal::TSTP, Signal::TTIN, Signal::TTOU];

/// Whether the command is still where it was started: then what the terminal sends us reaches it as well.
pub(super) fn is_in_our_group(command: Pid) -> bool {
    getpgid(Some(command)).is_ok_and(|group| group == getpgrp())
}

/// To be called when the command may have stopped. A SIGSTOP sent to it alone is left alone, because who sends that
/// sends SIGCONT there as well.
pub(super) fn stop_with(command: Pid) -> anyhow::Result<()> {
    let Some(signal) = news_of_stop(command) else { return Ok(()) };
    if is_in_our_group(command) {
        if BY_TERMINAL.iter().any(|by| by.as_raw() == signal) {
            stop_with_group(command)?;
        }
    } else if let Some(held) = HeldTerminal::by_group_of(command) {
        stop_ourselves()?;
        held.give_back()?;
    }
    Ok(())
}

/// A shell continues the whole group. Only if somebody continued us alone the command is ours to continue: a second
/// SIGCONT would undo a Ctrl-Z that came since.
fn stop_with_group(command: Pid) -> anyhow::Result<()> {
    loop {
        stop_ourselves()?;
        let is_stopped = is_stopped(command);
        let stopped_again = news_of_stop(command).is_some();
        if !stopped_again {
            if is_stopped {
                kill_process(command, Signal::CONT).context("can't continue the command")?;
            }
            return Ok(());
        }
    }
}

/// By which signal the command has stopped, told once for every stop.
fn news_of_stop(command: Pid) -> Option<i32> {
    let status = waitid(WaitId::Pid(command), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
    status.ok().flatten()?.stopping_signal()
}

fn stop_ourselves() -> anyhow::Result<()> {
    kill_process(getpid(), Signal::STOP).context("can't stop")
}

/// The process's state, after its name in brackets.
fn is_stopped(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid()));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}

/// A terminal whose foreground group has stopped, as when a shell suspends itself: dead for whoever types, until the
/// shell that started us takes it.
struct HeldTerminal {
    terminal: File,
    group: Pid,
}

impl HeldTerminal {
    fn by_group_of(command: Pid) -> Option<Self> {
        let terminal = File::open("/dev/tty").ok()?;
        let group = getpgid(Some(command)).ok()?;
        (tcgetpgrp(&terminal).ok()? == group).then_some(Self { terminal, group })
    }

    /// When we were continued in the foreground the terminal is the group's again, as it left it.
    fn give_back(self) -> anyhow::Result<()> {
        if tcgetpgrp(&self.terminal).is_ok_and(|group| group == getpgrp()) {
            tcsetpgrp(&self.terminal, self.group).context("can't give the terminal to the command")?;
        }
        kill_process_group(self.group, Signal::CONT).context("can't continue the command")
    }
}
