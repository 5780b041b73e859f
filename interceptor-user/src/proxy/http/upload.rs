//! A request's body on its way up: read once from the client, as fast as the upstream takes it, and
//! kept up to a bound so that another try can send it again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::mirror::{Copies, WholeBody};
use super::tap::BodyReading;

/// What is kept of a body for another try. A longer body is sent once only.
const REPLAY_MAX: usize = 64 * 1024;
/// In how many pieces: each holds more memory than its bytes.
const REPLAY_CHUNKS_MAX: usize = 256;

/// The body that one try sends, or a copy of the request.
#[derive(Debug)]
pub(crate) struct RequestBody(Source);

#[derive(Debug)]
enum Source {
    Nothing,
    Attempt(Attempt),
    Whole(WholeBody),
}

#[derive(Debug)]
struct Attempt {
    upload: Rc<Upload>,
    /// Only the newest try reads on.
    number: u32,
    position: usize,
    trailers_sent: bool,
}

/// A request's body, shared by its tries.
#[derive(Debug)]
pub(crate) struct Upload {
    state: RefCell<State>,
    received: Cell<u64>,
    /// `Expect: 100-continue`: the client waits until the upstream wants the body.
    gate: Option<Arc<ContinueGate>>,
}

impl RequestBody {
    /// One that has been read already.
    pub(super) fn whole(body: WholeBody) -> Self {
        Self(Source::Whole(body))
    }
}

#[derive(Debug)]
struct State {
    incoming: Incoming,
    /// Everything so far while `replayable`; empty otherwise.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    replayable: bool,
    attempt: u32,
    /// The client has sent all of it.
    complete: bool,
    broken: bool,
    complete_waker: Option<Waker>,
    reading: Option<BodyReading>,
    /// Sent once the body is complete.
    copies: Option<Copies>,
}

impl Upload {
    /// `None` for a request without a body. `keep` says whether it may be needed again.
    pub(super) fn new(
        incoming: Incoming,
        keep: bool,
        gate: Option<Arc<ContinueGate>>,
        reading: Option<BodyReading>,
    ) -> Option<Rc<Self>> {
        if incoming.is_end_stream() {
            return None;
        }
        Some(Rc::new(Self {
            state: RefCell::new(State {
                incoming,
                kept: VecDeque::new(),
                kept_bytes: 0,
                trailers: None,
                replayable: keep,
                attempt: 0,
                complete: false,
                broken: false,
                complete_waker: None,
                reading,
                copies: None,
            }),
            received: Cell::new(0),
            gate,
        }))
    }

    /// The body for the next try; the one before reads no further.
    pub(crate) fn body(upload: Option<&Rc<Self>>) -> RequestBody {
        let Some(upload) = upload else { return RequestBody(Source::Nothing) };
        let mut state = upload.state.borrow_mut();
        state.attempt += 1;
        let upload = Rc::clone(upload);
        let number = state.attempt;
        RequestBody(Source::Attempt(Attempt { upload, number, position: 0, trailers_sent: false }))
    }

    /// Sends copies of the request once the client has sent all of it.
    pub(super) fn copy_when_complete(&self, copies: Copies) {
        self.state.borrow_mut().copies = Some(copies);
    }

    /// Body bytes that the client sent.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Whether another try can send the whole body.
    pub(crate) fn replayable(&self) -> bool {
        let state = self.state.borrow();
        (state.replayable || self.received.get() == 0) && !state.broken
    }

    /// The client broke off while sending.
    pub(crate) fn broken(&self) -> bool {
        self.state.borrow().broken
    }

    /// Ready once the client has sent all.
    pub(crate) fn poll_complete(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.complete {
            return Poll::Ready(());
        }
        state.complete_waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl State {
    fn complete(&mut self) {
        self.complete = true;
        if let Some(reading) = self.reading.take() {
            reading.finish();
        }
        if let Some(waker) = self.complete_waker.take() {
            waker.wake();
        }
        let Some(copies) = self.copies.take() else { return };
        if self.replayable {
            copies.send(&WholeBody::new(self.kept.iter(), self.trailers.clone()));
        } else {
            copies.give_up();
        }
    }

    fn keep(&mut self, chunk: &Bytes) {
        if !self.replayable {
            return;
        }
        self.kept_bytes += chunk.len();
        if self.kept_bytes > REPLAY_MAX || self.kept.len() == REPLAY_CHUNKS_MAX {
            self.replayable = false;
            self.kept = VecDeque::new();
        } else {
            self.kept.push_back(chunk.clone());
        }
    }
}

impl Attempt {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let mut state = self.upload.state.borrow_mut();
        let state = &mut *state;
        if state.attempt != self.number {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(chunk) = state.kept.get(self.position) {
            self.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if state.complete {
            if self.trailers_sent {
                return Poll::Ready(None);
            }
            self.trailers_sent = true;
            return Poll::Ready(state.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if let Some(gate) = &self.upload.gate
            && gate.poll_open(cx).is_pending()
        {
            return Poll::Pending;
        }
        match Pin::new(&mut state.incoming).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                state.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                state.broken = true;
                Poll::Ready(Some(Err(UploadError::Downstream(error))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(chunk) = frame.data_ref() {
                    self.upload.received.set(self.upload.received.get() + chunk.len() as u64);
                    state.keep(chunk);
                    self.position = state.kept.len();
                } else if let Some(trailers) = frame.trailers_ref() {
                    state.trailers = Some(trailers.clone());
                    self.trailers_sent = true;
                    // Nothing comes after them, and nobody asks again.
                    state.complete();
                }
                if state.incoming.is_end_stream() {
                    state.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match &mut self.get_mut().0 {
            Source::Nothing => Poll::Ready(None),
            Source::Attempt(attempt) => attempt.poll_frame(cx),
            Source::Whole(body) => {
                let data = std::mem::take(&mut body.data);
                let frame = if data.is_empty() {
                    body.trailers.take().map(Frame::trailers)
                } else {
                    Some(Frame::data(data))
                };
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Nothing => true,
            Source::Attempt(attempt) => {
                let state = attempt.upload.state.borrow();
                state.attempt == attempt.number
                    && state.complete
                    && attempt.position >= state.kept.len()
                    && (attempt.trailers_sent || state.trailers.is_none())
            }
            Source::Whole(body) => body.data.is_empty() && body.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let attempt = match &self.0 {
            Source::Nothing => return SizeHint::with_exact(0),
            Source::Attempt(attempt) => attempt,
            Source::Whole(body) if body.trailers.is_some() => return SizeHint::default(),
            Source::Whole(body) => return SizeHint::with_exact(body.data.len() as u64),
        };
        let state = attempt.upload.state.borrow();
        let kept: usize = state.kept.iter().skip(attempt.position).map(Bytes::len).sum();
        match state.incoming.size_hint().exact() {
            Some(rest) if state.trailers.is_none() => SizeHint::with_exact(rest + kept as u64),
            Some(_) | None => SizeHint::default(),
        }
    }
}

/// Why a body could not be sent to its end.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// The client broke off or sent nonsense.
    Downstream(hyper::Error),
    /// A newer try sends the body now.
    Superseded,
}

impl fmt::Display for UploadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Downstream(_) => "the request's body could not be read",
            Self::Superseded => "the request is tried again elsewhere",
        })
    }
}

impl std::error::Error for UploadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Downstream(error) => Some(error),
            Self::Superseded => None,
        }
    }
}

/// Keeps a body back until the upstream has said `100 Continue`, or has been silent for long enough:
/// reading the body is what makes the server side tell the client to continue.
#[derive(Debug, Default)]
pub(crate) struct ContinueGate(Mutex<GateState>);

#[derive(Debug, Default)]
struct GateState {
    open: bool,
    waiting: Option<Waker>,
}

impl ContinueGate {
    pub(crate) fn open(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.open = true;
        if let Some(waker) = state.waiting.take() {
            waker.wake();
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open
    }

    fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.open {
            return Poll::Ready(());
        }
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}
