//! The one record of a connection of opaque bytes.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::{ConnectFailure, NotConnected, Upstream};
use crate::proxy::copy::CopyEnd;
use crate::proxy::counting::CountedConnection;
use crate::proxy::downstream::Downstream;
use crate::proxy::outcome::{ResponseFlag, ResponseFlags};
use crate::proxy::upstream::ConnectError;
use crate::proxy::worker::Worker;
use crate::snapshot::Refusal;
use crate::telemetry::AccessRecord;

/// The record of a connection under way; written when it is dropped, however that comes about.
pub(super) struct OpenRecord {
    worker: Rc<Worker>,
    accepted_at: Instant,
    pub(super) entry: AccessRecord,
    pub(super) counted: CountedConnection,
}

impl OpenRecord {
    pub(super) fn new(worker: &Rc<Worker>, downstream: &Downstream) -> Self {
        Self {
            worker: Rc::clone(worker),
            accepted_at: downstream.accepted_at,
            entry: AccessRecord {
                // Stands until the end is known: what a cancelled connection logs.
                response_flags: ResponseFlags::NONE,
                ..downstream.record()
            },
            counted: worker.counting().connection(downstream.peer().map(|peer| Arc::clone(&peer.labels))),
        }
    }

    pub(super) fn connected(&mut self, upstream: &Upstream) {
        self.entry.upstream_cluster = Some(upstream.cluster.clone());
        self.entry.upstream_host = Some(upstream.opened.peer.clone());
        self.has_local(upstream);
    }

    /// Asked for where somebody wants to know.
    pub(super) fn has_local(&mut self, upstream: &Upstream) {
        if self.entry.upstream_local_address.is_none() && self.worker.wants_records() {
            self.entry.upstream_local_address = upstream.opened.local();
        }
    }

    /// All is known by which it is counted.
    pub(super) fn carries(&self, upstream: &Upstream) {
        let name = self.entry.requested_server_name.as_deref();
        self.counted.connected(&self.worker.current().snapshot, &upstream.cluster, name);
    }

    pub(super) fn failed(&mut self, failure: ConnectFailure) {
        self.entry.upstream_cluster = Some(failure.cluster);
        let ConnectError { error, host } = match failure.error {
            NotConnected::Failed(error) => error,
            NotConnected::NoCluster => {
                // As for requests: there is none to name.
                self.entry.upstream_cluster = None;
                self.entry.response_flags = ResponseFlag::NoClusterFound.into();
                return;
            }
            NotConnected::AroundGateway => return self.leads_around_gateway(),
            NotConnected::NotAllowed => {
                self.entry.response_flags = ResponseFlag::UnauthorizedExternalService.into();
                self.entry.connection_termination_details = Some(Refusal::NotAllowed.details().into());
                return;
            }
        };
        self.entry.upstream_host = host;
        self.entry.response_flags = error.flags();
        if error.flag() == ResponseFlag::UpstreamConnectionFailure {
            // tcp_proxy makes one attempt, and says that there will be no other.
            self.entry.response_flags.insert(ResponseFlag::UpstreamRetryLimitExceeded);
        }
        self.entry.upstream_transport_failure_reason = error.transport_failure_reason();
    }

    /// The egress gateway is enforced.
    pub(super) fn leads_around_gateway(&mut self) {
        self.entry.response_flags = ResponseFlag::UnauthorizedExternalService.into();
        self.entry.connection_termination_details = Some(Refusal::AroundGateway.details().into());
        self.worker.stats().leads_around_gateway();
    }

    pub(super) fn ended(&mut self, end: &CopyEnd) {
        match end {
            CopyEnd::Closed | CopyEnd::UpstreamReset => {}
            CopyEnd::IdleTimeout => self.entry.response_flags.insert(ResponseFlag::StreamIdleTimeout),
            CopyEnd::DownstreamReset => {
                self.entry.response_flags.insert(ResponseFlag::DownstreamConnectionTermination);
            }
            CopyEnd::DownstreamFailed(error) => {
                self.entry.response_flags.insert(ResponseFlag::DownstreamConnectionTermination);
                self.entry.connection_termination_details = Some(Cow::Owned(error.to_string()));
            }
            CopyEnd::UpstreamFailed(error) => {
                self.entry.response_flags.insert(ResponseFlag::UpstreamConnectionTermination);
                self.entry.connection_termination_details = Some(Cow::Owned(error.to_string()));
            }
        }
    }
}

impl Drop for OpenRecord {
    fn drop(&mut self) {
        let entry = &mut self.entry;
        let name = entry.requested_server_name.as_deref();
        let snapshot = &self.worker.current().snapshot;
        self.counted.closed(snapshot, entry.upstream_cluster.as_ref(), name, entry.response_flags);
        if !self.worker.wants_records() {
            return;
        }
        entry.duration = self.accepted_at.elapsed();
        entry.bytes_received = self.counted.transferred().received.get();
        entry.bytes_sent = self.counted.transferred().sent.get();
        self.worker.record(entry);
    }
}
