//! Connections of a cluster that may have only so many: who needs one waits, and who keeps an idle one that
//! somebody else needs, in whichever worker, gives it up.

use std::cell::Cell;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::Notify;

use super::{ConnectionFacts, PoolKey, Pools, Sender, Wanted};
use crate::proxy::upstream::bounds::{ConnectionSlot, Connections};

/// Waiters of the same worker get a connection before those of others, but for one in so many times.
const TURNS_OF_OTHERS: u32 = 16;

/// A way to send a request.
pub(super) enum Room {
    /// Somebody has done with it, or it has room for another stream.
    Kept(Sender, Rc<ConnectionFacts>),
    /// A connection may be made.
    New(ConnectionSlot),
}

/// Those who wait for a connection to one endpoint in this worker.
#[derive(Debug, Default)]
pub(super) struct LocalWaiters(Rc<Local>);

#[derive(Debug, Default)]
struct Local {
    count: Cell<u32>,
    freed: Notify,
}

impl LocalWaiters {
    pub(super) fn any(&self) -> bool {
        self.0.count.get() > 0
    }

    /// A connection is to be had.
    pub(super) fn wake(&self) {
        if self.any() {
            self.0.freed.notify_one();
        }
    }

    fn wait(&self) -> LocalWaiting {
        self.0.count.set(self.0.count.get() + 1);
        LocalWaiting(Rc::clone(&self.0))
    }
}

/// Counts as waiting for as long as it lives.
struct LocalWaiting(Rc<Local>);

impl Drop for LocalWaiting {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get().saturating_sub(1));
    }
}

impl Pools {
    /// Waits until there is room for one more request, in whatever way.
    pub(super) async fn room_for_one(
        &self,
        connections: &Arc<Connections>,
        key: &PoolKey,
        wanted: &Wanted<'_>,
    ) -> Room {
        if let Some(slot) = connections.enter() {
            return Room::New(slot);
        }
        let _waiting = connections.wait();
        let local = self.with_pool(key, |pool| pool.waiting.wait());
        loop {
            // Registered before looking, so that nothing that comes in between is missed.
            let (mut here, mut anywhere) =
                (std::pin::pin!(local.0.freed.notified()), std::pin::pin!(connections.freed()));
            here.as_mut().enable();
            anywhere.as_mut().enable();
            if !wanted.fresh
                && let Some((sender, facts)) = self.kept(key, wanted)
            {
                return Room::Kept(sender, facts);
            }
            if let Some(slot) = connections.enter() {
                return Room::New(slot);
            }
            connections.ask();
            tokio::select! {
                () = here => {}
                () = anywhere => {}
            }
        }
    }

    /// Whether a connection whose request is done goes to others than those who wait for it here.
    pub(super) fn is_for_others(&self, slot: &ConnectionSlot, facts: &ConnectionFacts) -> bool {
        if slot.connections().waiting() == 0 {
            return false;
        }
        let is_wanted_here = self.endpoints.borrow().get(&facts.key).is_some_and(|pool| pool.waiting.any());
        !is_wanted_here || facts.requests.get().is_multiple_of(TURNS_OF_OTHERS)
    }

    /// Forgets a connection, unless somebody uses it.
    fn give_up(&self, facts: &Rc<ConnectionFacts>) {
        let mut endpoints = self.endpoints.borrow_mut();
        let Some(pool) = endpoints.get_mut(&facts.key) else { return };
        if let Some(position) = pool.idle.iter().position(|idle| Rc::ptr_eq(&idle.facts, facts)) {
            pool.idle.remove(position);
            self.idle.set(self.idle.get() - 1);
        }
        pool.shared.retain(|shared| !Rc::ptr_eq(&shared.facts, facts) || shared.users() > 0);
    }

    /// A stream of a bounded HTTP/2 connection has ended: there is room for another one.
    fn stream_ended(&self, slot: &ConnectionSlot, facts: &Rc<ConnectionFacts>) {
        if self.is_unused(facts) && self.is_for_others(slot, facts) {
            self.give_up(facts);
        } else if let Some(pool) = self.endpoints.borrow().get(&facts.key) {
            pool.waiting.wake();
        }
    }

    fn is_unused(&self, facts: &Rc<ConnectionFacts>) -> bool {
        self.endpoints.borrow().get(&facts.key).is_some_and(|pool| {
            pool.idle.iter().any(|idle| Rc::ptr_eq(&idle.facts, facts))
                || pool.shared.iter().any(|shared| Rc::ptr_eq(&shared.facts, facts) && shared.users() == 0)
        })
    }
}

/// Tells those who wait when it goes.
pub(super) struct StreamOf {
    pools: Rc<Pools>,
    facts: Rc<ConnectionFacts>,
}

impl StreamOf {
    pub(super) fn bounded(pools: &Rc<Pools>, facts: &Rc<ConnectionFacts>) -> Option<Self> {
        facts.slot.is_some().then(|| Self { pools: Rc::clone(pools), facts: Rc::clone(facts) })
    }
}

impl Drop for StreamOf {
    fn drop(&mut self) {
        if let Some(slot) = &self.facts.slot {
            self.pools.stream_ended(slot, &self.facts);
        }
    }
}

/// Runs a connection to its end; given up earlier when somebody asks for one while it is idle.
pub(super) async fn drive(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    pools: &Weak<Pools>,
    facts: Rc<ConnectionFacts>,
) -> Result<(), hyper::Error> {
    let Some(slot) = &facts.slot else { return connection.await };
    let connections = slot.connections();
    let mut connection = std::pin::pin!(connection);
    let ended = loop {
        // Registered before looking: whoever asks from here on is heard.
        let asking = connections.asking();
        if let Some(pools) = pools.upgrade()
            && pools.is_unused(&facts)
            && connections.is_asked()
        {
            pools.give_up(&facts);
        }
        tokio::select! {
            ended = connection.as_mut() => break ended,
            // Whoever was woken for it here has its turn first.
            () = asking => tokio::task::yield_now().await,
        }
    };
    // What is closed is not kept until somebody looks: its place is free.
    if let Some(pools) = pools.upgrade() {
        pools.give_up(&facts);
    }
    ended
}
