//! A response's body on its way down: counted, bounded by the route's timeout, and at its end the
//! upstream connection goes back to its pool and the request to the log.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::deadline::Deadline;
use super::failure::upstream_error;
use super::log::RequestLog;
use crate::proxy::outcome::ResponseFlag;
use crate::proxy::upstream::ResetReason;
use crate::proxy::upstream::pool::Lease;

/// What the client gets.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    log: RequestLog,
    /// Given back when the body has been read.
    lease: Option<Lease>,
    deadline: Option<Deadline>,
    ended: bool,
    /// Told at the next poll.
    failed: Option<DownloadError>,
}

#[derive(Debug)]
enum Source {
    /// Our own reply.
    Own(Option<Bytes>),
    Upstream(Incoming),
}

impl ResponseBody {
    /// A reply of our own.
    pub(super) fn own(bytes: Bytes, log: RequestLog) -> Self {
        let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
        Self { source: Source::Own(bytes), log, lease: None, deadline: None, ended: false, failed: None }
    }

    /// Nothing, when the request's record ends elsewhere.
    pub(super) fn unlogged() -> Self {
        Self::own(Bytes::new(), RequestLog::default())
    }

    pub(super) fn upstream(
        incoming: Incoming,
        lease: Lease,
        log: RequestLog,
        deadline: Option<Deadline>,
    ) -> Self {
        Self {
            source: Source::Upstream(incoming),
            log,
            lease: Some(lease),
            deadline,
            ended: false,
            failed: None,
        }
    }

    pub(super) fn is_own(&self) -> bool {
        matches!(self.source, Source::Own(_))
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true)
            && let Some(lease) = self.lease.take()
        {
            lease.release();
        }
    }

    /// The upstream broke off, or took too long.
    fn fail(&mut self, flag: ResponseFlag, details: Cow<'static, str>) {
        self.ended = true;
        self.lease = None;
        self.log.broke_off(flag, details);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let incoming = match &mut this.source {
            Source::Own(bytes) => {
                let bytes = bytes.take();
                this.log.sent(bytes.as_ref().map_or(0, Bytes::len));
                this.end();
                return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
            }
            Source::Upstream(incoming) => incoming,
        };
        match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let at_end = incoming.is_end_stream();
                if let Some(data) = frame.data_ref() {
                    this.log.sent(data.len());
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.log.trailers(trailers);
                }
                if at_end {
                    this.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let reset = upstream_error(&error);
                let reason = reset.reset_reason().unwrap_or(ResetReason::ConnectionTermination).as_str();
                let details = format!("upstream_reset_after_response_started{{{reason}}}").replace(' ', "_");
                this.fail(reset.flag(), details.into());
                // What was read before is flushed before hyper hears of the end and closes.
                this.failed = Some(DownloadError::Upstream(error));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => {
                if let Some(deadline) = &mut this.deadline
                    && deadline.poll_passed(cx).is_ready()
                {
                    this.fail(ResponseFlag::UpstreamRequestTimeout, "upstream_response_timeout".into());
                    return Poll::Ready(Some(Err(DownloadError::TimedOut)));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Upstream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Source::Upstream(incoming) => incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A body that needs no reading (HEAD, 204, empty) is dropped unread.
        if self.is_end_stream() || matches!(self.source, Source::Own(_)) {
            self.end();
        }
        if !self.ended {
            let flag = ResponseFlag::DownstreamConnectionTermination;
            self.log.broke_off(flag, "downstream_remote_disconnect");
        }
    }
}

/// Why a response could not be carried to its end.
#[derive(Debug)]
pub(crate) enum DownloadError {
    Upstream(hyper::Error),
    TimedOut,
}

impl fmt::Display for DownloadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Upstream(_) => "the upstream broke off its response",
            Self::TimedOut => "the route's timeout passed during the response",
        })
    }
}

impl std::error::Error for DownloadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Upstream(error) => Some(error),
            Self::TimedOut => None,
        }
    }
}
