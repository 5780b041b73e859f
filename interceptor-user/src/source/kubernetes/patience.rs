//! How long an answer of the API server is waited for. A server that was told to stop refuses new connections
//! and leaves open watches silent; a network that is cut says nothing at all. Both end here: what kube's watcher sees is
//! a watch that ended, which it resumes where it was.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use kube::Client;
use kube::client::Body;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tower::{BoxError, Service};

/// Until an answer begins. The server itself gives up a request after 60 s.
const ANSWER: Duration = Duration::from_secs(65);
/// Between two pieces of an answer. Bookmarks come every 60 s.
const SILENCE: Duration = Duration::from_secs(80);

/// Sends the requests of one watch.
pub(super) struct Patient {
    pub(super) client: Client,
    /// Changes when the server is back after it was away: open watches may be silent for ever.
    pub(super) server_is_back: watch::Receiver<u64>,
    /// Told when a watch is open.
    pub(super) opened: mpsc::Sender<()>,
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<Request<Body>> for Patient {
    type Response = Response<PatientBody>;
    type Error = BoxError;
    type Future = BoxFuture<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.client.clone();
        let mut server_is_back = self.server_is_back.clone();
        let opened = self.opened.clone();
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        Box::pin(async move {
            server_is_back.mark_unchanged();
            let response = timeout(ANSWER, client.send(request)).await.or(Err(Silent(ANSWER)))??;
            if is_watch && response.status().is_success() {
                // Full: it is known already.
                let _known = opened.try_send(()).is_ok();
            }
            let restart: Option<BoxFuture<()>> = is_watch.then_some(Box::pin(async move {
                if server_is_back.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }));
            Ok(response.map(|body| PatientBody { body, silence: Box::pin(sleep(SILENCE)), restart }))
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("nothing came for {} s", .0.as_secs())]
struct Silent(Duration);

/// An answer that may not fall silent.
pub(super) struct PatientBody {
    body: Body,
    silence: Pin<Box<Sleep>>,
    /// Of a watch: done when it has to be opened anew. A watch ends in silence, too; anything else fails.
    restart: Option<BoxFuture<()>>,
}

impl http_body::Body for PatientBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.silence.as_mut().reset(Instant::now() + SILENCE);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        match &mut this.restart {
            Some(restart) => {
                if restart.as_mut().poll(context).is_pending() {
                    ready!(this.silence.as_mut().poll(context));
                }
                // Never polled again once it is done.
                this.restart = Some(Box::pin(std::future::ready(())));
                Poll::Ready(None)
            }
            None => {
                ready!(this.silence.as_mut().poll(context));
                this.silence = Box::pin(sleep_until(Instant::now() + SILENCE));
                Poll::Ready(Some(Err(Silent(SILENCE).into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// Answers at once with a body that never ends, and a byte every 50 s when `steady`.
    fn patient(steady: bool) -> (Patient, watch::Sender<u64>, mpsc::Receiver<()>) {
        let service = tower::service_fn(move |_: Request<Body>| async move {
            let (mut sender, body) = http_body_util::channel::Channel::<Bytes, BoxError>::new(1);
            tokio::task::spawn(async move {
                while steady && sender.send_data(Bytes::from_static(b"x")).await.is_ok() {
                    sleep(Duration::from_secs(50)).await;
                }
                std::future::pending::<()>().await;
            });
            Ok::<_, BoxError>(Response::new(body))
        });
        let (back, server_is_back) = watch::channel(0);
        let (opened, is_opened) = mpsc::channel(1);
        let client = Client::new(service, "default");
        (Patient { client, server_is_back, opened }, back, is_opened)
    }

    async fn answer(patient: &mut Patient, path: &str) -> PatientBody {
        let request = Request::get(path).body(Body::empty()).unwrap();
        patient.call(request).await.unwrap().into_body()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_watch_ends_and_a_silent_list_fails() {
        let (mut patient, _back, mut opened) = patient(false);
        let started = Instant::now();
        assert!(answer(&mut patient, "/list").await.frame().await.unwrap().is_err());
        assert!(opened.try_recv().is_err());
        assert!(answer(&mut patient, "/list?watch=true").await.frame().await.is_none());
        assert!(opened.try_recv().is_ok());
        assert_eq!(started.elapsed().as_secs(), 2 * SILENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_with_bookmarks_goes_on_until_the_server_was_away() {
        let (mut patient, back, _opened) = patient(true);
        let mut body = answer(&mut patient, "/list?watch=true").await;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(600) {
            assert!(body.frame().await.is_some());
        }
        back.send_replace(1);
        let before = Instant::now();
        assert!(body.frame().await.is_none());
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
