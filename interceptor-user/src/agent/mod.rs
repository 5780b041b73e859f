//! `interceptor agent`: the pods of one node, with their egress intercepted.
//!
//! Everything is built once here, and given to one control loop, which owns the kernel's state and the list of pods.
//! Nothing else writes either.

mod cgroups;
mod configurations;
mod control;
mod pod;
mod requests;
mod shown;
mod takeover;
pub mod view;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::Context;
use tokio::sync::{Notify, mpsc, watch};

use crate::admin::{self, Admin, AdminRequest};
use crate::compile::Client;
use crate::datapath::{Datapath, NodeSettings};
use crate::dns::{self, Resolver};
use crate::enroll::{HostNetns, Kubepods};
use crate::proxy::{Proxy, ProxyOptions};
use crate::settings::AgentSettings;
use crate::source::FileSource;
use crate::telemetry::AccessLog;
use crate::telemetry::logging::LogFilter;

use cgroups::CgroupWatch;
use configurations::Configurations;
use control::{Control, Inputs, Parts};
use shown::Shown;

/// Requests that wait for the control loop; more are answered with 503.
const REQUESTS_MAX: usize = 64;

/// Serves the node's pods until a signal ends it.
///
/// # Errors
/// When the kernel, the cgroups or the configuration can't be used at all. A pod that can't be served fails nothing
/// else.
pub fn run(settings: &AgentSettings, log_filter: LogFilter) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(settings, log_filter))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(settings: &AgentSettings, log_filter: LogFilter) -> anyhow::Result<()> {
    crate::exec::raise_open_files();
    let home = crate::exec::own_cgroup()?;
    let cgroup_root = match &settings.cgroup_root {
        Some(root) => root.clone(),
        None => hierarchy(&home),
    };
    let kubepods = match &settings.kubepods {
        Some(directory) => Kubepods::at(&cgroup_root, directory.clone())?,
        None => Kubepods::find(&cgroup_root)?,
    };
    let host = HostNetns::read(&settings.proc).with_context(|| {
        format!("can't look at the node's network namespace in {}", settings.proc.display())
    })?;

    // What takes time is done while the agent before us, if there is one, serves.
    let prepared = Datapath::prepare(&settings.pins)?;
    let (source, world, diagnostics) =
        FileSource::open(settings.config.clone(), settings.mesh_config.clone())?;
    let mesh = crate::compile::mesh_settings(&world.mesh);
    let access_log = AccessLog::configured(settings.access_log.as_ref(), settings.access_log_format, &mesh)?;
    let resolver = Resolver::start(dns::Options {
        refresh_rate: world.mesh.dns_refresh_rate,
        ..dns::Options::default()
    })
    .context("can't start the resolver")?;
    let threads = settings.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    let proxy = Proxy::start(ProxyOptions { resolver: resolver.clone(), access_log, threads })
        .context("can't start the proxy")?;

    let socket = settings.agent_socket.clone();
    tokio::task::spawn_blocking(move || takeover::ask_to_retire(&socket)).await??;
    let mut datapath = prepared.adopt()?;
    let opened =
        File::open(&home).with_context(|| format!("can't open our own cgroup {}", home.display()))?;
    datapath.attach_listener(opened)?;
    datapath.set_settings(&NodeSettings {
        host_cookie: host.cookie,
        undecided: settings.undecided,
        on_agent_down: settings.on_agent_down,
    })?;

    let shown = Shown::new();
    let (asked, requests) = mpsc::channel(REQUESTS_MAX);
    start_admin(settings, &shown, log_filter, asked)?;

    let (compiled, snapshots) = mpsc::unbounded_channel();
    let configurations = Configurations::start(settings.compile_settings(Client::default()), compiled)?;
    configurations.tell(diagnostics, source.texts().clone());
    let (following, worlds) = watch::channel(Arc::new(world));
    let telling = configurations.clone();
    let _watching = source.watch(move |world, diagnostics, texts| {
        telling.tell(diagnostics, texts.clone());
        following.send_replace(Arc::new(world.clone()));
    })?;
    let cgroups_changed = Arc::new(Notify::new());
    let cgroups = CgroupWatch::start(kubepods, Arc::clone(&cgroups_changed));

    let settings = settings.clone();
    let control =
        Control::new(Parts { settings, datapath, proxy, resolver, configurations, cgroups, host, shown });
    control.run(Inputs { worlds, snapshots, cgroups: cgroups_changed, requests }).await
}

/// On a thread of its own: what is shown may be large, and pods don't wait for it.
fn start_admin(
    settings: &AgentSettings,
    shown: &Shown,
    log_filter: LogFilter,
    requests: mpsc::Sender<AdminRequest>,
) -> anyhow::Result<()> {
    let (alive, counters) = (Arc::clone(&shown.workers_alive), shown.clone());
    let admin = Admin {
        view: Arc::clone(&shown.view),
        heartbeat: shown.heartbeat.clone(),
        workers_alive: Box::new(move || alive.load(Ordering::Relaxed)),
        log_filter,
        metrics: vec![Box::new(move |out| counters.append_counters(out))],
        requests,
    };
    let (started, outcome) = std::sync::mpsc::channel();
    let (socket, address) = (settings.agent_socket.clone(), settings.admin_address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async move {
            let listeners = match listeners(&socket, address).await {
                Ok(listeners) => listeners,
                Err(error) => return drop(started.send(Err(error))),
            };
            drop(started.send(Ok(())));
            let error = admin::serve(admin, listeners).await;
            tracing::error!("the agent's socket is not served any more: {error}");
        });
    })?;
    Ok(outcome.recv()??)
}

async fn listeners(
    socket: &Path,
    address: Option<SocketAddr>,
) -> Result<Vec<admin::Listener>, admin::ListenError> {
    let mut listeners = vec![admin::Listener::unix(socket)?];
    if let Some(address) = address {
        listeners.push(admin::Listener::tcp(address).await?);
    }
    Ok(listeners)
}

/// Where the hierarchy that `cgroup` is in begins.
fn hierarchy(cgroup: &Path) -> PathBuf {
    let inside = cgroup.ancestors().take_while(|directory| directory.join("cgroup.procs").exists());
    inside.last().unwrap_or(cgroup).to_owned()
}
