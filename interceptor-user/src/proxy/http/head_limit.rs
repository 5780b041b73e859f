//! How long the head of a request may take from its first byte on, where clients are many: who sends a byte a minute holds
//! a connection of all for nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

/// A limit of one connection's heads.
#[derive(Debug)]
pub(super) struct HeadLimit {
    /// `None`: as long as the connection may be idle.
    limit: Option<Duration>,
    /// Of the head with this number.
    running: Option<(u64, Pin<Box<Sleep>>)>,
}

impl HeadLimit {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, running: None }
    }

    /// To be asked while nothing can be read; `head`: which one has begun and is not whole yet. Ready when that took too
    /// long.
    pub(super) fn poll(&mut self, head: Option<u64>, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (Some(limit), Some(head)) = (self.limit, head) else {
            self.running = None;
            return Poll::Pending;
        };
        let sleep = match self.running.take() {
            Some((of, sleep)) if of == head => sleep,
            Some(_) | None => Box::pin(tokio::time::sleep(limit)),
        };
        let (_, sleep) = self.running.insert((head, sleep));
        sleep
            .as_mut()
            .poll(cx)
            .map(|()| io::Error::new(io::ErrorKind::TimedOut, "a request's head took too long"))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::HeadLimit;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Whether it is over within this time.
    async fn ends(limit: &mut HeadLimit, head: Option<u64>, within: u64) -> bool {
        timeout(Duration::from_secs(within), poll_fn(|cx| limit.poll(head, cx))).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_has_begun_has_to_end() {
        let started = Instant::now();
        let mut limit = HeadLimit::new(Some(LIMIT));
        assert!(!ends(&mut limit, None, 3000).await);
        assert!(!ends(&mut limit, Some(0), 40).await);
        assert!(!ends(&mut limit, Some(1), 40).await, "each has its own time");
        assert!(!ends(&mut limit, None, 40).await);
        assert!(!ends(&mut limit, Some(2), 40).await);
        assert!(ends(&mut limit, Some(2), 25).await, "looking again does not begin anew");
        assert_eq!(started.elapsed().as_secs(), 3000 + 40 * 4 + 20);
        assert!(!ends(&mut HeadLimit::new(None), Some(0), 3000).await);
    }
}
