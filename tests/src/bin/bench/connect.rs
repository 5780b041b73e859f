//! The connect workload: what each way of redirection adds to connect(2), with more and more excluded ranges. All
//! ways of a round run side by side and take turns of some milliseconds, so that what the machine does to one it
//! does to all.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, bail};
use interceptor_tests::{Cgroup, Daemon, Dir};

use crate::client::{Answer, Order};
use crate::lab::{self, Lab, PROXY, Place, Rules, SERVER};
use crate::pod::{Pod, Said};
use crate::report::{Figures, median};
use crate::row::{self, Running};
use crate::window::Window;
use crate::workload::Measured;

/// Connections of one turn.
const TURN: usize = 250;
const EXCLUDES: [usize; 3] = [0, 100, 1000];
const PODS: [Said; 4] = [Said::LeftAlone, Said::Enrolled, Said::Heartbeat, Said::Enforced];
/// An address of the place's own that is not loopback, which the gate doesn't look at.
const OWN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the server's own address.
    Direct,
    /// Our hooks, with so many excluded ranges.
    Hooks { excludes: usize },
    /// The hooks of a pod below an agent's gate.
    Pod(Said),
    /// REDIRECT, after so many RETURN rules.
    Iptables { excludes: usize },
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Hooks { excludes } => write!(f, "hooks, {excludes} excludes"),
            Self::Pod(Said::LeftAlone) => f.write_str("gate alone"),
            Self::Pod(Said::Enrolled) => f.write_str("hooks, gate"),
            Self::Pod(Said::Heartbeat) => f.write_str("hooks, gate, heartbeat"),
            Self::Pod(Said::Enforced) => f.write_str("hooks, gate, guard"),
            Self::Iptables { excludes } => write!(f, "iptables, {excludes} excludes"),
        }
    }
}

impl Way {
    fn address(self) -> SocketAddrV4 {
        match self {
            Self::Direct => SocketAddrV4::new(Ipv4Addr::LOCALHOST, PROXY),
            Self::Pod(Said::LeftAlone) => SocketAddrV4::new(OWN, PROXY),
            // Nothing listens at the server's port: who is not redirected is refused.
            Self::Hooks { .. } | Self::Pod(_) | Self::Iptables { .. } => SocketAddrV4::new(SERVER, 9),
        }
    }
}

/// Every way, each in a place of its own.
#[derive(Debug)]
pub(crate) struct Ways(Vec<(Way, Place)>);

/// A way in this round.
#[derive(Debug)]
struct Turns<'lab> {
    way: Way,
    running: Running<'lab>,
    _pod: Option<Pod>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    added_us: Vec<f64>,
}

impl Ways {
    pub(crate) fn new(lab: &Lab) -> anyhow::Result<Self> {
        let all = [Way::Direct]
            .into_iter()
            .chain(EXCLUDES.map(|excludes| Way::Hooks { excludes }))
            .chain(PODS.map(Way::Pod))
            .chain(EXCLUDES.map(|excludes| Way::Iptables { excludes }));
        let places = all.map(|way| {
            let rules = match way {
                Way::Direct | Way::Hooks { .. } | Way::Pod(_) => Rules::None,
                Way::Iptables { excludes } => Rules::Bare { excludes },
            };
            let place = lab.place(rules)?;
            if way == Way::Pod(Said::LeftAlone) {
                place.netns.ip(&format!("addr add {OWN}/32 dev lo\n"))?;
            }
            Ok((way, place))
        });
        places.collect::<anyhow::Result<_>>().map(Self)
    }

    /// One round: what came of each way that could be started, or why not.
    pub(crate) fn round(&self, lab: &Lab, count: usize) -> Vec<(String, anyhow::Result<Measured>)> {
        let mut results = Vec::new();
        let mut started = Vec::new();
        for (way, place) in &self.0 {
            match start(lab, place, *way) {
                Ok(turns) => started.push(turns),
                Err(error) => results.push((way.to_string(), Err(error))),
            }
        }
        match take_turns(&mut started, count) {
            Ok(measured) => results.extend(measured),
            Err(error) => results.push((Way::Direct.to_string(), Err(error))),
        }
        results
    }
}

fn take_turns(
    started: &mut [Turns<'_>],
    count: usize,
) -> anyhow::Result<Vec<(String, anyhow::Result<Measured>)>> {
    for turns in started.iter_mut() {
        turns.take()?;
        turns.forget();
    }
    let window = Window::begin(started.iter().map(|turns| &turns.running))?;
    for _ in 0..count.div_ceil(TURN) {
        let mut direct_us = None;
        for turns in started.iter_mut() {
            let p50_us = turns.take()?;
            match (turns.way, direct_us) {
                (Way::Direct, _) => direct_us = Some(p50_us),
                (Way::Hooks { .. } | Way::Pod(_) | Way::Iptables { .. }, Some(direct_us)) => {
                    turns.added_us.push(p50_us - direct_us);
                }
                (Way::Hooks { .. } | Way::Pod(_) | Way::Iptables { .. }, None) => {}
            }
        }
    }
    let seen = window.end(started.iter().map(|turns| &turns.running))?;
    Ok(started
        .iter()
        .map(|turns| (turns.way.to_string(), Ok(Measured { seen, figures: turns.figures() })))
        .collect())
}

impl<'lab> Turns<'lab> {
    fn new(way: Way, running: Running<'lab>, pod: Option<Pod>) -> Self {
        Self { way, running, _pod: pod, p50_us: Vec::new(), p99_us: Vec::new(), added_us: Vec::new() }
    }

    /// Connects some hundred times; the median.
    fn take(&mut self) -> anyhow::Result<f64> {
        let address = self.way.address();
        let answer = self
            .running
            .client
            .order(&Order::Connect { address, count: TURN })
            .with_context(|| self.way.to_string())?;
        let Answer::Connected { p50_ns, p99_ns } = answer else { bail!("the client answered {answer:?}") };
        let us = |ns: u64| Duration::from_nanos(ns).as_secs_f64() * 1e6;
        self.p50_us.push(us(p50_ns));
        self.p99_us.push(us(p99_ns));
        Ok(us(p50_ns))
    }

    /// What was taken so far was to warm up.
    fn forget(&mut self) {
        self.p50_us.clear();
        self.p99_us.clear();
    }

    fn figures(&self) -> Figures {
        let all = [
            ("connect_p50_us", &self.p50_us),
            ("connect_p99_us", &self.p99_us),
            ("added_us", &self.added_us),
        ];
        all.into_iter().filter_map(|(name, values)| Some((name, median(values.clone())?))).collect()
    }
}

/// Starts a server that closes at once, and a client whose connections end there.
fn start<'lab>(lab: &'lab Lab, place: &'lab Place, way: Way) -> anyhow::Result<Turns<'lab>> {
    place.flush()?;
    let dir = Dir::new()?;
    let cgroup = Cgroup::new()?;
    let mut sink = cgroup.command("nsenter");
    sink.arg(format!("--net={}", place.netns.path().display())).arg(row::exe()?).arg("sink");
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PROXY);
    let daemon = Daemon::spawn(&mut sink, &dir.join("log"))?
        .wait_ready("the server that closes", || place.answers(address))?;
    let mut pod = None;
    let command = match way {
        Way::Direct | Way::Iptables { .. } => row::client(place)?,
        Way::Hooks { excludes } => {
            let mut command = place.netns.command(&row::interceptor()?);
            command.args(["exec", "--external-proxy", &PROXY.to_string()]);
            command.arg("--external-proxy-cgroup").arg(cgroup.path());
            if excludes > 0 {
                let ranges: Vec<String> = lab::exclude_ranges(excludes).collect();
                command.arg("--exclude-ip-ranges").arg(ranges.join(","));
            }
            command.arg("--").args(row::client_words()?);
            command
        }
        Way::Pod(_) => pod.insert(Pod::new()?).command(&row::client(place)?),
    };
    let mut running = Running::start(command, lab, place, Some(daemon), Some(cgroup), dir)?;
    if let (Way::Pod(said), Some(pod)) = (way, &mut pod) {
        pod.decide(said, &mut running, way.address())?;
    }
    Ok(Turns::new(way, running, pod))
}
