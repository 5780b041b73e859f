//! `interceptor agent`: the pods of one node, with their egress intercepted.
//!
//! Everything is built once here, and given to one control loop, which owns the kernel's state and the list of pods.
//! Nothing else writes either.

mod cgroups;
mod configurations;
mod control;
mod directories;
mod enrolling;
mod keeping;
mod names;
mod network;
mod pod;
mod requests;
mod selecting;
mod shown;
mod source;
mod strangers;
mod takeover;
pub mod view;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::admin::{self, Admin, AdminRequest};
use crate::compile::Client;
use crate::datapath::{Datapath, DatapathError, NodeSettings};
use crate::dns::{self, Resolver};
use crate::enroll::{HostNetns, Kubepods, enter_cgroup_namespace};
use crate::proxy::{Proxy, ProxyOptions};
use crate::settings::AgentSettings;
use crate::telemetry::AccessLog;
use crate::telemetry::logging::LogFilter;

use cgroups::CgroupWatch;
use control::{Control, Inputs, Parts};
use shown::Shown;

pub(crate) use configurations::{Configurations, Told};
pub(crate) use source::{Source, Told as SourceTold};

/// How long a start waits for what the API server tells.
const FIRST_WORLD_WAIT_MAX: Duration = Duration::from_secs(15);

/// Where the kubelet writes the name servers that pods ask: those of the agent's own pod (dnsPolicy ClusterFirstWithHostNet)
/// are the same.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Requests that wait for the control loop; more are answered with 503.
const REQUESTS_MAX: usize = 64;

/// Serves the node's pods until a signal ends it.
///
/// # Errors
/// When the kernel, the cgroups or the configuration can't be used at all. A pod that can't be served fails nothing
/// else.
pub fn run(settings: &AgentSettings, log_filter: LogFilter) -> anyhow::Result<ExitCode> {
    // Before there are other threads. What fails because of it tells so.
    if let Err(error) = enter_cgroup_namespace(&settings.proc) {
        tracing::debug!("can't see cgroups as the node does: {error}");
    }
    crate::exec::raise_open_files()?;
    let (compiled, snapshots) = mpsc::unbounded_channel();
    let anybody = Client {
        credentials_dir: settings.credentials_dir.clone(),
        identity_dir: settings.identity_dir.clone(),
        ..Client::default()
    };
    let configurations = Configurations::start(settings.compile_settings(anybody), compiled)?;
    let (source, told) = Source::start(&settings.source, &configurations)?;
    configurations.report_to(source.reporter().cloned());
    let configuration = Configuration { configurations, snapshots, source, told };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(settings, configuration, log_filter))?;
    Ok(ExitCode::SUCCESS)
}

/// What is configured, and what becomes of it.
struct Configuration {
    configurations: Configurations,
    snapshots: UnboundedReceiver<configurations::Told>,
    source: Source,
    told: source::Told,
}

/// What the chart gives it, and what for is in docs/install.md.
const CAPABILITIES: &str = "the agent needs CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_SYS_PTRACE";

async fn serve(
    settings: &AgentSettings,
    configuration: Configuration,
    log_filter: LogFilter,
) -> anyhow::Result<()> {
    let Configuration { configurations, snapshots, source, mut told } = configuration;
    let home = crate::exec::own_cgroup()?;
    let cgroup_root = match &settings.cgroup_root {
        Some(root) => root.clone(),
        None => hierarchy(&home),
    };
    let kubepods = match &settings.kubepods {
        Some(directory) => Kubepods::at(&cgroup_root, directory.clone())?,
        None => Kubepods::find(&cgroup_root)?,
    };
    // What takes time is done while the agent before us, if there is one, serves. First, as it says which capabilities are
    // missing.
    let prepared = Datapath::prepare(&settings.pins).map_err(|error| {
        let lacks_privilege = matches!(error, DatapathError::Privilege { .. });
        let error = anyhow::Error::new(error);
        if lacks_privilege { error.context(CAPABILITIES) } else { error }
    })?;
    let host = HostNetns::read(&settings.proc).with_context(|| {
        let proc = settings.proc.display();
        format!("can't look at the node's network namespace in {proc}: that needs root, or CAP_SYS_ADMIN and CAP_SYS_PTRACE")
    })?;
    let world = told.first_world(FIRST_WORLD_WAIT_MAX).await;
    if world.is_none() && takeover::is_there(&settings.agent_socket) {
        bail!("the API server does not tell what there is; the agent before us goes on");
    }
    let mesh = world.map(|world| world.mesh.clone()).unwrap_or_default();
    let access_log = AccessLog::configured(
        settings.access_log.as_ref(),
        settings.access_log_format,
        &crate::compile::mesh_settings(&mesh),
    )?;
    let options = dns::Options { refresh_rate: mesh.dns_refresh_rate, ..dns::Options::default() };
    let resolver = Resolver::start(options).context("can't start the resolver")?;
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
    start_admin(settings, &proxy, &shown, log_filter, asked)?;

    let cgroups = CgroupWatch::start(kubepods);

    let mut settings = settings.clone();
    settings.selectors.name_servers = dns::name_servers(Path::new(RESOLV_CONF)).unwrap_or_else(|error| {
        tracing::warn!("enforced pods can't ask any name server themselves: {error}");
        Vec::new()
    });
    let control = Control::new(Parts {
        settings,
        datapath,
        proxy,
        resolver,
        configurations,
        source,
        cgroups,
        host,
        shown,
    });
    control.run(Inputs { told, snapshots, requests }).await
}

fn start_admin(
    settings: &AgentSettings,
    proxy: &Proxy,
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
        metrics: vec![Box::new(proxy.metrics()), Box::new(move |out| counters.append_counters(out))],
        flows: proxy.flows(),
        requests,
    };
    admin::start(admin, Some(settings.agent_socket.clone()), settings.admin_address)
}

/// Where the hierarchy that `cgroup` is in begins.
fn hierarchy(cgroup: &Path) -> PathBuf {
    let inside = cgroup.ancestors().take_while(|directory| directory.join("cgroup.procs").exists());
    inside.last().unwrap_or(cgroup).to_owned()
}
