//! The directory that an agent follows is away for a while: pods, namespaces and resources with it.

use std::fs;

use interceptor_tests::{Node, World, eventually};

use crate::asked;

#[test]
fn pods_stay_enrolled_while_the_directory_is_away() -> anyhow::Result<()> {
    World::shared()?;
    let node = Node::new()?;
    let agent = node.agent(&["--outbound-traffic-policy", "REGISTRY_ONLY"])?;
    let pod = node.pod("app", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    let failing = |is: bool| {
        let line = format!("interceptor_source_failing{{source=\"files\"}} {}\n", u8::from(is));
        eventually("the source's state to be told", || {
            asked::get(&node, "/metrics").is_ok_and(|metrics| metrics.contains(&line))
        })
    };
    failing(false)?;
    let (resources, away) = (node.dir.join("resources"), node.dir.join("away"));
    fs::rename(&resources, &away)?;
    failing(true)?;
    agent.wait_said("its resources stay as they were")?;
    let blocked = |answer: &interceptor_tests::Curl| !answer.http().is_ok_and(|answer| answer.status == 200);
    for _ in 0..3 {
        let answer = pod.curl(&["http://10.10.0.4/"])?;
        assert!(blocked(&answer), "{answer:?}");
    }
    let dumped = asked::dump(&node, "pods")?;
    assert!(dumped.contains(" enrolled "), "{dumped}");
    fs::rename(&away, &resources)?;
    failing(false)?;
    assert!(blocked(&pod.curl(&["http://10.10.0.4/"])?));
    agent.stop()
}
