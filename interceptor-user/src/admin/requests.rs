//! What is asked of the control loop: `/cni` and `/retire`. The loop answers through the request itself; dropping it
//! counts as "try again".

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::Admin;
use super::body::{self, Body};
use super::refusal::Refusal;

/// The loop's own deadlines are shorter; this one keeps a request from waiting for ever.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);

/// For the control loop.
#[derive(Debug)]
pub enum AdminRequest {
    /// Yes means: the pod is enrolled, or none of ours.
    Cni(CniRequest, oneshot::Sender<Result<(), CniRefusal>>),
    /// A successor asks: change nothing in the kernel from now on, and let what is open end. Answer when nothing is
    /// changed any more.
    Retire(oneshot::Sender<()>),
}

/// What the CNI plugin says of a pod (CNI_COMMAND, CNI_ARGS, CNI_CONTAINERID, CNI_NETNS).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniRequest {
    pub command: CniCommand,
    pub namespace: String,
    pub name: String,
    /// Empty: the runtime is older than the argument.
    #[serde(default)]
    pub uid: String,
    pub container_id: String,
    /// The path of the network namespace; empty in a DEL after it has gone.
    #[serde(default)]
    pub netns: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CniCommand {
    Add,
    Del,
    Check,
}

/// Why the pod must not start, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniRefusal {
    pub why: String,
    /// It can't be decided yet: the plugin asks again until its deadline.
    pub ask_again: bool,
}

pub(super) async fn cni(admin: &Admin, request: &Bytes) -> Result<Response<Body>, Refusal> {
    let request: CniRequest = serde_json::from_slice(request)
        .map_err(|error| Refusal::bad_request(format!("the request can't be read: {error}")))?;
    match ask(admin, |answer| AdminRequest::Cni(request, answer)).await? {
        Ok(()) => Ok(body::whole(StatusCode::OK, body::JSON, "{}\n")),
        Err(CniRefusal { why, ask_again: true }) => Err(Refusal::unavailable(why)),
        Err(CniRefusal { why, ask_again: false }) => Err(Refusal::new(StatusCode::CONFLICT, why)),
    }
}

#[derive(Serialize)]
struct Retired {
    version: &'static str,
    pid: u32,
}

pub(super) async fn retire(admin: &Admin) -> Result<Response<Body>, Refusal> {
    ask(admin, AdminRequest::Retire).await?;
    Ok(body::json(&Retired { version: env!("CARGO_PKG_VERSION"), pid: std::process::id() })?)
}

async fn ask<T>(
    admin: &Admin,
    request: impl FnOnce(oneshot::Sender<T>) -> AdminRequest,
) -> Result<T, Refusal> {
    let (answer, answered) = oneshot::channel();
    admin.requests.try_send(request(answer)).map_err(|error| match error {
        TrySendError::Full(_) => Refusal::unavailable("the agent has too many requests to answer: try again"),
        TrySendError::Closed(_) => Refusal::unavailable("the agent is ending"),
    })?;
    match tokio::time::timeout(ANSWER_WAIT_MAX, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Refusal::unavailable("the agent can't decide this now: try again")),
        Err(_) => {
            let why = format!("the agent has not decided this for {} s", ANSWER_WAIT_MAX.as_secs());
            Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, why))
        }
    }
}
