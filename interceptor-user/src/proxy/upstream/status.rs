//! What is known of a cluster's endpoints at one moment, for people.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Moment;
use super::host::Host;
use crate::snapshot::{ClusterName, EndpointAddress};

/// The clusters that connections have used, and their endpoints.
pub type InUse = HashMap<ClusterName, EndpointsNow>;

/// The endpoints of a cluster in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointsNow {
    pub endpoints: Vec<EndpointStatus>,
    /// Names that have no address, and why.
    pub without_address: Vec<(Arc<str>, Arc<str>)>,
    /// Why a request would find nobody to go to.
    pub nobody: Option<Arc<str>>,
}

/// An endpoint as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    pub address: EndpointAddress,
    pub weight: u32,
    pub active_requests: u32,
    /// How long it stays ejected, if it is; then it comes back at the end of an interval.
    pub ejected_for: Option<Duration>,
}

impl EndpointStatus {
    pub(super) fn of(host: &Host) -> Self {
        Self {
            address: host.address.clone(),
            weight: host.weight,
            active_requests: host.active(),
            ejected_for: host.health.ejected_until().map(|until| until.since(Moment::now())),
        }
    }

    /// Why it gets nothing; `None` when it does.
    pub fn why_left_out(&self) -> Option<String> {
        let seconds = self.ejected_for?.as_secs_f64().ceil();
        Some(format!("ejected by outlier detection for {seconds} s more"))
    }
}
