//! Who carries what the kernel redirects: our own proxy, or one of the user's.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use super::cgroup::Tree;
use super::configuration::{Changes, Configuration};
use super::interception::Interception;
use crate::datapath::QuerySockets;
use crate::dns::{self, LearnedNames, Relay, RelayOptions, Resolver};
use crate::proxy::stats::ProxyCounters;
use crate::proxy::{Configured, Intercepted, ProxiedWorkload, Proxy, ProxyOptions, WorkloadId};
use crate::settings::ExecSettings;
use crate::telemetry::AccessLog;
use crate::workload::RedirectPolicy;

/// How long bytes that the command has sent may take to reach their destination after its end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Sockets of the command that ask name servers at one time.
const DNS_FLOWS_MAX: usize = 1024;

#[derive(Debug)]
pub(super) enum Carrier {
    Own {
        proxy: Box<Proxy>,
        command: WorkloadId,
        configured: Configured,
        changes: Changes,
        relay: Option<Relay>,
    },
    External,
}

impl Carrier {
    /// Starts redirection and what serves it. We must be in the proxy's cgroup already.
    pub(super) fn start(
        (settings, redirect): (&ExecSettings, &RedirectPolicy),
        tree: &Tree,
        interception: &mut Interception,
        configuration: Configuration,
    ) -> anyhow::Result<Self> {
        if let Some(external) = &settings.external_proxy {
            interception.redirect_to_external(tree, redirect, external)?;
            return Ok(Self::External);
        }
        let redirected = interception.redirect_to_us(tree, redirect, settings.client.learned_names)?;
        let listeners = redirected.listeners;
        let reader = interception.original_dst_reader();
        let own_addresses = interception.own_addresses();
        let refresh_rate = configuration.snapshot.mesh.dns_refresh_rate;
        let resolver = Resolver::start(dns::Options { refresh_rate, ..dns::Options::default() })
            .context("can't start the resolver")?;
        let learned = redirected.queries.as_ref().map(|_| Arc::<LearnedNames>::default());
        let relay = redirected
            .queries
            .zip(learned.clone())
            .map(|(queries, learned)| relay(interception, queries, &resolver, learned))
            .transpose()?;
        let access_log = AccessLog::configured(
            settings.access_log.as_ref(),
            settings.access_log_format,
            &configuration.snapshot.mesh,
        )?;
        let (snapshot, changes) = configuration.follow()?;
        let threads =
            settings.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
        let proxy =
            Proxy::start(ProxyOptions { resolver, access_log, threads }).context("can't start the proxy")?;
        let configured = proxy.configure(snapshot);
        let command = proxy.add(ProxiedWorkload {
            listeners: listeners.v6.into_iter().chain([listeners.v4]).collect(),
            intercepted: Arc::new(move |socket| {
                let original_dst = reader.get(socket)?.map(|original| original.addr);
                Ok(original_dst.map(|original_dst| Intercepted {
                    original_dst,
                    source: own_addresses.load().first(original_dst.is_ipv4()),
                }))
            }),
            netns: None,
            configured: configured.clone(),
            connections_max: usize::MAX,
            room: Arc::default(),
            shares: None,
            peers: None,
            learned,
            source: Arc::default(),
        });
        let command = command.context("can't serve the listening sockets")?;
        Ok(Self::Own { proxy: Box::new(proxy), command, configured, changes, relay })
    }

    /// Fails when connections would no longer be served.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::Own { proxy, command, .. } if proxy.failed() || proxy.failure(*command).is_some() => {
                bail!("the proxy has failed: the command is ended")
            }
            Self::Own { relay: Some(relay), .. } if relay.failed() => {
                bail!("the relay of DNS queries has failed: the command is ended")
            }
            Self::Own { .. } | Self::External => Ok(()),
        }
    }

    /// Readable when [`Self::reconfigure`] has something to do.
    pub(super) fn changes(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Own { changes, .. } => Some(changes.as_fd()),
            Self::External => None,
        }
    }

    /// Puts in effect what the files hold now.
    pub(super) fn reconfigure(&self) {
        if let Self::Own { configured, changes, .. } = self
            && let Some(snapshot) = changes.latest()
        {
            configured.publish(snapshot);
            tracing::info!("the configuration has changed");
        }
    }

    /// Ends it, and tells what it did.
    pub(super) fn stop(self) -> Option<ProxyCounters> {
        match self {
            Self::Own { proxy, .. } => Some(proxy.stop(DRAIN_TIMEOUT)),
            Self::External => None,
        }
    }
}

/// Serves what goes to name servers.
fn relay(
    interception: &Interception,
    queries: QuerySockets,
    resolver: &Resolver,
    learned: Arc<LearnedNames>,
) -> anyhow::Result<Relay> {
    let ipv4_sockets = queries.v4.len();
    let server_of = interception.name_servers(ipv4_sockets);
    let sockets = queries.v4.into_iter().chain(queries.v6).collect();
    Relay::start(RelayOptions {
        sockets,
        server_of,
        resolver: resolver.clone(),
        learned,
        flows_max: DNS_FLOWS_MAX,
        netns: None,
    })
    .context("can't start the relay of DNS queries")
}
