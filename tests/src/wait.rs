//! Waiting for a condition with a deadline.

use std::io;
use std::time::{Duration, Instant};

use anyhow::bail;

/// Polls until `probe` gives a value; fails, naming `what`, at the deadline.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if started.elapsed() >= deadline {
            bail!("{what}: not within {} s", deadline.as_secs_f32());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Makes a system call again that ended with EINTR. A process that is stopped and continued finds that wherever a
/// socket has a timeout (signal(7)).
///
/// # Errors
///
/// Every other one of `call`.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// [`wait_for`] with a condition that has no value, and half a minute.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    wait_for(what, Duration::from_secs(30), || condition().then_some(()))
}
