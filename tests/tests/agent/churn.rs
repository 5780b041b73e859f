//! A full node: two hundred pods, coming and going while others work.

use std::time::{Duration, Instant};

use interceptor_tests::{Agent, ApiServer, Node, World, wait_for};

use crate::HTTPBIN;
use crate::load::{Echo, Load};

#[test]
fn two_hundred_pods_come_and_go_while_others_work() -> anyhow::Result<()> {
    const PODS: usize = 200;
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let echo = Echo::start()?;
    let agent = node.agent(&["--drain", "0s"])?;
    let working = node.pod("working", "")?;
    working.start()?;
    let _pause = working.pause()?;
    working.wait_enrolled(&agent)?;
    let load = Load::start(&working, &echo.origin, 2)?;

    let before = agent.anonymous_kib()?;
    let spent = agent.cpu()?;
    let pods = (0..PODS).map(|number| node.bare_pod(&format!("idle-{number}")));
    let mut pods: Vec<_> = pods.collect::<anyhow::Result<_>>()?;
    for pod in &pods {
        agent.wait_said(&format!("pod shop/{}: enrolled", pod.name()))?;
    }
    agent.wait_ready()?;
    let each = (agent.anonymous_kib()? - before) / PODS as f64;
    println!("processor time for {PODS} pods: {:?}", agent.cpu()? - spent);
    println!("memory of its own: {before:.0} KiB with one pod, {each:.1} KiB for each idle one more");
    assert!(each < 60.0, "{each} KiB for each idle pod");
    // Half of them go, and as many come.
    let names: Vec<String> = pods.drain(..PODS / 2).map(|pod| pod.name().to_owned()).collect();
    for number in PODS..PODS * 3 / 2 {
        pods.push(node.bare_pod(&format!("idle-{number}"))?);
    }
    for name in names {
        agent.wait_said(&format!("pod shop/{name}: gone"))?;
    }
    for pod in &pods {
        agent.wait_said(&format!("pod shop/{}: enrolled", pod.name()))?;
    }
    agent.wait_ready()?;
    echo.wait_more(20)?;
    let counts = load.finish()?;
    assert_eq!(
        (counts.unintercepted, counts.wrong, counts.refused, counts.broken),
        (0, 0, 0, 0),
        "{counts:?}"
    );
    assert_eq!(counts.others, "[]", "{counts:?}");
    agent.stop()
}

/// What is told of one pod makes the agent look at that pod, not at all of them.
#[test]
fn changes_of_pods_cost_the_same_however_many_there_are() -> anyhow::Result<()> {
    const PODS: usize = 300;
    let api: &'static ApiServer = Box::leak(Box::new(World::shared()?.outside.enter(ApiServer::start)??));
    let node = Node::following(api)?;
    let agent = node.agent(&["--drain", "0s"])?;
    agent.wait_said("pods that are not decided yet are held")?;
    let start = agent.cpu()?;
    let pods = (0..PODS).map(|number| node.bare_pod(&format!("idle-{number}")));
    let pods: Vec<_> = pods.collect::<anyhow::Result<_>>()?;
    for pod in &pods {
        agent.wait_said(&format!("pod shop/{}: enrolled", pod.name()))?;
    }
    let enrolled = agent.cpu()?;
    let exclude = "  annotations: {traffic.sidecar.istio.io/excludeOutboundPorts: \"5432\"}\n";
    for pod in &pods {
        pod.describe(exclude)?;
    }
    for pod in &pods {
        agent.wait_said(&format!("pod shop/{}: the annotations' policy is in effect", pod.name()))?;
    }
    let each = |spent: Duration| spent / u32::try_from(PODS).unwrap_or(1);
    let (to_enroll, to_change) = (each(enrolled - start), each(agent.cpu()? - enrolled));
    println!(
        "processor time for each of {PODS} pods: {to_enroll:?} to enroll it, {to_change:?} for a change of it"
    );
    agent.stop()
}

#[test]
fn an_agent_is_idle_when_its_pods_are() -> anyhow::Result<()> {
    const PODS: u32 = 100;
    const WATCHED: Duration = Duration::from_secs(10);
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let agent = node.agent(&[])?;
    agent.wait_ready()?;
    let at_rest = settled(&agent)?;
    // The code that enrolling takes is no pod's.
    let _first = node.bare_pod("first")?;
    agent.wait_said("pod shop/first: enrolled")?;
    let (with_one, before) = (settled(&agent)?, agent.anonymous_kib()?);
    let pods = (0..PODS).map(|number| node.bare_pod(&format!("idle-{number}")));
    let pods: Vec<_> = pods.collect::<anyhow::Result<_>>()?;
    for pod in &pods {
        agent.wait_said(&format!("pod shop/{}: enrolled", pod.name()))?;
    }
    agent.wait_ready()?;
    let with_pods = settled(&agent)?;
    let each = |more: f64| more / f64::from(PODS);
    let (each_pss, each_own) = (each(with_pods - with_one), each(agent.anonymous_kib()? - before));
    let (spent, waits) = (agent.cpu()?, agent.waits()?);
    std::thread::sleep(WATCHED);
    let percent = (agent.cpu()? - spent).as_secs_f64() / WATCHED.as_secs_f64() * 100.0;
    let waits = (agent.waits()? - waits) as f64 / WATCHED.as_secs_f64();
    println!(
        "at rest {:.1} MiB (PSS), with a pod {:.1} and {each_pss:.1} KiB for each idle one more, of its own {each_own:.1}; with {PODS} of them \
         {percent:.1} % of a CPU and {waits:.0} wake-ups a second",
        at_rest / 1024.0,
        with_one / 1024.0
    );
    assert!(percent < 20.0, "{percent} % of a CPU");
    agent.stop()
}

/// Its proportional set size once that has not shrunk for a while.
fn settled(agent: &Agent<'_>) -> anyhow::Result<f64> {
    const SETTLED: Duration = Duration::from_secs(3);
    let (mut least, mut shrunk) = (f64::MAX, Instant::now());
    wait_for("its memory to settle", Duration::from_secs(30), || {
        let now = agent.pss_kib().ok()?;
        if now < least {
            (least, shrunk) = (now, Instant::now());
        }
        (shrunk.elapsed() >= SETTLED).then_some(now)
    })
}
