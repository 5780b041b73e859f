//! What a route does to requests on purpose before they are sent on: some wait, some are answered here.

use std::time::Duration;

/// Of a million requests, so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub u32);

impl Share {
    /// Whether a request is among them; `random` is evenly distributed.
    pub fn takes(self, random: u64) -> bool {
        random % 1_000_000 < u64::from(self.0)
    }

    pub fn is_everything(self) -> bool {
        self.0 >= 1_000_000
    }
}

/// VirtualService `fault`. A request that waits may be answered here, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub delay: Option<(Duration, Share)>,
    pub abort: Option<(AbortStatus, Share)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    Http(u16),
    /// grpc-status; 200 for a client that does not speak gRPC.
    Grpc(u8),
}

#[cfg(test)]
mod tests {
    use super::Share;

    #[test]
    fn a_share_is_taken_evenly() {
        for (share, taken) in [(0, 0), (1, 1), (100_000, 100_000), (1_000_000, 1_000_000)] {
            let takes = (0..2_000_000_u64).filter(|random| Share(share).takes(*random)).count();
            assert_eq!(takes, 2 * taken, "{share}");
        }
    }
}
