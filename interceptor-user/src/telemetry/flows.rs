//! What becomes of connections and requests, told to whoever follows while it happens. Costs a look at a counter while
//! nobody does. A follower that is too slow loses records and is told how many; nobody ever waits for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::sync::broadcast::{self, error::RecvError};

use super::metrics::cut;
use super::record::AccessRecord;

/// Records that a follower may be behind.
const BEHIND_MAX: usize = 1024;

/// How much is told of a text that a client chose, in bytes.
const TEXT_MAX: usize = 512;

/// One connection or request that has ended. In JSON, what is not known is left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// When it began: RFC 3339, UTC, with milliseconds.
    pub time: String,
    pub kind: FlowKind,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The SPIFFE identity that the client showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    pub source: SocketAddr,
    /// What the application asked for.
    pub original_destination: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Without its query, which may hold secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Of a request; 0 when there was no response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_code: Option<u16>,
    /// Envoy's, `-` for none.
    pub response_flags: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    /// Body bytes of a request, all bytes of a connection: from the application.
    pub bytes_received: u64,
    /// To the application.
    pub bytes_sent: u64,
    #[serde(rename = "durationMs", serialize_with = "milliseconds")]
    pub duration: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FlowKind {
    Request,
    /// Of opaque bytes.
    Connection,
}

impl Flow {
    fn new(record: &AccessRecord) -> Self {
        let http = record.http.as_ref();
        let text = |text: &str| Some(cut(text, TEXT_MAX).to_owned()).filter(|text| !text.is_empty());
        let reasons = [
            &record.response_code_details,
            &record.connection_termination_details,
            &record.downstream_transport_failure_reason,
            &record.upstream_transport_failure_reason,
        ];
        let reasons: Vec<&str> = reasons.into_iter().filter_map(|reason| reason.as_deref()).collect();
        // A clock outside of jiff's years -9999..9999 is no reason to lose the record.
        let time = jiff::Timestamp::try_from(record.start_time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let identity = record.client_tls.as_ref().and_then(|tls| tls.identity());
        let client = record.client.as_ref().unwrap_or(&record.source);
        Self {
            time: format!("{time:.3}"),
            kind: if http.is_some() { FlowKind::Request } else { FlowKind::Connection },
            namespace: client.namespace.clone(),
            pod: client.pod.clone(),
            principal: identity.and_then(|identity| text(identity.as_str())),
            source: record.downstream_remote_address,
            original_destination: record.downstream_local_address,
            server_name: record.requested_server_name.clone(),
            authority: http.and_then(|http| text(http.authority.as_ref()?)),
            method: http.and_then(|http| text(&http.method)),
            path: http.and_then(|http| text(http.path.split('?').next()?)),
            request_id: http.and_then(|http| text(http.request_id.as_ref()?)),
            cluster: record.upstream_cluster.as_ref().map(|cluster| Arc::clone(&cluster.0)),
            route: record.route_name.clone(),
            upstream: record.upstream_host.as_ref().map(ToString::to_string),
            response_code: http.map(|_| record.response_code),
            response_flags: record.response_flags.to_string(),
            details: text(&reasons.join("; ")),
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            duration: record.duration,
        }
    }
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // In microseconds, as a number with three decimals at most.
    serializer.serialize_f64(duration.as_micros() as f64 / 1000.0)
}

/// Where followers come and records go.
#[derive(Clone, Debug)]
pub struct Flows {
    followers: Arc<AtomicUsize>,
    sender: broadcast::Sender<Arc<Flow>>,
}

impl Default for Flows {
    fn default() -> Self {
        Self { followers: Arc::default(), sender: broadcast::Sender::new(BEHIND_MAX) }
    }
}

impl Flows {
    /// Follows what ends from now on; of requests, those that begin from now on.
    pub fn follow(&self) -> Follower {
        self.followers.fetch_add(1, Ordering::Relaxed);
        Follower { receiver: self.sender.subscribe(), followers: Arc::clone(&self.followers) }
    }

    pub(crate) fn are_followed(&self) -> bool {
        self.followers.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn tell(&self, record: &AccessRecord) {
        if self.are_followed() {
            // Whoever followed may have gone meanwhile.
            drop(self.sender.send(Arc::new(Flow::new(record))));
        }
    }
}

/// Somebody who follows, until dropped.
#[derive(Debug)]
pub struct Follower {
    receiver: broadcast::Receiver<Arc<Flow>>,
    followers: Arc<AtomicUsize>,
}

/// What a follower is told.
#[derive(Clone, Debug, PartialEq)]
pub enum FlowEvent {
    Ended(Arc<Flow>),
    /// So many records were not told, because the follower was too slow.
    Lost(u64),
}

impl Follower {
    /// The next event; `None` when there will be no more. Can be cancelled without losing any.
    pub async fn next(&mut self) -> Option<FlowEvent> {
        match self.receiver.recv().await {
            Ok(flow) => Some(FlowEvent::Ended(flow)),
            Err(RecvError::Lagged(lost)) => Some(FlowEvent::Lost(lost)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.followers.fetch_sub(1, Ordering::Relaxed);
    }
}
