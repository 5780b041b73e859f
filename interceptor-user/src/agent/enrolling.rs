//! Gives each pod what it is to have, one step at a time; what fails is tried again.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;

use super::control::Control;
use super::names::PodNames;
use super::network::{Network, tell_note, with_ranges};
use super::pod::{Carried, Pod};
use crate::compile::Client;
use crate::datapath::{Besides, CgroupId, Listeners, QuerySockets};
use crate::enroll::{PodNetns, Wanted, within};
use crate::proxy::{Configured, Intercepted, ProxiedWorkload};

/// A connection is a (source port, address) pair: eight addresses hold some 200,000 open ones of a pod.
const ADDRESSES_V4: u16 = 8;
const PORTS_V6: u16 = 4;

/// Connections that a pod may have open, where there are descriptors enough.
const CONNECTIONS_MAX: usize = 32_768;

/// Of those that there are descriptors for, no pod has more than half, if each takes four of the six that it may take.
fn connections_max() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    CONNECTIONS_MAX.min(files / 8)
}

impl Control {
    pub(super) fn reconcile(&mut self) {
        let due: Vec<Arc<str>> =
            self.pods.iter().filter(|(_, pod)| pod.retry.is_due()).map(|(uid, _)| Arc::clone(uid)).collect();
        for uid in due {
            let Some(mut pod) = self.pods.remove(&uid) else { continue };
            pod.retry.begin();
            if let Err(error) = self.reconcile_pod(&uid, &mut pod) {
                let problem = format!("{error:#}");
                if pod.told.as_ref() != Some(&problem) {
                    tracing::error!("pod {}: {problem}", pod.name());
                }
                pod.told = Some(problem.clone());
                pod.problem = Some(problem);
                pod.retry.later_for_failure();
            }
            pod.retry.end();
            if pod.api.is_some() || pod.cgroup.is_some() {
                self.pods.insert(uid, pod);
            }
        }
        if std::mem::take(&mut self.lacks_configurations) {
            self.ask_for_configurations();
        }
    }

    fn reconcile_pod(&mut self, uid: &Arc<str>, pod: &mut Pod) -> anyhow::Result<()> {
        let Some(cgroup) = pod.cgroup.as_ref().map(|cgroup| cgroup.id) else {
            return self.release(pod);
        };
        match pod.wanted().cloned() {
            None => self.let_go(pod, cgroup)?,
            Some(wanted) => {
                let enrolled = self.enroll(uid, pod, cgroup, &wanted);
                pod.problem = enrolled.as_ref().err().map(|error| format!("{error:#}"));
                self.describe(pod, cgroup)?;
                return enrolled;
            }
        }
        pod.problem = None;
        self.describe(pod, cgroup)
    }

    /// Does what is to be done next for a pod of ours.
    fn enroll(
        &mut self,
        uid: &Arc<str>,
        pod: &mut Pod,
        cgroup: CgroupId,
        wanted: &Wanted,
    ) -> anyhow::Result<()> {
        let Some(directory) = pod.cgroup.as_ref().map(|cgroup| cgroup.directory.clone()) else {
            return Ok(());
        };
        let besides =
            Besides { guard: wanted.redirect.enforced.is_some(), capture_dns: wanted.client.learned_names };
        // From here on connections of a pod that is new are refused until it is carried. On one that is served unenforced the
        // guard comes after the policy: it would drop what that still lets around the proxy, and those connections would hang.
        let guard = besides.guard && !is_served_unenforced(pod, cgroup);
        self.attach(pod, cgroup, &directory, Besides { guard, ..besides })?;
        if let Some(carried) = &pod.carried
            && let Some(failure) = self.failure(carried)
        {
            tracing::error!("pod {}: {failure}: they are made again", pod.name());
            self.stop_carrying(pod)?;
        }
        let known = pod.carried.as_ref().map(|carried| &carried.netns);
        let found = PodNetns::of_cgroup(&self.settings.proc, &directory, &self.host, known)
            .context("can't look at its network namespace")?;
        let Some(netns) = found.or_else(|| pod.announced.clone()) else {
            // Between sandboxes; or nothing of it runs yet.
            self.attach(pod, cgroup, &directory, besides)?;
            pod.has_netns = false;
            if pod.carried.is_none() {
                pod.retry.later();
            }
            return Ok(());
        };
        pod.has_netns = true;
        let client = self.labels.reduce(&wanted.client);
        let Some(configured) = self.configured.get(&client).cloned() else {
            // Asked for when this pod is back among the others.
            self.lacks_configurations = true;
            return Ok(());
        };
        if pod.carried.as_ref().is_some_and(|carried| carried.netns != netns) {
            self.attach(pod, cgroup, &directory, besides)?;
            self.stop_carrying(pod)?;
        }
        let name = pod.name();
        let mut done = None;
        match &mut pod.carried {
            Some(carried) if carried.names.is_some() == client.learned_names => {
                if carried.client != client {
                    self.proxy.reconfigure(carried.workload, &configured);
                    carried.client = client;
                }
                if carried.redirect != wanted.redirect {
                    let told = carried.routes.note.clone();
                    self.change_redirect(uid, carried, wanted)?;
                    tell_note(&name, told.as_ref(), carried.routes.note.as_ref());
                    pod.old_network = None;
                    done = Some("the annotations' policy is in effect");
                }
            }
            Some(_) | None => {
                let carried = self.carry(uid, pod, wanted, client, configured, netns)?;
                let told = pod.carried.as_ref().and_then(|before| before.routes.note.as_ref());
                tell_note(&name, told, carried.routes.note.as_ref());
                pod.old_network = None;
                match pod.carried.replace(carried) {
                    None => done = Some("enrolled"),
                    // The kernel sends nothing there any more.
                    Some(before) => {
                        self.proxy.remove(before.workload, self.settings.drain);
                        done = Some(match wanted.client.learned_names {
                            true => "the capture of its DNS begins",
                            false => "the capture of its DNS has ended",
                        });
                    }
                }
            }
        }
        self.attach(pod, cgroup, &directory, besides)?;
        if let Some(done) = done {
            tracing::info!("pod {name}: {done}");
        }
        Ok(())
    }

    /// Puts the programs on that are to be there.
    fn attach(
        &mut self,
        pod: &mut Pod,
        cgroup: CgroupId,
        directory: &Path,
        besides: Besides,
    ) -> anyhow::Result<()> {
        if pod.attached != Some((cgroup, besides)) {
            let opened =
                File::open(directory).with_context(|| format!("can't open {}", directory.display()))?;
            pod.attached = Some((self.datapath.attach_pod(opened, besides)?, besides));
            self.datapath.decide_again(cgroup)?;
        }
        Ok(())
    }

    /// Gives a pod that is carried the policy that its annotations say now.
    fn change_redirect(
        &mut self,
        uid: &Arc<str>,
        carried: &mut Carried,
        wanted: &Wanted,
    ) -> anyhow::Result<()> {
        let (netns, redirect) = (&carried.netns, &wanted.redirect);
        if carried.following.with_routes != redirect.asks_routes() {
            carried.following = self.follow_network(uid, &netns.file, redirect)?;
        }
        let read = within(&netns.file, || Network::read(redirect)).and_then(|read| read);
        let network = read.context("can't read its addresses and routes")?;
        let policy = with_ranges(redirect, &network.routes.ranges);
        self.datapath.enroll(netns.cookie, &policy, &network.addresses, carried.listener)?;
        carried.addresses.store(Arc::new(network.addresses));
        carried.redirect = redirect.clone();
        carried.routes = network.routes;
        Ok(())
    }

    /// What of a pod can't go on.
    fn failure(&self, carried: &Carried) -> Option<String> {
        if let Some(failure) = self.proxy.failure(carried.workload) {
            return Some(format!("its listeners failed ({failure})"));
        }
        let has_relay = carried.names.as_ref().is_none_or(|names| !names.failed());
        (!has_relay).then(|| "the relay of its DNS queries and its listeners failed".to_owned())
    }

    /// Tells whoever looks at the maps, if there is anything new.
    fn describe(&mut self, pod: &mut Pod, cgroup: CgroupId) -> anyhow::Result<()> {
        let record = pod.record();
        if pod.described.as_ref() != Some(&record) {
            self.datapath.describe(cgroup, &record)?;
            pod.described = Some(record);
        }
        Ok(())
    }

    /// Opens the pod's listeners, serves them, and then has the kernel send connections there.
    fn carry(
        &mut self,
        uid: &Arc<str>,
        pod: &Pod,
        wanted: &Wanted,
        client: Client,
        configured: Configured,
        netns: PodNetns,
    ) -> anyhow::Result<Carried> {
        let following = self.follow_network(uid, &netns.file, &wanted.redirect)?;
        let opened = within(&netns.file, || {
            let queries = client.learned_names.then(QuerySockets::open).transpose()?;
            let listeners = Listeners::open(ADDRESSES_V4, PORTS_V6)?;
            Ok::<_, std::io::Error>((listeners, queries, Network::read(&wanted.redirect)?))
        });
        let (mut listeners, queries, Network { addresses, routes }) =
            opened?.context("can't open listeners in its network namespace")?;
        listeners.listener.relay_port = queries.as_ref().map_or(0, |queries| queries.port);
        let reader = self.datapath.name_server_reader();
        let names =
            queries.map(|queries| PodNames::learn(queries, &netns, reader, &self.resolver)).transpose()?;
        let addresses = Arc::new(ArcSwap::from_pointee(addresses));
        let (reader, own) = (self.datapath.original_dst_reader(), Arc::clone(&addresses));
        let workload = self.proxy.add(ProxiedWorkload {
            listeners: listeners.v6.into_iter().chain([listeners.v4]).collect(),
            intercepted: Arc::new(move |socket| {
                let original_dst = reader.get(socket)?.map(|original| original.addr);
                Ok(original_dst.map(|original_dst| Intercepted {
                    original_dst,
                    source: first_of_family(&own.load(), original_dst.is_ipv4()),
                }))
            }),
            netns: Some(Arc::clone(&netns.file)),
            configured,
            connections_max: connections_max(),
            room: Arc::clone(&self.room),
            shares: None,
            peers: None,
            learned: names.as_ref().map(|names| Arc::clone(&names.learned)),
            source: Arc::clone(&pod.source),
        })?;
        let (own, policy) = (addresses.load_full(), with_ranges(&wanted.redirect, &routes.ranges));
        let enrolled = self.datapath.enroll(netns.cookie, &policy, &own, listeners.listener);
        if let Err(error) = enrolled {
            self.proxy.remove(workload, Duration::ZERO);
            return Err(error.into());
        }
        Ok(Carried {
            netns,
            workload,
            listener: listeners.listener,
            addresses,
            redirect: wanted.redirect.clone(),
            routes,
            client,
            names,
            left: None,
            following,
        })
    }

    /// Its cgroup is gone, and with it every process.
    fn release(&mut self, pod: &mut Pod) -> anyhow::Result<()> {
        // Its links may have been collected already.
        let was_ours = pod.carried.is_some() || pod.attached.is_some();
        self.stop_carrying(pod)?;
        if let Some((id, _)) = pod.attached.take() {
            self.datapath.detach_pod(id)?;
        }
        if was_ours {
            tracing::info!("pod {}: gone", pod.name());
        }
        pod.described = None;
        pod.problem = None;
        Ok(())
    }

    /// Not ours, or not any more: its connections go as if we were not there.
    fn let_go(&mut self, pod: &mut Pod, cgroup: CgroupId) -> anyhow::Result<()> {
        if pod.described.is_none() || pod.attached.is_some() {
            self.datapath.leave_alone(cgroup)?;
            // An earlier agent may have thought otherwise.
            self.datapath.detach_pod(cgroup)?;
            pod.attached = None;
        }
        self.stop_carrying(pod)
    }

    fn stop_carrying(&mut self, pod: &mut Pod) -> anyhow::Result<()> {
        pod.old_network = None;
        if let Some(carried) = pod.carried.take() {
            let is_carried = |other: &Pod| {
                other.carried.as_ref().is_some_and(|other| other.netns.cookie == carried.netns.cookie)
            };
            if !self.pods.values().any(is_carried) {
                self.datapath.unenroll(carried.netns.cookie)?;
            }
            self.proxy.remove(carried.workload, self.settings.drain);
        }
        Ok(())
    }
}

/// Whether its connections are served by a policy that lets some go around the proxy.
fn is_served_unenforced(pod: &Pod, cgroup: CgroupId) -> bool {
    pod.attached.is_some_and(|(attached, besides)| attached == cgroup && !besides.guard)
        && pod.carried.as_ref().is_some_and(|carried| carried.redirect.enforced.is_none())
}

fn first_of_family(addresses: &[IpAddr], is_v4: bool) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| address.is_ipv4() == is_v4)
}
