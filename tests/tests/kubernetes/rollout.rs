//! Waiting for a DaemonSet to be ready on every node.

use std::sync::mpsc;
use std::time::Duration;

use interceptor_tests::ApiServer;
use interceptor_user::source::kubernetes::await_daemonset;

fn daemonset(status: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: cleanup, namespace: interceptor, generation: 1}}\n\
         status: {{{status}}}\n"
    )
}

const NONE: &str =
    "currentNumberScheduled: 0, desiredNumberScheduled: 0, numberMisscheduled: 0, numberReady: 0";
const SOME: &str = "observedGeneration: 1, currentNumberScheduled: 2, desiredNumberScheduled: 2, numberMisscheduled: 0, numberReady: 1";
const ALL: &str = "observedGeneration: 1, currentNumberScheduled: 2, desiredNumberScheduled: 2, numberMisscheduled: 0, numberReady: 2";

#[test]
fn every_state_is_told_until_all_are_ready() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&daemonset(NONE))?;
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let patience = Duration::from_secs(20);
            await_daemonset(Some(server.kubeconfig()), "interceptor", "cleanup", patience, |state| {
                drop(tell.send(state.to_owned()));
            })
        });
        let next = || told.recv_timeout(Duration::from_secs(30));
        assert_eq!(next()?, "no node has been told yet");
        server.apply(&daemonset(SOME))?;
        assert_eq!(next()?, "1 of 2 nodes are ready");
        server.kill();
        assert!(next()?.starts_with("the API server does not answer"));
        server.restart()?;
        server.apply(&daemonset(ALL))?;
        Ok(waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)
    })
}

#[test]
fn what_never_comes_is_told() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    let wait = |name| {
        let patience = Duration::from_millis(10);
        await_daemonset(Some(server.kubeconfig()), "interceptor", name, patience, |_| {})
            .unwrap_err()
            .to_string()
    };
    server.apply(&daemonset(SOME))?;
    assert_eq!(
        wait("cleanup"),
        "DaemonSet interceptor/cleanup is not ready after 0 s: 1 of 2 nodes are ready"
    );
    let missing = wait("other");
    assert!(missing.starts_with("can't read DaemonSet interceptor/other"), "{missing}");
    Ok(())
}
