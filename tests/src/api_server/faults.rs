//! What goes wrong, as tests ask for it.

use std::collections::HashMap;
use std::time::Duration;

use super::ApiServer;

/// What becomes of requests for a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Each new request is answered so; watches that are open go on.
    Status(u16),
    /// Lists and watches answer with what is no JSON.
    Garbage,
}

/// What the server makes of `sendInitialEvents`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StreamingLists {
    #[default]
    Served,
    /// 500, as with an old etcd.
    Refused,
    /// As a server that has never heard of it.
    Ignored,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) of_kind: HashMap<String, Fault>,
    pub(super) streaming_lists: StreamingLists,
    /// Before each answer.
    pub(super) delay: Duration,
    /// Watches of connections up to this number say nothing more.
    pub(super) silent_until: u64,
    /// Open watches of connections up to this number are told that they are too old.
    pub(super) expired_until: u64,
    /// A line of garbage that each open watch of a kind sends: how many times so far.
    pub(super) garbage_lines: HashMap<String, u64>,
    pub(super) open_watches: HashMap<String, usize>,
}

impl ApiServer {
    /// From now on, until `None`.
    pub fn fault(&self, plural: &str, fault: Option<Fault>) {
        let mut state = self.shared.lock();
        match fault {
            Some(fault) => state.faults.of_kind.insert(plural.to_owned(), fault),
            None => state.faults.of_kind.remove(plural),
        };
    }

    pub fn streaming_lists(&self, streaming_lists: StreamingLists) {
        self.shared.lock().faults.streaming_lists = streaming_lists;
    }

    /// Waits this long before each answer.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().faults.delay = delay;
    }

    /// Forgets what has happened: a watch can't go on from an earlier version.
    pub fn compact(&self) {
        self.shared.lock().objects.compact();
    }

    /// Tells every open watch that it is too old, in the middle of it.
    pub fn expire_watches(&self) {
        let mut state = self.shared.lock();
        state.faults.expired_until = state.connections_seen;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Deletes an object; open watches of its kind get a line that is no JSON instead of the event.
    pub fn delete_behind_garbage(&self, plural: &str, namespace: &str, name: &str) -> anyhow::Result<()> {
        let mut state = self.shared.lock();
        state.objects.delete(plural, namespace, name)?;
        *state.faults.garbage_lines.entry(plural.to_owned()).or_default() += 1;
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }
}
