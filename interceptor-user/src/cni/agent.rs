//! Asks the agent on this node, by one HTTP request on its unix socket, and waits for what it says.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout_at};

use super::call::{Call, PodName};

/// How long after a vain attempt the next one is made.
const PAUSE: Duration = Duration::from_millis(100);
/// An answer is a word or a sentence.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What `POST /cni` of the agent's socket takes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    command: &'static str,
    #[serde(flatten)]
    pod: &'a PodName,
    container_id: &'a str,
    netns: &'a str,
}

/// Why there is no yes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// Nobody who could decide answers: it may pass.
    #[error("{0}")]
    Away(String),
    /// The agent's own words.
    #[error("{0}")]
    Refused(String),
}

/// Asks until there is an answer, at most for `patience`.
pub(super) fn ask(socket: &Path, call: &Call, pod: &PodName, patience: Duration) -> Result<(), Trouble> {
    let question = question(call, pod)?;
    let deadline = Instant::now() + patience;
    run(async {
        loop {
            let why = match in_time(socket, &question, deadline).await {
                Err(Trouble::Away(why)) => why,
                answered => return answered,
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(Trouble::Away(why));
            }
            sleep(PAUSE).await;
        }
    })
}

/// Asks once, and waits for the answer at most for `patience`.
pub(super) fn ask_once(socket: &Path, call: &Call, pod: &PodName, patience: Duration) -> Result<(), Trouble> {
    let question = question(call, pod)?;
    run(in_time(socket, &question, Instant::now() + patience))
}

fn question(call: &Call, pod: &PodName) -> Result<Bytes, Trouble> {
    let question =
        Question { command: call.command.name(), pod, container_id: &call.container_id, netns: &call.netns };
    serde_json::to_vec(&question).map(Bytes::from).map_err(|error| Trouble::Away(error.to_string()))
}

fn run(work: impl Future<Output = Result<(), Trouble>>) -> Result<(), Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Trouble::Away(error.to_string()))?.block_on(work)
}

async fn in_time(socket: &Path, question: &Bytes, deadline: Instant) -> Result<(), Trouble> {
    let answered = timeout_at(deadline.into(), attempt(socket, question.clone())).await;
    answered.unwrap_or_else(|_| Err(Trouble::Away("it does not answer".to_owned())))
}

async fn attempt(socket: &Path, question: Bytes) -> Result<(), Trouble> {
    let stream = UnixStream::connect(socket).await.map_err(|error| Trouble::Away(refused(&error)))?;
    let broken = |error: hyper::Error| Trouble::Away(format!("the connection broke: {error}"));
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async move {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/cni")
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(question))
            .map_err(|error| Trouble::Away(error.to_string()))?;
        let answer = requests.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Trouble::Away(format!("the answer broke off: {error}")))?;
        judge(status, &body.to_bytes())
    };
    // The connection ends when `exchange` has dropped its end; how it ends matters to nobody then.
    let (answered, _) = tokio::join!(exchange, connection);
    answered
}

fn refused(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        "it is not running".to_owned()
    } else if error.kind() == io::ErrorKind::ConnectionRefused {
        "it has ended".to_owned()
    } else {
        error.to_string()
    }
}

fn judge(status: StatusCode, body: &[u8]) -> Result<(), Trouble> {
    #[derive(Deserialize)]
    struct Answer {
        error: String,
    }
    if status.is_success() {
        return Ok(());
    }
    let why = match serde_json::from_slice::<Answer>(body) {
        Ok(Answer { error }) => error,
        Err(_) => format!("it answers {status} without a reason"),
    };
    match status {
        // It has started, but can't decide yet.
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Err(Trouble::Away(why)),
        _ => Err(Trouble::Refused(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let away = |why: &str| Err(Trouble::Away(why.to_owned()));
        let refused = |why: &str| Err(Trouble::Refused(why.to_owned()));
        for (status, body, expected) in [
            (200, "{}", Ok(())),
            (204, "", Ok(())),
            (409, r#"{"error":"no cgroup"}"#, refused("no cgroup")),
            (500, r#"{"error":"map is full","more":1}"#, refused("map is full")),
            (404, "not found", refused("it answers 404 Not Found without a reason")),
            (503, r#"{"error":"starting"}"#, away("starting")),
            (504, "", away("it answers 504 Gateway Timeout without a reason")),
        ] {
            assert_eq!(judge(StatusCode::from_u16(status).unwrap(), body.as_bytes()), expected, "{status}");
        }
    }
}
