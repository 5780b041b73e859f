//! What a connection takes beyond its own part of what there is: an HTTP/2 connection has many requests at one time, and each
//! may take an upstream connection, descriptors and buffers as a connection with one request does.

use std::net::IpAddr;

use super::room::Place;
use super::shares::Share;
use super::workload::Workload;

/// Counts as one more connection of its workload, and of its client's share of a gateway, for as long as it lives.
#[derive(Debug)]
pub(super) struct Extra {
    _place: Place,
    _share: Option<Share>,
}

impl Workload {
    /// `None` when there are as many already as there may be.
    pub(super) fn take_extra(&self, client: IpAddr) -> Option<Extra> {
        if self.part.is_full() {
            return None;
        }
        let share = match &self.shares {
            Some(shares) => Some(shares.take(client)?),
            None => None,
        };
        Some(Extra { _place: self.part.take_place(), _share: share })
    }
}
