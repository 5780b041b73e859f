//! One intercepted connection as it was accepted: who connected, and whom they meant.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::telemetry::AccessRecord;

/// Facts of an accepted connection; they never change.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// The application's end.
    pub remote_address: SocketAddr,
    /// What the application asked for, before the kernel redirected it.
    pub original_dst: SocketAddr,
    pub accepted_at: Instant,
    pub start_time: SystemTime,
    /// From the ClientHello, once inspected.
    pub requested_server_name: Option<Arc<str>>,
}

impl Downstream {
    pub fn new(remote_address: SocketAddr, original_dst: SocketAddr) -> Self {
        Self {
            remote_address,
            original_dst,
            accepted_at: Instant::now(),
            start_time: SystemTime::now(),
            requested_server_name: None,
        }
    }

    /// A record of the connection as a whole, with nothing carried yet.
    pub fn record(&self) -> AccessRecord {
        AccessRecord {
            start_time: self.start_time,
            http: None,
            response_code: 0,
            response_flags: super::outcome::ResponseFlags::NONE,
            response_code_details: None,
            connection_termination_details: None,
            upstream_transport_failure_reason: None,
            bytes_received: 0,
            bytes_sent: 0,
            duration: self.accepted_at.elapsed(),
            upstream_host: None,
            upstream_cluster: None,
            upstream_local_address: None,
            downstream_local_address: self.original_dst,
            downstream_remote_address: self.remote_address,
            requested_server_name: self.requested_server_name.clone(),
            route_name: None,
        }
    }
}
