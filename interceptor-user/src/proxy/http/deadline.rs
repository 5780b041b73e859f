//! The timeout of a route or of one try: Envoy's clock for either starts when the client has sent its
//! whole request.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::upload::Upload;

#[derive(Debug)]
pub(super) struct Deadline {
    timeout: Duration,
    /// Still to be waited for; `None` when the request has no body.
    upload: Option<Rc<Upload>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(super) fn new(timeout: Duration, upload: Option<Rc<Upload>>) -> Self {
        Self { timeout, upload, sleep: None }
    }

    /// What `work` comes to, or `None` when `deadline` passes before. `work` is pinned by the caller: handed over, it
    /// would have room twice in the future of its request.
    pub(super) async fn within<T>(
        deadline: &mut Option<Self>,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            match deadline {
                Some(deadline) => deadline.poll_passed(cx).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await
    }

    pub(super) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(upload) = &self.upload {
            ready!(upload.poll_complete(cx));
            self.upload = None;
        }
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout))).as_mut().poll(cx)
    }
}
