//! Nodes that are to be passed by when the agent is down.

use std::time::Duration;

use interceptor_common::verdict::Reason;
use interceptor_user::datapath::{NodeSettings, OnAgentDown, Undecided, netns_cookie};

use crate::bed::Bed;

fn bed(on_agent_down: OnAgentDown) -> anyhow::Result<Bed> {
    let mut bed = Bed::pinned(&Default::default())?;
    bed.netns.ip("addr add 198.51.100.7/32 dev lo\naddr add 2001:db8::7/128 dev lo nodad\n")?;
    let settings = NodeSettings { host_cookie: netns_cookie()?, undecided: Undecided::Refuse, on_agent_down };
    bed.datapath.set_settings(&settings)?;
    Ok(bed)
}

#[test]
fn with_a_heartbeat_connections_are_redirected() -> anyhow::Result<()> {
    let mut bed = bed(OnAgentDown::Open { after: Duration::from_secs(60) })?;
    for _ in 0..3 {
        bed.datapath.beat()?;
        let client = bed.connect("198.51.100.7:8080")?;
        bed.expect_redirected(&client, "198.51.100.7:8080")?;
    }
    assert_eq!(bed.count(Reason::AgentDown)?, 0);
    Ok(())
}

/// They go where the application asked, and come back to the agent when it does.
#[test]
fn without_one_they_go_their_own_way() -> anyhow::Result<()> {
    let mut bed = bed(OnAgentDown::Open { after: Duration::from_nanos(1) })?;
    let servers = [bed.server("198.51.100.7:8080")?, bed.server("[2001:db8::7]:8080")?];
    for (to, server) in ["198.51.100.7:8080", "[2001:db8::7]:8080"].into_iter().zip(&servers) {
        let client = bed.connect(to)?;
        let (stream, _) = server.accept()?;
        assert_eq!(client.local_addr()?.as_socket(), Some(stream.peer_addr()?), "{to}");
    }
    assert_eq!(bed.count(Reason::AgentDown)?, 2);
    assert!(bed.nothing_to_accept());

    let open = OnAgentDown::Open { after: Duration::from_secs(60) };
    let settings =
        NodeSettings { host_cookie: netns_cookie()?, undecided: Undecided::Refuse, on_agent_down: open };
    bed.datapath.set_settings(&settings)?;
    let client = bed.connect("198.51.100.7:8080")?;
    bed.expect_redirected(&client, "198.51.100.7:8080")?;
    Ok(())
}

/// Also those of a pod whose hooks are there, and whose policy nobody has written.
#[test]
fn a_pod_that_nobody_enrolled_goes_its_own_way_too() -> anyhow::Result<()> {
    let mut bed = bed(OnAgentDown::Open { after: Duration::from_nanos(1) })?;
    let server = bed.server("198.51.100.7:8080")?;
    bed.datapath.unenroll(bed.cookie)?;
    bed.connect("198.51.100.7:8080")?;
    server.accept()?;
    assert_eq!(bed.count(Reason::AgentDown)?, 1);
    Ok(())
}

/// The default: however long the agent has been gone.
#[test]
fn closed_means_refused() -> anyhow::Result<()> {
    let mut bed = bed(OnAgentDown::Closed)?;
    let _server = bed.server("198.51.100.7:8080")?;
    bed.stop_listening()?;
    let error = bed.connect_error("198.51.100.7:8080")?;
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    assert_eq!(bed.count(Reason::AgentDown)?, 0);
    bed.datapath.unenroll(bed.cookie)?;
    assert_eq!(bed.connect_error("198.51.100.7:8080")?.raw_os_error(), Some(libc::EPERM));
    Ok(())
}
