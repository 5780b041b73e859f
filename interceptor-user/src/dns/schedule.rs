//! What a lookup's outcome makes of what was known, and when to ask again. No clock and no IO.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Answer, AnswerState};

/// Shorter lives are rounded up: nobody's servers are asked more than once a second for a name.
const LIFE_MIN: Duration = Duration::from_secs(1);
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What the servers said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Addresses {
        addresses: Arc<[IpAddr]>,
        ttl: Duration,
    },
    /// The name does not exist, or has no address. The TTL is the SOA record's, if it was there.
    Nothing {
        ttl: Option<Duration>,
    },
    /// No server answered, or not to the question.
    Failed(Arc<str>),
}

/// What is remembered of a name from one lookup to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    good: Option<(Arc<[IpAddr]>, Instant)>,
    failures: u32,
}

impl History {
    /// The answer from now on, and for how long it needn't be asked for. `random` is in 0..1.
    pub(super) fn learn(
        &mut self,
        outcome: Outcome,
        now: Instant,
        refresh_rate: Duration,
        random: f64,
    ) -> (Answer, Duration) {
        match outcome {
            Outcome::Addresses { addresses, ttl } => {
                let life = ttl.clamp(LIFE_MIN, LIFE_MAX);
                self.failures = 0;
                self.good = Some((Arc::clone(&addresses), now + life));
                // Before it expires, and not all names at once.
                (Answer { addresses, state: AnswerState::Fresh }, life.mul_f64(0.85 + random * 0.1))
            }
            Outcome::Nothing { ttl } => {
                self.good = None;
                self.failures = self.failures.saturating_add(1);
                let pause = match ttl {
                    Some(ttl) => ttl.clamp(LIFE_MIN, refresh_rate.max(LIFE_MIN)),
                    None => self.pause(refresh_rate),
                };
                (Answer { addresses: Arc::new([]), state: AnswerState::Fresh }, jittered(pause, random))
            }
            Outcome::Failed(reason) => {
                self.failures = self.failures.saturating_add(1);
                let answer = match &self.good {
                    None => Answer { addresses: Arc::new([]), state: AnswerState::Failed(reason) },
                    Some((addresses, expires)) => Answer {
                        addresses: Arc::clone(addresses),
                        state: if now < *expires { AnswerState::Fresh } else { AnswerState::Stale },
                    },
                };
                (answer, jittered(self.pause(refresh_rate), random))
            }
        }
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// 1 s, 2 s, 4 s, … up to the refresh rate.
    fn pause(&self, refresh_rate: Duration) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        (LIFE_MIN * (1 << doublings)).min(refresh_rate.max(LIFE_MIN))
    }
}

fn jittered(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.9 + random * 0.2)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{History, Outcome};
    use crate::dns::{Answer, AnswerState};

    const RATE: Duration = Duration::from_secs(60);

    fn found(address: &str, ttl: u64) -> Outcome {
        Outcome::Addresses { addresses: [address.parse().unwrap()].into(), ttl: Duration::from_secs(ttl) }
    }

    fn failed() -> Outcome {
        Outcome::Failed("timed out".into())
    }

    fn nothing(ttl: Option<u64>) -> Outcome {
        Outcome::Nothing { ttl: ttl.map(Duration::from_secs) }
    }

    fn answer(address: Option<&str>, state: AnswerState) -> Answer {
        Answer { addresses: address.map(|address| address.parse().unwrap()).into_iter().collect(), state }
    }

    #[test]
    fn each_outcome_after_each_other() {
        let failure = || AnswerState::Failed("timed out".into());
        // seconds since the start, outcome, expected answer, expected pause in milliseconds (random 0.5)
        let rows = [
            (0, failed(), answer(None, failure()), 1000),
            (1, failed(), answer(None, failure()), 2000),
            (3, failed(), answer(None, failure()), 4000),
            (7, found("192.0.2.1", 10), answer(Some("192.0.2.1"), AnswerState::Fresh), 9000),
            (16, failed(), answer(Some("192.0.2.1"), AnswerState::Fresh), 1000),
            (17, failed(), answer(Some("192.0.2.1"), AnswerState::Stale), 2000),
            (19, found("192.0.2.2", 0), answer(Some("192.0.2.2"), AnswerState::Fresh), 900),
            (20, nothing(Some(30)), answer(None, AnswerState::Fresh), 30_000),
            (50, nothing(Some(3600)), answer(None, AnswerState::Fresh), 60_000),
            (51, nothing(Some(0)), answer(None, AnswerState::Fresh), 1000),
            (52, failed(), answer(None, failure()), 8000),
            (53, found("192.0.2.3", 1 << 40), answer(Some("192.0.2.3"), AnswerState::Fresh), 77_760_000),
            (54, nothing(None), answer(None, AnswerState::Fresh), 1000),
            (55, nothing(None), answer(None, AnswerState::Fresh), 2000),
        ];
        let start = Instant::now();
        let mut history = History::default();
        for (row, (second, outcome, expected, pause)) in rows.into_iter().enumerate() {
            let learned = history.learn(outcome, start + Duration::from_secs(second), RATE, 0.5);
            assert_eq!(learned, (expected, Duration::from_millis(pause)), "row {row}");
        }
    }

    #[test]
    fn pauses_grow_up_to_the_refresh_rate() {
        let mut history = History::default();
        let pauses: Vec<_> =
            (0..40).map(|_| history.learn(failed(), Instant::now(), RATE, 0.5).1.as_secs()).collect();
        assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses[39], 60);
    }

    #[test]
    fn an_answer_is_refreshed_before_it_expires_and_not_too_early() {
        for random in [0.0, 0.3, 0.999] {
            let pause = History::default().learn(found("::1", 100), Instant::now(), RATE, random).1;
            assert!((85.0..95.0).contains(&pause.as_secs_f64()), "{pause:?}");
        }
    }
}
