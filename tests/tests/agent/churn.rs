//! A full node: two hundred pods, coming and going while others work.

use interceptor_tests::Node;

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

    let before = agent.pss_kib()?;
    let pods = (0..PODS).map(|number| node.bare_pod(&format!("idle-{number}")));
    let mut pods: Vec<_> = pods.collect::<anyhow::Result<_>>()?;
    for pod in &pods {
        agent.wait_said(&format!("pod shop/{}: enrolled", pod.name()))?;
    }
    agent.wait_ready()?;
    let each = (agent.pss_kib()? - before) / PODS as f64;
    println!("memory: {before:.0} KiB with one pod, {each:.1} KiB for each idle one more (PSS)");
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
