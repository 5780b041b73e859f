//! A row: the way that a client's connections take to the server, and starting it afresh.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use interceptor_tests::{Cgroup, Daemon, Dir};

use crate::client::Client;
use crate::gateway::Hop;
use crate::job::Job;
use crate::lab::{self, Lab, Place};
use crate::peers;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Row {
    /// No proxy: the client itself speaks what a proxy would.
    Direct,
    Interceptor,
    /// With one thread, as the peers have.
    OneWorker,
    Envoy,
    Nginx,
    Haproxy,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Interceptor => f.write_str("interceptor"),
            Self::OneWorker => f.write_str("interceptor, 1 worker"),
            Self::Envoy => f.write_str("envoy"),
            Self::Nginx => f.write_str("nginx"),
            Self::Haproxy => f.write_str("haproxy"),
        }
    }
}

/// A row with its processes running. Dropping it ends them, the client first.
#[derive(Debug)]
pub(crate) struct Running<'lab> {
    pub(crate) client: Client,
    /// The proxy's processes, without those that stand for the client.
    pub(crate) proxy: Vec<u32>,
    /// The egress gateway behind it.
    pub(crate) gateway: Option<Daemon>,
    pub(crate) lab: &'lab Lab,
    pub(crate) place: &'lab Place,
    _daemon: Option<Daemon>,
    pub(crate) dir: Dir,
    /// The proxy's, if it has one.
    pub(crate) cgroup: Option<Cgroup>,
}

pub(crate) const ONE_WORKER: [&str; 2] = ["--workers", "1"];

/// The access log in a row's directory; haproxy's is on its standard output.
pub(crate) const ACCESS_LOG: &str = "access.log";

/// The places of proxies: behind Istio's rules, or without any.
#[derive(Debug)]
pub(crate) struct Places {
    plain: Place,
    istio: Place,
    gateway: Hop,
}

impl Places {
    pub(crate) fn new(lab: &Lab) -> anyhow::Result<Self> {
        Ok(Self {
            plain: lab.place(lab::Rules::None)?,
            istio: lab.place(lab::Rules::Istio)?,
            gateway: Hop::new(lab)?,
        })
    }

    pub(crate) fn of(&self, row: Row) -> &Place {
        match row {
            Row::Direct | Row::Interceptor | Row::OneWorker => &self.plain,
            Row::Envoy | Row::Nginx | Row::Haproxy => &self.istio,
        }
    }
}

impl<'lab> Running<'lab> {
    /// Starts a row that carries the server's traffic.
    pub(crate) fn carrying(lab: &'lab Lab, places: &'lab Places, row: Row, job: Job) -> anyhow::Result<Self> {
        let place = places.of(row);
        place.flush()?;
        let dir = Dir::new()?;
        let daemon = match row {
            Row::Direct | Row::Interceptor | Row::OneWorker => None,
            Row::Envoy => Some(peers::envoy(lab, place, &dir, job, &places.gateway)?),
            Row::Nginx => Some(peers::nginx(lab, place, &dir, job)?),
            Row::Haproxy => Some(peers::haproxy(lab, place, &dir, job)?),
        };
        let command = match row {
            Row::Interceptor => intercepted(lab, place, &dir, job, &[])?,
            Row::OneWorker => intercepted(lab, place, &dir, job, &ONE_WORKER)?,
            Row::Direct | Row::Envoy | Row::Nginx | Row::Haproxy => client(place)?,
        };
        let gateway = (job == Job::Gateway).then(|| places.gateway.start(lab, &dir, row)).transpose()?;
        Ok(Self { gateway, ..Self::start(command, lab, place, daemon, None, dir)? })
    }

    /// Starts the interceptor with its resources and whatever else is in `dir`.
    pub(crate) fn configured(lab: &'lab Lab, places: &'lab Places, dir: Dir) -> anyhow::Result<Self> {
        let place = places.of(Row::Interceptor);
        Self::start(intercepted(lab, place, &dir, Job::Plain, &[])?, lab, place, None, None, dir)
    }

    /// Starts the client with `command`; its proxy is `daemon`, or what the command puts around the client.
    pub(crate) fn start(
        command: Command,
        lab: &'lab Lab,
        place: &'lab Place,
        daemon: Option<Daemon>,
        cgroup: Option<Cgroup>,
        dir: Dir,
    ) -> anyhow::Result<Self> {
        let client = Client::spawn(command)?;
        let proxy = match &daemon {
            Some(daemon) => crate::cpu::tree(daemon.pid(), None)?,
            // Direct: the client is what was started, and there is no proxy.
            None if client.started_pid() == client.pid() => Vec::new(),
            None => crate::cpu::tree(client.started_pid(), Some(client.pid()))?,
        };
        Ok(Self { client, proxy, gateway: None, lab, place, _daemon: daemon, dir, cgroup })
    }
}

/// The client below `interceptor exec`, by the resources in `dir`, to which this adds the server's.
fn intercepted(lab: &Lab, place: &Place, dir: &Dir, job: Job, flags: &[&str]) -> anyhow::Result<Command> {
    dir.write("resources.yaml", resources(lab, job))?;
    let mut command = place.netns.command(&interceptor()?);
    command.args(["exec", "--outbound-traffic-policy", "REGISTRY_ONLY", "-c"]);
    command.arg(dir.path()).args(flags);
    if job == Job::Logged {
        command.arg("--access-log").arg(dir.join(ACCESS_LOG));
    }
    command.arg("--").args(client_words()?);
    Ok(command)
}

/// The same as the peers' configuration.
pub(crate) fn resources(lab: &Lab, job: Job) -> String {
    RESOURCES
        .replace("CA_FILE", &lab.ca.root().display().to_string())
        .replace("TLS_PORT", &job.server_port().to_string())
        .replace("H2_POLICY", if job == Job::Http2 { "UPGRADE" } else { "DO_NOT_UPGRADE" })
}

pub(crate) fn exe() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program")
}

pub(crate) fn client_words() -> anyhow::Result<[std::ffi::OsString; 2]> {
    Ok([exe()?.into(), "client".into()])
}

pub(crate) fn client(place: &Place) -> anyhow::Result<Command> {
    let [program, role] = client_words()?;
    let mut command = place.netns.command(program.to_str().context("this program's path is not UTF-8")?);
    command.arg(role);
    Ok(command)
}

/// The release build below the same target directory, by `cargo xtask bench`, or what INTERCEPTOR_BIN names.
pub(crate) fn interceptor() -> anyhow::Result<String> {
    let built = target_dir()?.join("release/interceptor");
    let path = std::env::var_os("INTERCEPTOR_BIN").map_or(built, PathBuf::from);
    path.to_str().map(str::to_owned).context("the interceptor's path is not UTF-8")
}

/// Where cargo builds: this program is at debug/bench below it.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let exe = exe()?;
    let target = exe.parent().and_then(Path::parent);
    target.map(Path::to_owned).with_context(|| format!("{} is not below a target directory", exe.display()))
}

/// Host and ports are those of [`crate::lab`], TLS_PORT the job's.
const RESOURCES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: bench }
spec:
  hosts: [bench.test]
  addresses: [203.0.113.10]
  ports:
  - { number: 80, name: http, protocol: HTTP }
  - { number: 8080, name: http-originated, protocol: HTTP, targetPort: TLS_PORT }
  - { number: 9000, name: tcp, protocol: TCP }
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints:
  - address: 203.0.113.10
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: bench }
spec:
  host: bench.test
  trafficPolicy:
    portLevelSettings:
    - port: { number: 8080 }
      connectionPool: { http: { h2UpgradePolicy: H2_POLICY } }
      tls: { mode: SIMPLE, sni: bench.test, caCertificates: CA_FILE }
"#;
