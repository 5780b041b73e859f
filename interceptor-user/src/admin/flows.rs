//! `/flows`: connections and requests as they end, one JSON object a line. Nothing is kept: who asks is told what ends from
//! then on.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::body::{self, Body, JSON_LINES};
use super::pods;
use super::query::Query;
use super::refusal::Refusal;
use crate::agent::view::{PodState, View};
use crate::telemetry::{Flow, FlowEvent, Flows, Follower};

/// Who does not follow is told what ends within this.
const LOOK: Duration = Duration::from_secs(5);
/// Parts of the answer that wait for the client; more of them wait with the follower, and are lost when it has no room.
const PARTS_MAX: usize = 4;
const PART_BYTES: usize = 32 * 1024;

/// Of which pod: namespace and name.
struct Filter(Option<(String, String)>);

pub(super) fn answer(
    flows: &Flows,
    view: &View,
    mut query: Query,
    place: OwnedSemaphorePermit,
) -> Result<Response<Body>, Refusal> {
    let pod = query.take("pod");
    let is_followed = query.switch("follow")?;
    query.finish()?;
    let filter = Filter(pod.map(|pod| intercepted(view, &pod)).transpose()?);
    let until = (!is_followed).then(|| Instant::now() + LOOK);
    let (parts, sent) = mpsc::channel(PARTS_MAX);
    let follower = flows.follow();
    tokio::spawn(async move {
        let ending = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tell(follower, &filter, &parts) => {}
            // The client has gone.
            () = parts.closed() => {}
            () = ending => {}
        }
        drop(place);
    });
    Ok(body::streamed(JSON_LINES, sent))
}

/// A pod that nothing will be told of is told at once.
fn intercepted(view: &View, name: &str) -> Result<(String, String), Refusal> {
    let pod = pods::find(view, name)?;
    if pod.state != PodState::Enrolled {
        pods::compiled(pod)?;
    }
    Ok((pod.namespace.to_string(), pod.name.to_string()))
}

/// As long as there is somebody to tell, and something to be told.
async fn tell(mut follower: Follower, filter: &Filter, parts: &mpsc::Sender<io::Result<Bytes>>) {
    while let Some(event) = follower.next().await {
        let mut part = Vec::new();
        filter.append(&mut part, &event);
        while part.len() < PART_BYTES {
            // What is there already goes along.
            tokio::select! {
                biased;
                event = follower.next() => match event {
                    Some(event) => filter.append(&mut part, &event),
                    None => break,
                },
                () = std::future::ready(()) => break,
            }
        }
        if !part.is_empty() && parts.send(Ok(part.into())).await.is_err() {
            return;
        }
    }
}

impl Filter {
    fn append(&self, part: &mut Vec<u8>, event: &FlowEvent) {
        let line = match event {
            FlowEvent::Ended(flow) if !self.takes(flow) => return,
            FlowEvent::Ended(flow) => serde_json::to_vec(&**flow),
            FlowEvent::Lost(lost) => serde_json::to_vec(&serde_json::json!({ "lost": lost })),
        };
        match line {
            Ok(line) => {
                part.extend_from_slice(&line);
                part.push(b'\n');
            }
            Err(error) => tracing::debug!("a flow is no JSON: {error}"),
        }
    }

    fn takes(&self, flow: &Flow) -> bool {
        let Self(pod) = self;
        pod.as_ref().is_none_or(|(namespace, name)| flow.namespace == *namespace && flow.pod == *name)
    }
}
