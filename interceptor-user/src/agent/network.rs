//! What a pod's network namespace says to its policy: the pod's own addresses, and what leaves by an interface that its
//! annotation excludes. Followed as they change.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::control::Control;
use crate::datapath::{self, InterfaceNote, InterfaceRoutes};
use crate::enroll::{NetworkChanges, within};
use crate::workload::{InterfaceRanges, RedirectPolicy};

/// What changes so soon after another change is taken up together.
const BURST: Duration = Duration::from_millis(250);

/// The same of a namespace that changes all the time: it must not cost the others.
const BURST_MAX: Duration = Duration::from_secs(4);

/// Addresses of a pod that count as its own. More are for who may make them without end, and each costs the agent time whenever
/// one of them comes or goes.
const ADDRESSES_MAX: usize = 1024;

/// As it was read.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) routes: InterfaceRoutes,
}

impl Network {
    /// That of the calling thread's network namespace, as far as the policy asks for it.
    pub(super) fn read(redirect: &RedirectPolicy) -> io::Result<Self> {
        let names = if redirect.asks_routes() { &*redirect.exclude_interfaces } else { &[] };
        let mut addresses = datapath::own_addresses()?;
        addresses.truncate(ADDRESSES_MAX);
        Ok(Self { addresses, routes: InterfaceRoutes::read(names)? })
    }
}

/// The policy as the kernel is to have it.
pub(super) fn with_ranges(redirect: &RedirectPolicy, ranges: &InterfaceRanges) -> RedirectPolicy {
    RedirectPolicy { interface_ranges: ranges.clone(), ..redirect.clone() }
}

/// Says in the log what is to be told of a pod's excluded interfaces, once.
pub(super) fn tell_note(pod: &str, before: Option<&InterfaceNote>, now: Option<&InterfaceNote>) {
    match now.filter(|now| before != Some(now)) {
        Some(note @ InterfaceNote::Absent(_)) => tracing::info!("pod {pod}: {note}"),
        Some(note @ (InterfaceNote::TooManyRoutes | InterfaceNote::TooManyRanges)) => {
            tracing::warn!("pod {pod}: {note}");
        }
        None => {}
    }
}

/// A task that goes on for as long as this is held.
#[derive(Debug)]
pub(super) struct Following {
    task: JoinHandle<()>,
    pub(super) with_routes: bool,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Calls `changed` whenever an address of the namespace comes or goes, or a route or an interface if they are asked for,
/// until the result is dropped.
fn follow(
    netns: &Arc<OwnedFd>,
    with_routes: bool,
    mut changed: impl FnMut() + Send + 'static,
) -> anyhow::Result<Following> {
    let changes = within(netns, || NetworkChanges::subscribe(with_routes))??;
    let changes = datapath::readable(changes.into())?;
    let task = tokio::spawn(async move {
        let (mut burst, mut looked) = (BURST, None::<Instant>);
        while let Ok(mut ready) = changes.readable().await {
            let goes_on = looked.is_some_and(|looked| looked.elapsed() < burst);
            burst = if goes_on { (burst * 2).min(BURST_MAX) } else { BURST };
            match NetworkChanges::happened_on(ready.get_inner()) {
                Ok(true) => changed(),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!("{error:#}");
                    return;
                }
            }
            ready.clear_ready();
            tokio::time::sleep(burst).await;
            looked = Some(Instant::now());
        }
    });
    Ok(Following { task, with_routes })
}

impl Control {
    /// To be called before the namespace is read, so that no change is missed.
    pub(super) fn follow_network(
        &self,
        uid: &Arc<str>,
        netns: &Arc<OwnedFd>,
        redirect: &RedirectPolicy,
    ) -> anyhow::Result<Following> {
        let (changed, uid) = (self.network_changes.0.clone(), Arc::clone(uid));
        follow(netns, redirect.asks_routes(), move || drop(changed.send(Arc::clone(&uid))))
    }

    pub(super) fn refresh_network(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let name = pod.name();
        let Some(carried) = &mut pod.carried else { return };
        let redirect = &carried.redirect;
        let read = within(&carried.netns.file, || Network::read(redirect)).and_then(|read| read);
        let refreshed = read.map_err(anyhow::Error::from).and_then(|network| {
            let ranges = &network.routes.ranges;
            self.datapath.update_network(carried.netns.cookie, &network.addresses, ranges)?;
            Ok(network)
        });
        let problem = match refreshed {
            Ok(network) => {
                tell_note(&name, carried.routes.note.as_ref(), network.routes.note.as_ref());
                carried.addresses.store(Arc::new(network.addresses));
                carried.routes = network.routes;
                None
            }
            Err(error) => Some(format!("can't follow its addresses and routes: {error:#}")),
        };
        if let Some(problem) = problem.as_ref().filter(|problem| pod.old_network.as_ref() != Some(problem)) {
            tracing::error!("pod {name}: {problem}");
        }
        pod.old_network = problem;
        if pod.described.as_ref() != Some(&pod.record()) {
            pod.retry.now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the carrying of a pod fails, nobody goes on to listen to its namespace.
    #[tokio::test]
    async fn what_is_followed_is_let_go_with_its_follower() {
        let held = Arc::new(());
        let socket = Arc::clone(&held);
        let task = tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(socket);
        });
        let following = Following { task, with_routes: false };
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&held), 2);
        drop(following);
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
