//! The gate above all pods: who is held, who is let through, and who never notices it.

use std::{fs, time::Duration};

use anyhow::Context;
use interceptor_common::verdict::Reason;
use interceptor_tests::{BpfFs, Cgroup, Netns};
use interceptor_user::{
    datapath::{
        Besides, CgroupId, Counter, Datapath, Listener, NodeSettings, OnAgentDown, Undecided, netns_cookie,
    },
    workload::RedirectPolicy,
};

use crate::{
    bed::{DEADLINE, own_addresses},
    bpf::connect4_programs,
    maker::SocketMaker,
};

/// On the loopback of the pod's namespace, where nobody listens.
const ELSEWHERE: &str = "192.0.2.1:9";
const ELSEWHERE_V6: &str = "[2001:db8::1]:9";

struct Node {
    datapath: Datapath,
    kubepods: Cgroup,
    pod: CgroupId,
    process: SocketMaker,
    netns: Netns,
    _pins: BpfFs,
}

fn settings(host_cookie: u64) -> NodeSettings {
    NodeSettings { host_cookie, undecided: Undecided::Refuse, on_agent_down: OnAgentDown::Closed }
}

impl Node {
    /// One process in one container of one pod, where kubelet's cgroupfs driver puts it.
    fn new() -> anyhow::Result<Self> {
        let pins = BpfFs::new()?;
        let netns = Netns::new()?;
        netns.ip("addr add 192.0.2.1/32 dev lo\naddr add 2001:db8::1/128 dev lo nodad\n")?;
        let kubepods = Cgroup::new()?;
        let pod = kubepods.path().join("besteffort/pod0d6f7a3c");
        fs::create_dir_all(pod.join("container"))?;
        let process = SocketMaker::new(&kubepods, &netns)?;
        process.move_to(&pod.join("container"))?;
        let mut datapath = Datapath::open(&pins.pins())?;
        datapath.set_settings(&settings(netns_cookie()?))?;
        datapath.gate(kubepods.open()?)?;
        let pod = CgroupId::of(fs::File::open(pod)?)?;
        Ok(Self { datapath, kubepods, pod, process, netns, _pins: pins })
    }

    fn expect(&self, to: &str, errno: i32) -> anyhow::Result<()> {
        assert_eq!(self.process.connect(to)?, errno, "{to}");
        Ok(())
    }

    fn expect_let_through(&self) -> anyhow::Result<()> {
        self.expect(ELSEWHERE, LET_THROUGH)?;
        self.expect(ELSEWHERE_V6, LET_THROUGH)
    }
}

/// connect(2) does not wait for the kernel to say that nobody listens.
const LET_THROUGH: i32 = libc::EINPROGRESS;

fn counter(reason: Reason, count: u64) -> Counter {
    Counter { cookie: 0, reason, count }
}

#[test]
fn an_undecided_pod_is_held_but_for_its_loopback() -> anyhow::Result<()> {
    let mut node = Node::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let mut events = node.datapath.events()?.context("the first caller gets the events")?;
    for to in [ELSEWHERE, ELSEWHERE_V6, "[::ffff:192.0.2.1]:9"] {
        node.expect(to, libc::EPERM)?;
    }
    for to in ["127.0.0.1:9", "[::1]:9", "0.0.0.0:9"] {
        node.expect(to, LET_THROUGH)?;
    }
    assert_eq!(node.datapath.counters()?, [counter(Reason::UndecidedRefused, 3)]);
    let event = runtime.block_on(async { tokio::time::timeout(DEADLINE, events.next()).await })??;
    assert_eq!((event.reason, event.destination), (Reason::UndecidedRefused, ELSEWHERE.parse()?));
    assert_eq!(event.cookie, node.netns.enter(netns_cookie)??);
    Ok(())
}

#[test]
fn an_undecided_pod_can_be_let_through_and_is_counted() -> anyhow::Result<()> {
    let mut node = Node::new()?;
    let allow = NodeSettings { undecided: Undecided::Allow, ..settings(netns_cookie()?) };
    node.datapath.set_settings(&allow)?;
    node.expect_let_through()?;
    assert_eq!(node.datapath.counters()?, [counter(Reason::UndecidedAllowed, 2)]);
    Ok(())
}

#[test]
fn a_pod_that_is_left_alone_is_not_counted_either() -> anyhow::Result<()> {
    let mut node = Node::new()?;
    node.datapath.leave_alone(node.pod)?;
    assert_eq!(node.datapath.left_alone()?.into_iter().collect::<Vec<_>>(), [node.pod]);
    node.expect_let_through()?;
    assert_eq!(node.datapath.counters()?, []);
    node.datapath.decide_again(node.pod)?;
    node.datapath.decide_again(node.pod)?;
    node.expect(ELSEWHERE, libc::EPERM)
}

/// Its neighbour, in the same quality of service, is another matter.
#[test]
fn who_is_left_alone_does_not_speak_for_others() -> anyhow::Result<()> {
    let mut node = Node::new()?;
    node.datapath.leave_alone(node.pod)?;
    let neighbour = node.kubepods.path().join("besteffort/pod4b0e");
    fs::create_dir(&neighbour)?;
    node.process.move_to(&neighbour)?;
    node.expect(ELSEWHERE, libc::EPERM)
}

#[test]
fn the_nodes_own_network_is_none_of_its_business() -> anyhow::Result<()> {
    let mut node = Node::new()?;
    let cookie = node.netns.enter(netns_cookie)??;
    node.datapath.set_settings(&settings(cookie))?;
    node.expect_let_through()?;
    assert_eq!(node.datapath.counters()?, []);
    Ok(())
}

#[test]
fn an_enrolled_pod_passes_it_by_its_own_policy() -> anyhow::Result<()> {
    let mut node = Node::new()?;
    let policy = RedirectPolicy { exclude_ip_ranges: vec!["192.0.2.1/32".parse()?], ..Default::default() };
    let cookie = node.netns.enter(netns_cookie)??;
    let pod = fs::File::open(node.kubepods.path().join("besteffort/pod0d6f7a3c"))?;
    node.datapath.attach_pod(&pod, Besides::default())?;
    let listener = Listener { port: 15_001, spread_v4: 8, ports_v6: 8, relay_port: 0 };
    node.datapath.enroll(cookie, &policy, &own_addresses(), listener)?;
    node.expect(ELSEWHERE, LET_THROUGH)?;
    // Nobody listens: redirected all the same.
    node.expect("198.51.100.1:80", LET_THROUGH)?;
    let mut counted = node.datapath.counters()?;
    counted.sort();
    let counter = |reason| Counter { cookie, reason, count: 1 };
    assert_eq!(counted, [counter(Reason::ExcludedRange), counter(Reason::IncludedRange)]);

    node.datapath.detach_pod(node.pod)?;
    node.datapath.unenroll(cookie)?;
    node.expect(ELSEWHERE, libc::EPERM)
}

/// Pinned: it holds also while no agent runs, unless that is to let connections through.
#[test]
fn it_stays_when_the_agent_goes() -> anyhow::Result<()> {
    let mut node = Node::new()?;
    node.datapath.leave_alone(node.pod)?;
    node.datapath = Datapath::open(&node._pins.pins())?;
    node.expect_let_through()?;
    let left_alone = node.datapath.left_alone()?;
    node.datapath.decide_again(*left_alone.first().context("what the last agent said")?)?;
    node.expect(ELSEWHERE, libc::EPERM)?;

    let after = Duration::from_nanos(1);
    let open = NodeSettings { on_agent_down: OnAgentDown::Open { after }, ..settings(netns_cookie()?) };
    node.datapath.set_settings(&open)?;
    node.expect_let_through()?;
    let mut counted = node.datapath.counters()?;
    counted.sort();
    assert_eq!(counted, [counter(Reason::AgentDown, 2), counter(Reason::UndecidedRefused, 1)]);
    Ok(())
}

#[test]
fn it_can_be_moved_and_taken_away() -> anyhow::Result<()> {
    let mut node = Node::new()?;
    let other = Cgroup::new()?;
    node.datapath.gate(other.open()?)?;
    let programs = |cgroup: &Cgroup| connect4_programs(&cgroup.open()?).map_err(anyhow::Error::from);
    assert_eq!((programs(&node.kubepods)?, programs(&other)?), (0, 1));
    node.expect_let_through()?;
    node.datapath.ungate()?;
    assert_eq!(programs(&other)?, 0);
    Ok(())
}

#[test]
fn without_settings_there_is_no_gate() -> anyhow::Result<()> {
    let pins = BpfFs::new()?;
    let kubepods = Cgroup::new()?;
    let error = Datapath::open(&pins.pins())?.gate(kubepods.open()?).err().context("a gate")?;
    assert!(error.to_string().contains("needs settings first"), "{error}");
    assert_eq!(connect4_programs(&kubepods.open()?)?, 0);
    Ok(())
}
