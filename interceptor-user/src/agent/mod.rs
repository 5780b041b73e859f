//! `interceptor agent`: the pods of one node, with their egress intercepted.
//!
//! Everything is built once here, and given to one control loop, which owns the kernel's state and the list of pods.
//! Nothing else writes either.

mod cgroups;
mod configurations;
mod control;
mod pod;
mod shown;
pub mod view;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use tokio::sync::{Notify, mpsc, watch};

use crate::datapath::{Datapath, NodeSettings};
use crate::dns::{self, Resolver};
use crate::enroll::{HostNetns, Kubepods};
use crate::proxy::{Proxy, ProxyOptions};
use crate::settings::AgentSettings;
use crate::source::FileSource;
use crate::telemetry::AccessLog;

use cgroups::CgroupWatch;
use configurations::Configurations;
use control::{Control, Parts};
use view::View;

/// Serves the node's pods until a signal ends it.
///
/// # Errors
/// When the kernel, the cgroups or the configuration can't be used at all. A pod that can't be served fails nothing
/// else.
pub fn run(settings: &AgentSettings) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(settings))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(settings: &AgentSettings) -> anyhow::Result<()> {
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

    let mut datapath = Datapath::open(&settings.pins)?;
    let opened =
        File::open(&home).with_context(|| format!("can't open our own cgroup {}", home.display()))?;
    datapath.attach_listener(opened)?;
    datapath.set_settings(&NodeSettings {
        host_cookie: host.cookie,
        undecided: settings.undecided,
        on_agent_down: settings.on_agent_down,
    })?;

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

    let (compiled, snapshots) = mpsc::unbounded_channel();
    let configurations = Configurations::start(settings.outbound_traffic_policy, compiled)?;
    configurations.tell(diagnostics, source.texts().clone());
    let (worlds, following) = watch::channel(Arc::new(world));
    let telling = configurations.clone();
    let _watching = source.watch(move |world, diagnostics, texts| {
        telling.tell(diagnostics, texts.clone());
        worlds.send_replace(Arc::new(world.clone()));
    })?;
    let cgroups_changed = Arc::new(Notify::new());
    let cgroups = CgroupWatch::start(kubepods, Arc::clone(&cgroups_changed));

    let view = View::shared();
    let settings = settings.clone();
    let control =
        Control::new(Parts { settings, datapath, proxy, resolver, configurations, cgroups, host, view });
    control.run(following, snapshots, &cgroups_changed).await
}

/// Where the hierarchy that `cgroup` is in begins.
fn hierarchy(cgroup: &Path) -> PathBuf {
    let inside = cgroup.ancestors().take_while(|directory| directory.join("cgroup.procs").exists());
    inside.last().unwrap_or(cgroup).to_owned()
}
