//! A pod as the agent has it in the kernel: its hooks, the gate above all pods, the heartbeat, the guard. The kernel
//! has them from this process; what the agent does besides costs a connect() nothing.

use std::net::SocketAddrV4;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use interceptor_tests::{BpfFs, Cgroup};
use interceptor_user::datapath::{
    Besides, CgroupId, Datapath, Listener, NodeSettings, OnAgentDown, Undecided, netns_cookie, own_addresses,
};
use interceptor_user::workload::{Enforced, RedirectPolicy};

use crate::client::Order;
use crate::lab::PROXY;
use crate::row::Running;

/// What the agent says of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Not enrolled: the gate alone sees its connections.
    LeftAlone,
    /// Enrolled, by an agent with `--on-agent-down closed`.
    Enrolled,
    /// Enrolled, by an agent with `--on-agent-down open`.
    Heartbeat,
    /// Enrolled, and what goes around the proxy is refused.
    Enforced,
}

#[derive(Debug)]
pub(crate) struct Pod {
    datapath: Datapath,
    // The pod's cgroup goes before that of all pods.
    cgroup: Cgroup,
    _kubepods: Cgroup,
    _pins: BpfFs,
}

impl Pod {
    /// A pod that is not decided yet, below a gate.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let pins = BpfFs::new()?;
        let kubepods = Cgroup::new()?;
        let cgroup = kubepods.child("pod")?;
        let mut datapath = Datapath::open(&pins.pins())?;
        Self::set(&mut datapath, OnAgentDown::Closed)?;
        datapath.gate(kubepods.open()?)?;
        Ok(Self { datapath, cgroup, _kubepods: kubepods, _pins: pins })
    }

    fn set(datapath: &mut Datapath, on_agent_down: OnAgentDown) -> anyhow::Result<()> {
        let host_cookie = netns_cookie().context("cannot tell the namespace")?;
        let settings = NodeSettings { host_cookie, undecided: Undecided::Refuse, on_agent_down };
        datapath.set_settings(&settings).context("cannot write the settings")
    }

    /// A command that enters the pod's cgroup and becomes another.
    pub(crate) fn command(&self, command: &Command) -> Command {
        let mut inside = self.cgroup.command("env");
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }

    /// Decides about the pod, whose connections were refused before.
    pub(crate) fn decide(
        &mut self,
        said: Said,
        running: &mut Running<'_>,
        to: SocketAddrV4,
    ) -> anyhow::Result<()> {
        match running.client.order(&Order::Connect { address: to, count: 1 }) {
            Err(error) if format!("{error:#}").contains("not permitted") => {}
            other => bail!("the gate did not hold an undecided pod: {other:?}"),
        }
        if said == Said::LeftAlone {
            return Ok(self.datapath.leave_alone(CgroupId::of(self.cgroup.open()?)?)?);
        }
        if said == Said::Heartbeat {
            // Longer than anything measured: nobody has to write another.
            Self::set(&mut self.datapath, OnAgentDown::Open { after: Duration::from_secs(3600) })?;
        }
        let guard = said == Said::Enforced;
        let proxy = running.cgroup.as_ref().context("the proxy has no cgroup")?;
        self.datapath.attach_listener(proxy.open()?)?;
        self.datapath.attach_pod(self.cgroup.open()?, Besides { guard, ..Besides::default() })?;
        let (cookie, own) = running.place.netns.enter(|| (netns_cookie(), own_addresses()))?;
        let listener = Listener { port: PROXY, spread_v4: 1, ports_v6: 1, relay_port: 0 };
        let enforced = guard.then(|| Enforced::new([]));
        let policy = RedirectPolicy { enforced, ..RedirectPolicy::default() };
        self.datapath.enroll(cookie?, &policy, &own?, listener)?;
        Ok(())
    }
}
