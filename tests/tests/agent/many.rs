//! Many pods that come and go.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context;
use interceptor_tests::{Agent, Node, wait_for};

use crate::HTTPBIN;

/// What the agent's process and the kernel hold for pods.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    namespaces: usize,
}

impl Held {
    /// By what descriptors are of, for people: a leak has a name.
    fn of(agent: &Agent<'_>) -> anyhow::Result<(Self, BTreeMap<String, usize>)> {
        let mut kinds = BTreeMap::<String, usize>::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", agent.pid())).context("cannot look at the agent")? {
            // It may have been closed meanwhile.
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            let kind = target.to_string_lossy().split('[').next().unwrap_or_default().to_owned();
            *kinds.entry(kind).or_default() += 1;
        }
        let namespaces = kinds.get("net:").copied().unwrap_or_default();
        Ok((Self { descriptors: kinds.values().sum(), namespaces }, kinds))
    }
}

#[test]
fn a_thousand_pods_leave_nothing_behind() -> anyhow::Result<()> {
    const ROUNDS: usize = 20;
    const PODS: usize = 50;
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let agent = node.agent(&["--drain", "0s"])?;
    let mut before = None;
    for round in 0..ROUNDS {
        let pods = (0..PODS).map(|number| node.bare_pod(&format!("p{round}-{number}")));
        let pods: Vec<_> = pods.collect::<anyhow::Result<_>>()?;
        for pod in &pods {
            agent.wait_said(&format!("pod shop/{}: enrolled", pod.name()))?;
        }
        let names: Vec<String> = pods.iter().map(|pod| pod.name().to_owned()).collect();
        drop(pods);
        for name in names {
            agent.wait_said(&format!("pod shop/{name}: gone"))?;
        }
        if round == 0 {
            before = Some(Held::of(&agent)?);
        }
    }
    let (before, _) = before.context("no round")?;
    wait_for("what the last pods held to be let go", Duration::from_secs(30), || {
        let (after, _) = Held::of(&agent).ok()?;
        (after.descriptors <= before.descriptors && after.namespaces <= before.namespaces).then_some(())
    })
    .with_context(|| format!("before {before:?}, after {:?}", Held::of(&agent)))?;
    let links = fs::read_dir(node.pins())?.flatten().map(|version| version.path().join("links"));
    let left: usize = links.filter_map(|links| Some(fs::read_dir(links).ok()?.count())).sum();
    assert!(left <= 1, "{left} cgroups have links");
    agent.stop()
}
