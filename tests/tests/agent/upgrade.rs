//! An agent whose version pins something else takes over from one that serves pods.

use std::fs;

use interceptor_common::policy::SCHEMA;
use interceptor_tests::{Node, World, eventually};

use crate::HTTPBIN;
use crate::enforced::datagrams;
use crate::load::{Echo, Load};

#[test]
fn over_a_change_of_schema_no_connection_goes_its_own_way() -> anyhow::Result<()> {
    let own = World::shared()?.dns.address.to_string();
    let node = Node::new()?;
    let echo = Echo::start()?;
    node.apply("httpbin", HTTPBIN)?;
    let pods = [
        node.pod("web", "")?,
        node.pod("fenced", "  annotations: {egress.interceptor.io/enforce: gateway}\n")?,
    ];
    for pod in &pods {
        pod.start()?;
    }
    let _pauses = [pods[0].pause()?, pods[1].pause()?];
    let before = node.agent(&["--drain", "5s"])?;
    for pod in &pods {
        pod.wait_enrolled(&before)?;
    }
    before.wait_ready()?;
    let load = Load::start(&pods[0], &echo.origin, 4)?;
    echo.wait_more(20)?;

    // From here on the maps and links of the agent that runs are another version's.
    let other = node.pins().join("v1");
    fs::rename(node.pins().join(format!("v{SCHEMA}")), &other)?;
    let after = node.agent(&[])?;
    eventually("the other version's pins to be gone", || !other.exists())?;
    for pod in &pods {
        pod.wait_enrolled(&after)?;
    }
    // It sees that no pod is its own any more, and needs nobody to end it.
    before.wait_ended()?;
    echo.wait_more(20)?;
    let counts = load.finish()?;
    assert_eq!((counts.unintercepted, counts.wrong), (0, 0), "{counts:?}");
    assert!(counts.carried > 0, "{counts:?}");
    assert_eq!(counts.others, "[]", "{counts:?}");
    assert_eq!(datagrams(&pods[1], &own)?, "Operation not permitted\nout\n");
    after.stop()
}
