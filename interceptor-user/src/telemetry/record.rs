//! What is known of a connection or request when it ends: one record for each, written to the access
//! log and counted.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderName;

use crate::proxy::client_tls::ClientTls;
use crate::proxy::outcome::ResponseFlags;
use crate::snapshot::{ClusterName, EndpointAddress};
use crate::workload::SourceWorkload;

/// The HTTP side of a record; absent for opaque bytes.
#[derive(Clone, Debug, Default)]
pub struct HttpRecord {
    pub method: String,
    /// Path and query, as the client sent them.
    pub path: String,
    /// `HTTP/1.1`, `HTTP/2`, `HTTP/1.0`.
    pub protocol: &'static str,
    /// x-envoy-upstream-service-time.
    pub upstream_service_time: Option<Duration>,
    pub x_forwarded_for: Option<String>,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
    pub authority: Option<String>,
    /// Those that the log's format names beside, as they came.
    pub request_headers: Vec<(HeaderName, String)>,
    pub response_headers: Vec<(HeaderName, String)>,
}

/// One line of the access log.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// Who carries it: the workload whose connection it is, or the gateway.
    pub source: Rc<SourceWorkload>,
    /// Whose connection it is; `None` when a gateway can't tell.
    pub client: Option<Rc<SourceWorkload>>,
    pub start_time: SystemTime,
    pub http: Option<HttpRecord>,
    /// 0 when nothing was answered.
    pub response_code: u16,
    pub response_flags: ResponseFlags,
    /// `via_upstream`, `direct_response`, …
    pub response_code_details: Option<Cow<'static, str>>,
    pub connection_termination_details: Option<Cow<'static, str>>,
    pub upstream_transport_failure_reason: Option<Cow<'static, str>>,
    pub downstream_transport_failure_reason: Option<Cow<'static, str>>,
    /// Of a client whose TLS ended here.
    pub client_tls: Option<Rc<ClientTls>>,
    /// Body bytes for HTTP, all bytes for TCP: from the client.
    pub bytes_received: u64,
    /// To the client.
    pub bytes_sent: u64,
    pub duration: Duration,
    pub upstream_host: Option<EndpointAddress>,
    pub upstream_cluster: Option<ClusterName>,
    /// `None` of a unix socket, too.
    pub upstream_local_address: Option<SocketAddr>,
    /// The original destination.
    pub downstream_local_address: SocketAddr,
    pub downstream_remote_address: SocketAddr,
    pub requested_server_name: Option<Arc<str>>,
    pub route_name: Option<Arc<str>>,
}
