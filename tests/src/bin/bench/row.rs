//! A row: the way that a client's connections take to the server, and starting it afresh.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

use anyhow::{Context, bail};
use interceptor_tests::{Cgroup, Daemon, Dir};

use crate::client::Client;
use crate::lab::{self, Lab, OPAQUE, ORIGINATED, PLAIN, PROXY, Place, SERVER, TLS};
use crate::peers::{self, Job};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Row {
    /// No proxy: the client itself speaks what a proxy would.
    Direct,
    Interceptor,
    Envoy,
    Nginx,
    Haproxy,
    /// connect() taken over by the hooks, with so many excluded ranges, and handed to a server that only closes.
    Hooks {
        excludes: usize,
    },
    /// The same by iptables REDIRECT.
    Iptables {
        excludes: usize,
    },
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Interceptor => f.write_str("interceptor"),
            Self::Envoy => f.write_str("envoy"),
            Self::Nginx => f.write_str("nginx"),
            Self::Haproxy => f.write_str("haproxy"),
            Self::Hooks { excludes } => write!(f, "hooks, {excludes} excludes"),
            Self::Iptables { excludes } => write!(f, "iptables, {excludes} excludes"),
        }
    }
}

/// A row with its processes running. Dropping it ends them, the client first.
#[derive(Debug)]
pub(crate) struct Running<'lab> {
    pub(crate) client: Client,
    /// The proxy's processes, without those that stand for the client.
    pub(crate) proxy: Vec<u32>,
    pub(crate) lab: &'lab Lab,
    pub(crate) place: &'lab Place,
    _daemon: Option<Daemon>,
    _cgroup: Option<Cgroup>,
    _dir: Dir,
}

/// The places of a run: rows without iptables share one, rows behind proxies another.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) plain: Place,
    pub(crate) istio: Place,
    /// One for each number of excludes.
    pub(crate) bare: Vec<(usize, Place)>,
}

impl Places {
    pub(crate) fn new(lab: &Lab, excludes: &[usize]) -> anyhow::Result<Self> {
        let mut bare = Vec::new();
        for (number, excludes) in (2..).zip(excludes) {
            bare.push((*excludes, lab.place(number, lab::Rules::Bare { excludes: *excludes })?));
        }
        Ok(Self { plain: lab.place(0, lab::Rules::None)?, istio: lab.place(1, lab::Rules::Istio)?, bare })
    }

    fn of(&self, row: Row) -> anyhow::Result<&Place> {
        match row {
            Row::Direct | Row::Interceptor | Row::Hooks { .. } => Ok(&self.plain),
            Row::Envoy | Row::Nginx | Row::Haproxy => Ok(&self.istio),
            Row::Iptables { excludes } => {
                let found = self.bare.iter().find(|(number, _)| *number == excludes);
                found.map(|(_, place)| place).context("no place with so many rules")
            }
        }
    }
}

impl<'lab> Running<'lab> {
    /// Starts a row that carries the server's traffic.
    pub(crate) fn carrying(lab: &'lab Lab, places: &'lab Places, row: Row, job: Job) -> anyhow::Result<Self> {
        let place = places.of(row)?;
        place.flush()?;
        let dir = Dir::new()?;
        let daemon = match row {
            Row::Direct | Row::Interceptor => None,
            Row::Envoy => Some(peers::envoy(lab, place, &dir)?),
            Row::Nginx => Some(peers::nginx(lab, place, &dir, job)?),
            Row::Haproxy => Some(peers::haproxy(lab, place, &dir, job)?),
            Row::Hooks { .. } | Row::Iptables { .. } => bail!("{row} carries nothing"),
        };
        let command = if row == Row::Interceptor {
            dir.write("resources.yaml", RESOURCES.replace("CA_FILE", &lab.ca.root().display().to_string()))?;
            let mut command = place.netns.command(&interceptor()?);
            command.args(["exec", "--outbound-traffic-policy", "REGISTRY_ONLY", "-c"]);
            command.arg(dir.join("resources.yaml")).arg("--").args(client_words()?);
            command
        } else {
            client(place)?
        };
        Self::start(command, lab, place, daemon, None, dir)
    }

    /// Starts a row where connections end at a server in the same place, that closes them at once.
    pub(crate) fn closing(lab: &'lab Lab, places: &'lab Places, row: Row) -> anyhow::Result<Self> {
        let place = places.of(row)?;
        place.flush()?;
        let dir = Dir::new()?;
        let cgroup = Cgroup::new()?;
        let mut sink = cgroup.command("nsenter");
        sink.arg(format!("--net={}", place.netns.path().display())).arg(exe()?).arg("sink");
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PROXY);
        let daemon = Daemon::spawn(&mut sink, &dir.join("log"))?
            .wait_ready("the server that closes", || place.answers(address))?;
        let command = match row {
            Row::Direct | Row::Iptables { .. } => client(place)?,
            Row::Hooks { excludes } => {
                let mut command = place.netns.command(&interceptor()?);
                command.arg("exec");
                command
                    .args(["--external-proxy", &PROXY.to_string(), "--external-proxy-cgroup"])
                    .arg(cgroup.path());
                if excludes > 0 {
                    let ranges: Vec<String> = lab::exclude_ranges(excludes).collect();
                    command.arg("--exclude-ip-ranges").arg(ranges.join(","));
                }
                command.arg("--").args(client_words()?);
                command
            }
            Row::Interceptor | Row::Envoy | Row::Nginx | Row::Haproxy => bail!("{row} is a proxy"),
        };
        Self::start(command, lab, place, Some(daemon), Some(cgroup), dir)
    }

    fn start(
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
        Ok(Self { client, proxy, lab, place, _daemon: daemon, _cgroup: cgroup, _dir: dir })
    }
}

fn exe() -> anyhow::Result<std::path::PathBuf> {
    std::env::current_exe().context("cannot find this program")
}

fn client_words() -> anyhow::Result<[std::ffi::OsString; 2]> {
    Ok([exe()?.into(), "client".into()])
}

fn client(place: &Place) -> anyhow::Result<Command> {
    let [program, role] = client_words()?;
    let mut command = place.netns.command(program.to_str().context("this program's path is not UTF-8")?);
    command.arg(role);
    Ok(command)
}

/// The interceptor beside this program: both are built in release by `cargo xtask bench`.
pub(crate) fn interceptor() -> anyhow::Result<String> {
    let path = exe()?.with_file_name("interceptor");
    let path = std::env::var_os("INTERCEPTOR_BIN").map_or(path, std::path::PathBuf::from);
    path.to_str().map(str::to_owned).context("the interceptor's path is not UTF-8")
}

/// The same as the peers' configuration, as resources. Host and ports are those of [`crate::lab`].
const RESOURCES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: bench }
spec:
  hosts: [bench.test]
  addresses: [203.0.113.10]
  ports:
  - { number: 80, name: http, protocol: HTTP }
  - { number: 8080, name: http-originated, protocol: HTTP, targetPort: 443 }
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
      tls: { mode: SIMPLE, sni: bench.test, caCertificates: CA_FILE }
"#;

/// The address that clients use for a job, through a proxy or without.
pub(crate) fn address(row: Row, job: Job) -> SocketAddrV4 {
    let port = match (job, row) {
        (Job::Plain, _) => PLAIN,
        (Job::Originate, Row::Direct) => TLS,
        (Job::Originate, _) => ORIGINATED,
        (Job::Opaque, _) => OPAQUE,
    };
    SocketAddrV4::new(SERVER, port)
}

/// The URL that wrk asks for.
pub(crate) fn url(row: Row, job: Job) -> String {
    let scheme = if job == Job::Originate && row == Row::Direct { "https" } else { "http" };
    format!("{scheme}://{}/", address(row, job))
}
