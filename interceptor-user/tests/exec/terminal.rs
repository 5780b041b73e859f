//! What a person does at a terminal: Ctrl-Z, fg, bg, Ctrl-C, pipelines, a shell inside.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcgetpgrp;

use super::{BINARY, DEADLINE, wait_for};

/// An interactive shell at a terminal of its own.
struct Terminal {
    shell: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// What was shown and not yet expected.
    shown: String,
}

impl Terminal {
    fn open() -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
        let terminal = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
        // Whoever runs the tests in the background may have signals ignored, which children inherit, and bash traps none of.
        let shell = Command::new("env")
            .args(["--default-signal", "setsid", "--ctty", "--wait"])
            .args(["bash", "--norc", "--noprofile", "--noediting", "-i"])
            .env("PS1", "PROMPT> ")
            .env("INTERCEPTOR", BINARY)
            .env("TERM", "dumb")
            .stdin(terminal())
            .stdout(terminal())
            .stderr(terminal())
            .spawn()
            .expect("setsid and bash");
        let mut terminal = Self {
            shell,
            keyboard: File::from(controller.try_clone().unwrap()),
            screen: read_in_background(controller),
            shown: String::new(),
        };
        terminal.expect("PROMPT> ");
        terminal
    }

    fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is shown after what was expected before.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return;
            }
            match self.screen.recv_timeout(DEADLINE) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("not shown: {text:?}; shown: {}", self.shown)
                }
            }
        }
    }

    /// Runs a line in the shell and waits for output that begins a line: its echo does not.
    #[track_caller]
    fn run(&mut self, line: &str, shows: &str) {
        self.type_in(&format!("{line}\n"));
        self.expect(&format!("\n{shows}"));
    }

    /// Waits until the shell has given the terminal to a job.
    fn expect_job_in_foreground(&self) {
        let shell = Pid::from_raw(i32::try_from(self.shell.id()).unwrap());
        wait_for("a job in the foreground", || {
            let group = tcgetpgrp(&self.keyboard).ok();
            (group.is_some() && group != shell).then_some(())
        });
    }

    fn close(mut self) {
        self.type_in("exit 0\n");
        wait_for("the shell's end", || self.shell.try_wait().unwrap());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A shell that a failed test leaves gets SIGHUP from its terminal as the descriptors close.
        drop(self.shell.try_wait());
    }
}

fn read_in_background(controller: OwnedFd) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut controller = File::from(controller);
        let mut buffer = [0; 4096];
        while let Ok(count) = controller.read(&mut buffer) {
            if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Says when it was continued, and when it was interrupted.
const JOB: &str = r#"$INTERCEPTOR exec -- bash -c 'trap "echo continued" CONT; trap "echo interrupted; exit 9" INT; echo running; while :; do sleep 0.05; done'"#;

#[test]
fn a_job_is_stopped_continued_and_interrupted() {
    let mut terminal = Terminal::open();
    terminal.run(JOB, "running");
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.expect("PROMPT> ");
    terminal.run("bg", "[1]+");
    terminal.expect("continued");
    terminal.type_in("jobs\n");
    terminal.expect("[1]+  Running");
    terminal.expect("PROMPT> ");
    terminal.type_in("fg\n");
    terminal.expect_job_in_foreground();
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.expect("PROMPT> ");
    terminal.run("fg", "continued");
    terminal.type_in("\x03");
    terminal.expect("interrupted");
    terminal.expect("PROMPT> ");
    assert!(!terminal.shown.contains("interrupted"), "once is enough: {}", terminal.shown);
    terminal.run("echo code $?", "code 9");
    terminal.close();
}

#[test]
fn a_shell_inside_has_jobs_and_can_be_suspended() {
    let mut terminal = Terminal::open();
    terminal.type_in("PS1='IN''NER> ' $INTERCEPTOR exec -- bash --norc --noediting -i\n");
    terminal.expect("INNER> ");
    terminal.run("sh -c 'echo in; exec sleep 1000'", "in");
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.expect("INNER> ");
    // A shell that suspends itself before it has seen the job's end takes it for stopped for ever, and won't exit.
    terminal.run(
        "kill %1; while kill -0 %1; do sleep 0.01; done 2> /dev/null; echo inner goes on",
        "inner goes on",
    );
    terminal.expect("INNER> ");
    terminal.type_in("suspend\n");
    terminal.expect("Stopped");
    terminal.expect("PROMPT> ");
    terminal.run("echo outer goes on", "outer goes on");
    terminal.expect("PROMPT> ");
    terminal.type_in("fg\n");
    terminal.expect_job_in_foreground();
    // Its echo may stand before or behind the prompt: the answer is not in it.
    terminal.type_in("echo inner $((20 + 2))\n");
    terminal.expect("inner 22");
    terminal.expect("INNER> ");
    terminal.type_in("exit 7\n");
    terminal.expect("PROMPT> ");
    terminal.run("echo code $?", "code 7");
    terminal.close();
}

#[test]
fn a_pipeline_shares_the_terminal() {
    let mut terminal = Terminal::open();
    let read_both = "bash -c 'read line; read key < /dev/tty; echo got $line $key'";
    // Who reads keys from the terminal is beside ours, and then it is ours, with a pipe for its input.
    for pipeline in [
        format!("$INTERCEPTOR exec -- echo piped | {read_both}"),
        format!("echo piped | $INTERCEPTOR exec -- {read_both}"),
    ] {
        terminal.type_in(&format!("{pipeline}\n"));
        terminal.expect_job_in_foreground();
        terminal.run("typed", "got piped typed");
        terminal.expect("PROMPT> ");
    }
    terminal.close();
}
