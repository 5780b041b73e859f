//! Asks the agent on this node, by one HTTP request on its unix socket, and waits for what it says.

use std::path::Path;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout_at};

use super::call::{Call, PodName};
use crate::admin::client::{self, ClientError, Uri};

/// How long after a vain attempt the next one is made.
const PAUSE: Duration = Duration::from_millis(100);

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
pub(super) fn ask(
    socket: &Path,
    call: &Call,
    pod: &PodName,
    netns: &str,
    patience: Duration,
) -> Result<(), Trouble> {
    let question = question(call, pod, netns)?;
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
pub(super) fn ask_once(
    socket: &Path,
    call: &Call,
    pod: &PodName,
    netns: &str,
    patience: Duration,
) -> Result<(), Trouble> {
    let question = question(call, pod, netns)?;
    run(in_time(socket, &question, Instant::now() + patience))
}

fn question(call: &Call, pod: &PodName, netns: &str) -> Result<Vec<u8>, Trouble> {
    let question = Question { command: call.command.name(), pod, container_id: &call.container_id, netns };
    serde_json::to_vec(&question).map_err(|error| Trouble::Away(error.to_string()))
}

fn run(work: impl Future<Output = Result<(), Trouble>>) -> Result<(), Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Trouble::Away(error.to_string()))?.block_on(work)
}

async fn in_time(socket: &Path, question: &[u8], deadline: Instant) -> Result<(), Trouble> {
    let uri = Uri::new("/cni", &[]);
    let answer = client::exchange(socket, Method::POST, &uri, question.to_vec());
    match timeout_at(deadline.into(), answer).await {
        Ok(answered) => answered.map(drop).map_err(trouble),
        Err(_) => Err(Trouble::Away("it does not answer".to_owned())),
    }
}

fn trouble(error: ClientError) -> Trouble {
    #[derive(Deserialize)]
    struct Answer {
        error: String,
    }
    match error {
        ClientError::NoSocket { .. } => Trouble::Away("it is not running".to_owned()),
        ClientError::Ended { .. } => Trouble::Away("it has ended".to_owned()),
        ClientError::Refused { status, why } => {
            let why = match serde_json::from_str::<Answer>(&why) {
                Ok(Answer { error }) => error,
                Err(_) => format!("it answers {status} without a reason"),
            };
            match status {
                // It has started, but can't decide yet.
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Trouble::Away(why),
                _ => Trouble::Refused(why),
            }
        }
        ClientError::NotASocket { .. }
        | ClientError::Denied { .. }
        | ClientError::Connect { .. }
        | ClientError::Broken { .. }
        | ClientError::Slow { .. }
        | ClientError::Runtime { .. }
        | ClientError::LongLine { .. }
        | ClientError::Uri { .. } => Trouble::Away(format!("{:#}", anyhow::Error::from(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let away = |why: &str| Trouble::Away(why.to_owned());
        let refused = |why: &str| Trouble::Refused(why.to_owned());
        for (status, body, expected) in [
            (409, r#"{"error":"no cgroup"}"#, refused("no cgroup")),
            (500, r#"{"error":"map is full","more":1}"#, refused("map is full")),
            (404, "not found", refused("it answers 404 Not Found without a reason")),
            (503, r#"{"error":"starting"}"#, away("starting")),
            (504, "", away("it answers 504 Gateway Timeout without a reason")),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(trouble(ClientError::Refused { status, why: body.into() }), expected, "{status}");
        }
    }
}
