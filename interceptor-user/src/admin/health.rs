//! Whether the agent lives, and whether the node may rely on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Response, StatusCode};

use super::Admin;
use super::body::{self, Body, TEXT};
use super::query::Query;
use super::refusal::Refusal;

/// The control loop comes round at least once a second when it has nothing to do; a long change may hold it up.
const BEAT_MAX: Duration = Duration::from_secs(20);

/// When the control loop came round last. Clones are the same.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    started: Instant,
    /// Since `started`.
    last_ms: Arc<AtomicU64>,
}

impl Heartbeat {
    /// Beats once.
    #[expect(clippy::new_without_default, reason = "it has a side effect: time starts to count")]
    pub fn new() -> Self {
        Self { started: Instant::now(), last_ms: Arc::default() }
    }

    pub fn beat(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn age(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }
}

/// Only what a restart would mend counts: the API server does not.
pub(super) fn alive(admin: &Admin, query: Query) -> Result<Response<Body>, Refusal> {
    query.finish()?;
    let age = admin.heartbeat.age();
    if age > BEAT_MAX {
        return Err(Refusal::unavailable(format!(
            "the control loop has not come round for {} s",
            age.as_secs()
        )));
    }
    if !(admin.workers_alive)() {
        return Err(Refusal::unavailable("a thread of the proxy has ended; the log says why"));
    }
    Ok(body::text("ok\n"))
}

/// As the API server's own: with `?verbose` every check, otherwise those that fail.
pub(super) fn ready(admin: &Admin, mut query: Query) -> Result<Response<Body>, Refusal> {
    let verbose = query.switch("verbose")?;
    query.finish()?;
    let view = admin.view.load();
    let is_ready = view.is_ready();
    let mut text = String::new();
    if verbose {
        if view.checks.is_empty() {
            text.extend(view.reasons().into_iter().map(|reason| format!("[-]{reason}\n")));
        }
        for check in &view.checks {
            text += &match &check.failure {
                None => format!("[+]{} ok\n", check.name),
                Some(why) => format!("[-]{}: {why}\n", check.name),
            };
        }
        text += if is_ready { "readyz check passed\n" } else { "readyz check failed\n" };
    } else if is_ready {
        text.push_str("ok\n");
    } else {
        text.extend(view.reasons().into_iter().map(|reason| reason + "\n"));
    }
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(body::whole(status, TEXT, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_ages_until_it_beats() {
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        let heartbeat = Heartbeat { started: long_ago, ..Heartbeat::new() };
        assert!(heartbeat.age() > BEAT_MAX);
        heartbeat.clone().beat();
        assert!(heartbeat.age() < Duration::from_secs(10));
    }
}
