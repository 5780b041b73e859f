//! Connections that all clients of a gateway may have open at one time, and how they share them: no client can take
//! so many that another gets none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One for all ports of a gateway.
///
/// A client may have no more connections than are left for others: half of all when it is alone, a third beside another
/// one that takes what it gets, and so on. What is left is never nothing, as long as one client's are many.
#[derive(Debug)]
pub struct Shares {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Clients that have one at least.
    by_client: HashMap<IpAddr, usize>,
}

/// A connection's part, for as long as it lives.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    client: IpAddr,
}

impl Shares {
    /// `max`: connections of all clients together.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, taken: Mutex::default() }
    }

    /// `None` when the client has its share already.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Share> {
        let client = client.to_canonical();
        let mut taken = self.lock();
        let left = self.max.saturating_sub(taken.all);
        let own = taken.by_client.get(&client).copied().unwrap_or_default();
        if own >= left {
            return None;
        }
        taken.all += 1;
        taken.by_client.insert(client, own + 1);
        Some(Share { shares: Arc::clone(self), client })
    }

    /// What is guarded is whole after each statement but one, which can't panic.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Share, Shares};

    /// All that a client gets.
    fn take_all(shares: &Arc<Shares>, client: &str) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(client.parse().unwrap())).collect()
    }

    #[test]
    fn nobody_takes_everything() {
        let shares = Arc::new(Shares::new(12));
        let first = take_all(&shares, "10.0.0.1");
        assert_eq!(first.len(), 6);
        let second = take_all(&shares, "10.0.0.2");
        assert_eq!(second.len(), 3);
        assert!(shares.take("10.0.0.1".parse().unwrap()).is_none());
        assert!(shares.take("fd00::3".parse().unwrap()).is_some());
        drop(second);
        assert!(shares.take("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same client");
        drop(first);
        assert_eq!(take_all(&shares, "10.0.0.1").len(), 6);
        assert!(shares.lock().by_client.is_empty() && shares.lock().all == 0);
    }

    #[test]
    fn none_is_more_than_there_are() {
        let shares = Arc::new(Shares::new(3));
        let clients = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
        let taken: Vec<_> = clients.iter().flat_map(|client| take_all(&shares, client)).collect();
        assert_eq!(taken.len(), 3);
    }
}
