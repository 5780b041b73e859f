//! `interceptor gateway`: the egress gateway. What Gateway resources ask for is listened on, and what comes there is sent on
//! by the proxy that also serves pods. It needs no kernel programs: nobody's connections are taken over.
//!
//! One loop owns the listening sockets. A thread of its own compiles.

mod listeners;
mod pods;
mod shown;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::admin::{self, Admin};
use crate::agent::{Configurations, Source, SourceTold, Told};
use crate::datapath;
use crate::dns::{self, Resolver};
use crate::enroll::NetworkChanges;
use crate::proxy::{Proxy, ProxyOptions};
use crate::settings::GatewaySettings;
use crate::telemetry::AccessLog;
use crate::telemetry::logging::LogFilter;
use crate::workload_api;

use listeners::Listeners;
use pods::Pods;
use shown::Shown;

/// How long a start waits for what the API server tells, which says where the access log goes.
const FIRST_WORLD_WAIT_MAX: Duration = Duration::from_secs(15);

/// Changes of pods that are taken up at a time: everything else has its turn in between.
const CHANGES_MAX: usize = 1024;

/// How often ports that could not be had are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Serves until a signal ends it.
///
/// # Errors
/// When the configuration can't be read at all, or a thread has ended. A port that can't be had is told and tried again.
pub fn run(settings: &GatewaySettings, log_filter: LogFilter) -> anyhow::Result<ExitCode> {
    crate::exec::raise_open_files()?;
    let client = workload_api::identified(&settings.client, settings.spiffe_socket.as_deref())?;
    let settings = &GatewaySettings { client, ..settings.clone() };
    let address_changes = NetworkChanges::subscribe(false)?;
    let (compiled, snapshots) = mpsc::unbounded_channel();
    let configurations = Configurations::start(settings.compile_settings(own_addresses()?), compiled)?;
    let (source, told) = Source::start(&settings.source, &configurations)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inputs = Inputs { configurations, snapshots, source, told, address_changes };
    runtime.block_on(serve(settings, inputs, log_filter))?;
    Ok(ExitCode::SUCCESS)
}

/// What is configured, and what becomes of it.
struct Inputs {
    configurations: Configurations,
    snapshots: UnboundedReceiver<Told>,
    source: Source,
    told: SourceTold,
    address_changes: NetworkChanges,
}

fn own_addresses() -> anyhow::Result<BTreeSet<IpAddr>> {
    let own = datapath::own_addresses().context("can't list this host's addresses")?;
    Ok(own.into_iter().collect())
}

async fn serve(settings: &GatewaySettings, mut inputs: Inputs, log_filter: LogFilter) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("can't handle signals")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("can't handle signals")?;
    let mut hung_up = signal(SignalKind::hangup()).context("can't handle signals")?;
    let world = tokio::select! {
        _ = terminated.recv() => return Ok(()),
        _ = interrupted.recv() => return Ok(()),
        world = inputs.told.first_world(FIRST_WORLD_WAIT_MAX) => world,
    };
    let mesh = world.map(|world| world.mesh.clone()).unwrap_or_default();
    let access_log = AccessLog::configured(
        settings.access_log.as_ref(),
        settings.access_log_format,
        &crate::compile::mesh_settings(&mesh),
    )?;
    let options = dns::Options { refresh_rate: mesh.dns_refresh_rate, ..dns::Options::default() };
    let resolver = Resolver::start(options).context("can't start the resolver")?;
    let threads = settings.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    let proxy =
        Proxy::start(ProxyOptions { resolver, access_log, threads }).context("can't start the proxy")?;
    let (mut shown, mut pods) = (Shown::new(settings), Pods::default());
    start_admin(settings, &proxy, (&shown, &pods), log_filter)?;
    // What is there at the start counts as a change.
    inputs.told.worlds.mark_changed();
    let mut listeners = Listeners::new(proxy, settings, Arc::clone(pods.peers()));
    let address_changes =
        datapath::readable(inputs.address_changes.into()).context("can't follow this host's addresses")?;
    let mut again = tokio::time::interval(TRY_AGAIN);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut was_configured, mut is_at_rest) = (false, false);
    loop {
        tokio::select! {
            _ = terminated.recv() => break,
            _ = interrupted.recv() => break,
            _ = hung_up.recv() => listeners.proxy.reopen_access_log(),
            Ok(()) = inputs.told.worlds.changed() => {
                let world = inputs.told.worlds.borrow_and_update().clone();
                if let Some(world) = world {
                    shown.world = Arc::clone(&world);
                    if !inputs.source.tells_nodes() {
                        pods.take_world(&world);
                    }
                    inputs.configurations.world(world);
                    // Not before: a gateway without resources would be taken for ready.
                    if !std::mem::replace(&mut shown.is_configured, true) {
                        inputs.configurations.clients(HashMap::from([(settings.client.clone(), ())]));
                    }
                }
            }
            change = inputs.told.nodes.recv(), if inputs.source.tells_nodes() => match change {
                Some(change) => {
                    let waiting = std::iter::from_fn(|| inputs.told.nodes.try_recv().ok()).take(CHANGES_MAX);
                    std::iter::once(change).chain(waiting).for_each(|change| pods.take_change(&change));
                }
                None => bail!("nobody follows the API server any more: a thread has ended by a panic"),
            },
            told = inputs.snapshots.recv() => match told {
                Some(Told::Compiled(compiled)) => listeners.configure(compiled.snapshot),
                Some(Told::Findings(findings)) => shown.diagnostics = findings,
                None => bail!("nobody compiles any more: a thread has ended by a panic"),
            },
            ready = address_changes.readable() => {
                let mut ready = ready?;
                if NetworkChanges::happened_on(ready.get_inner())? {
                    inputs.configurations.own_addresses(own_addresses()?);
                }
                ready.clear_ready();
            }
            _ = again.tick() => {
                // Configured since the last look: what is still done in that moment (findings, for one) has had its time.
                if !is_at_rest && std::mem::replace(&mut was_configured, listeners.configured().is_some()) {
                    datapath::release_startup_code();
                    is_at_rest = true;
                }
                listeners.reconcile();
            }
        }
        if listeners.proxy.failed() {
            bail!("a thread of the proxy has ended by a panic");
        }
        shown.show(&inputs.source, &listeners);
    }
    tracing::info!("ending: what is open may go on for {} s", settings.drain.as_secs());
    shown.is_ending = true;
    shown.show(&inputs.source, &listeners);
    let proxy = listeners.into_proxy();
    let drain = settings.drain;
    tokio::select! {
        _ = terminated.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
        ended = tokio::task::spawn_blocking(move || proxy.stop(drain)) => {
            let _counters = ended?;
            Ok(())
        }
    }
}

fn start_admin(
    settings: &GatewaySettings,
    proxy: &Proxy,
    (shown, pods): (&Shown, &Pods),
    log_filter: LogFilter,
) -> anyhow::Result<()> {
    let alive = Arc::clone(&shown.workers_alive);
    let (ports, numbers) = (shown.ports.clone(), Arc::clone(pods.numbers()));
    // Nobody asks a gateway for pods.
    let (requests, _) = mpsc::channel(1);
    let admin = Admin {
        view: Arc::clone(&shown.view),
        heartbeat: shown.heartbeat.clone(),
        workers_alive: Box::new(move || alive.load(Ordering::Relaxed)),
        log_filter,
        metrics: vec![
            Box::new(proxy.metrics()),
            Box::new(move |out| shown::append_ports(&ports.load(), out)),
            Box::new(move |out| numbers.append(out)),
        ],
        flows: proxy.flows(),
        requests,
    };
    admin::start(admin, settings.socket.clone(), settings.admin_address)
}

impl GatewaySettings {
    /// How its configuration is compiled.
    fn compile_settings(&self, own_addresses: BTreeSet<IpAddr>) -> crate::compile::CompileSettings {
        crate::compile::CompileSettings {
            client: self.client.clone(),
            role: crate::compile::Role::Gateway { own_addresses },
            outbound_traffic_policy: None,
            unix_endpoints: self.unix_endpoints.clone(),
            tls_files: self.tls_files.clone(),
        }
    }
}
