//! The process's descriptors, and how workloads share them: however many take what they get, there is room for one more
//! workload.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};

/// What a connection takes at most: a socket for each end, and a pipe for each direction.
const DESCRIPTORS_EACH_MAX: usize = 6;

/// One for all workloads that share the process's descriptors.
///
/// A workload may have no more than are left for others: half of all when it is alone, a third beside another one that takes
/// what it gets, and so on. What its connections take is not counted one by one: each counts as an average one.
#[derive(Debug)]
pub struct Room {
    descriptors: usize,
    /// The youngest one's number. The kernel gives the lowest that is free: so many are in use.
    used: AtomicUsize,
    connections: AtomicUsize,
}

/// A workload's part of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    open: Arc<AtomicUsize>,
    connections_max: usize,
    room: Arc<Room>,
}

/// One connection's place, of its workload and of all, for as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    of_workload: Arc<AtomicUsize>,
    room: Arc<Room>,
}

impl Room {
    /// For connections; an eighth of all descriptors that the process may have is kept for what else it does.
    #[must_use]
    pub fn of_process() -> Self {
        Self::new(descriptors_max().map_or(usize::MAX, |max| max - max / 8))
    }

    const fn new(descriptors: usize) -> Self {
        Self { descriptors, used: AtomicUsize::new(0), connections: AtomicUsize::new(0) }
    }
}

/// For whoever shares with nobody.
impl Default for Room {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Part {
    pub(super) fn new(connections_max: usize, room: Arc<Room>) -> Self {
        Self { open: Arc::default(), connections_max, room }
    }

    /// A descriptor has been made for one of its connections.
    pub(crate) fn made(&self, descriptor: &impl AsRawFd) {
        let used = usize::try_from(descriptor.as_raw_fd()).unwrap_or_default();
        self.room.used.store(used, Ordering::Relaxed);
    }

    /// Whether it may have no further connection from a client.
    pub(super) fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.connections_max || !self.has_descriptors()
    }

    /// Whether descriptors are left for one more of its sockets.
    pub(crate) fn has_descriptors(&self) -> bool {
        let Room { descriptors, used, connections } = &*self.room;
        let left = descriptors.saturating_sub(used.load(Ordering::Relaxed));
        let all = connections.load(Ordering::Relaxed);
        has_part(self.open.load(Ordering::Relaxed), all, used.load(Ordering::Relaxed), left)
    }

    pub(super) fn take_place(&self) -> Place {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.room.connections.fetch_add(1, Ordering::Relaxed);
        Place { of_workload: Arc::clone(&self.open), room: Arc::clone(&self.room) }
    }
}

/// Whether a workload with `own` connections of `all`, which take `used` descriptors, may take one of those that are `left`.
fn has_part(own: usize, all: usize, used: usize, left: usize) -> bool {
    let each = used.checked_div(all).unwrap_or(1).clamp(1, DESCRIPTORS_EACH_MAX);
    own.saturating_mul(each) < left
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of_workload.fetch_sub(1, Ordering::Relaxed);
        self.room.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether so many descriptors are in use that what can do without another one is to do without.
pub(super) fn is_scarce(youngest: RawFd) -> bool {
    static PLENTY: OnceLock<usize> = OnceLock::new();
    let plenty = *PLENTY.get_or_init(|| descriptors_max().map_or(usize::MAX, |max| max / 2));
    usize::try_from(youngest).is_ok_and(|youngest| youngest >= plenty)
}

/// As the process was started; `None`: no limit.
fn descriptors_max() -> Option<usize> {
    usize::try_from(getrlimit(Resource::Nofile).current?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_descriptors() {
        for (own, all, used, left, expected) in [
            (0, 0, 50, 950, true),
            // What the process has besides makes no connection dear.
            (3, 3, 600, 400, true),
            (499, 499, 499, 501, true),
            (500, 500, 500, 500, false),
            (250, 250, 500, 500, false),
            // A third beside another one.
            (332, 665, 665, 335, true),
            (334, 667, 667, 333, false),
            // Whoever comes when little is left.
            (0, 900, 999, 1, true),
            (0, 900, 1000, 0, false),
        ] {
            assert_eq!(has_part(own, all, used, left), expected, "{own} of {all}, {used} used, {left} left");
        }
    }

    #[test]
    fn what_is_taken_is_given_back() {
        let room = Arc::new(Room::new(100));
        let part = Part::new(2, Arc::clone(&room));
        let places = [part.take_place(), part.take_place()];
        assert!(part.is_full() && part.has_descriptors());
        drop(places);
        assert!(!part.is_full());
        part.made(&100);
        assert!(part.is_full() && !part.has_descriptors());
        part.made(&50);
        assert!(!part.is_full());
        assert_eq!(room.connections.load(Ordering::Relaxed), 0);
    }
}
