//! One watch as it is run: whether it works, and since when it does not.

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::failure::{Failure, FailureClass};
use super::status::{Trouble, WatchState};
use super::watches::Watch;

/// What is forbidden may have been allowed a moment ago, when all was installed together.
const FORBIDDEN_PATIENCE: Duration = Duration::from_secs(5);
/// A list that the server keeps failing is not waited for longer, at the start.
const FAILING_LIST_PATIENCE: Duration = Duration::from_secs(30);

/// A watch as it is run.
pub(super) struct Running {
    /// `None` while there is no such kind.
    pub(super) task: Option<AbortHandle>,
    pub(super) version: &'static str,
    pub(super) state: WatchState,
    /// Since when it has failed, and how it failed last.
    failing: Option<(Instant, FailureClass)>,
    pub(super) missing_since: Option<Instant>,
}

impl Running {
    pub(super) fn new(task: AbortHandle, version: &'static str) -> Self {
        Self { task: Some(task), version, state: WatchState::Listing, failing: None, missing_since: None }
    }

    pub(super) fn missing() -> Self {
        Self { task: None, version: "", state: WatchState::Missing, failing: None, missing_since: None }
    }

    pub(super) fn fail(&mut self, watch: &Watch, failure: &Failure) {
        if failure.class == FailureClass::NotServed {
            self.task = None;
            self.state = WatchState::Missing;
            tracing::info!(%watch, why = failure.why, "is not served");
            return;
        }
        let since = self.failing.map_or_else(Instant::now, |(since, _)| since);
        self.failing = Some((since, failure.class));
        let before = if let WatchState::Failing(trouble) = &self.state { Some(trouble) } else { None };
        if before.is_none_or(|before| *before.why != failure.why) && failure.class != FailureClass::Expired {
            tracing::warn!(%watch, why = failure.why, "can't be followed: what is known of it goes on holding");
        }
        self.state = WatchState::Failing(Trouble::new(&failure.why, before));
    }

    pub(super) fn succeed(&mut self, watch: &Watch, is_listed: bool) {
        if self.failing.take().is_some() {
            tracing::info!(%watch, "is followed again");
        }
        self.missing_since = None;
        self.state = if is_listed { WatchState::Following } else { WatchState::Listing };
    }

    /// Not waited for at the start: it may not be read, there is no such kind, or the server keeps failing it.
    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        if self.state == WatchState::Missing {
            return true;
        }
        let Some((since, class)) = self.failing else { return false };
        match class {
            FailureClass::NotServed => true,
            FailureClass::NoAnswer | FailureClass::Unauthorized => false,
            FailureClass::Forbidden => now - since >= FORBIDDEN_PATIENCE,
            FailureClass::Expired | FailureClass::Garbage | FailureClass::Status(_) => {
                now - since >= FAILING_LIST_PATIENCE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_at_the_start() {
        let after = |class: FailureClass, seconds: u64| {
            let mut running = Running::missing();
            running.state = WatchState::Listing;
            running.fail(&Watch::Services, &Failure { why: "w".into(), class });
            running.is_given_up(Instant::now() + Duration::from_secs(seconds))
        };
        for (class, seconds, is_given_up) in [
            (FailureClass::NoAnswer, 3600, false),
            (FailureClass::Unauthorized, 3600, false),
            (FailureClass::Forbidden, 4, false),
            (FailureClass::Forbidden, 5, true),
            (FailureClass::NotServed, 0, true),
            (FailureClass::Status(500), 29, false),
            (FailureClass::Status(500), 30, true),
            (FailureClass::Garbage, 30, true),
        ] {
            assert_eq!(after(class, seconds), is_given_up, "{class:?} for {seconds} s");
        }
    }

    #[test]
    fn trouble_begins_once() {
        let mut running = Running::missing();
        let mut fail = |why: &str| {
            running.fail(&Watch::Services, &Failure { why: why.into(), class: FailureClass::NoAnswer });
            let WatchState::Failing(trouble) = &running.state else { panic!("{:?}", running.state) };
            trouble.clone()
        };
        let (first, second) = (fail("one"), fail("two"));
        assert_eq!((first.since, &*second.why), (second.since, "two"));
        running.succeed(&Watch::Services, true);
        assert_eq!(running.state, WatchState::Following);
    }
}
