//! What a connection takes beyond its own part of what there is: an HTTP/2 connection has many requests at one time, and each
//! may take an upstream connection, descriptors and buffers as a connection with one request does.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::shares::Share;
use super::workload::Workload;

/// Counts as one more connection of its workload, and of its client's share of a gateway, for as long as it lives.
#[derive(Debug)]
pub(super) struct Extra {
    of_workload: Arc<AtomicUsize>,
    _share: Option<Share>,
}

impl Workload {
    /// `None` when there are as many already as there may be.
    pub(super) fn take_extra(&self, client: IpAddr) -> Option<Extra> {
        let share = match &self.shares {
            Some(shares) => Some(shares.take(client)?),
            None => None,
        };
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        // From here on what is taken is given back, however it goes on.
        let extra = Extra { of_workload: Arc::clone(&self.open), _share: share };
        (open < self.connections_max).then_some(extra)
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        self.of_workload.fetch_sub(1, Ordering::Relaxed);
    }
}
