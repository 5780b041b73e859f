//! Waits until the pods of a DaemonSet are ready on every node, as `kubectl rollout status` does. When the chart is
//! uninstalled this is how Helm waits for the nodes to be clean.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use tokio::time::{Instant, sleep};

use super::{Error, client, config};

const POLL: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    #[error(transparent)]
    Connect(#[from] Error),
    #[error("can't start waiting: {0}")]
    Start(std::io::Error),
    #[error("can't read DaemonSet {name}: {source}")]
    Refused { name: String, source: Box<kube::Error> },
    #[error("DaemonSet {name} is not ready after {} s: {why}", after.as_secs())]
    Late { name: String, after: Duration, why: String },
}

/// Returns when all is ready; `told` gets a sentence whenever something changes.
///
/// # Errors
/// When it takes too long, or the API server refuses. One that does not answer is waited for.
pub fn await_daemonset(
    kubeconfig: Option<&Path>,
    namespace: &str,
    name: &str,
    patience: Duration,
    told: impl FnMut(&str),
) -> Result<(), RolloutError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(RolloutError::Start)?.block_on(wait(kubeconfig, namespace, name, patience, told))
}

async fn wait(
    kubeconfig: Option<&Path>,
    namespace: &str,
    name: &str,
    patience: Duration,
    mut told: impl FnMut(&str),
) -> Result<(), RolloutError> {
    let client = client(&config(kubeconfig).await?)?;
    let daemonsets: Api<DaemonSet> = Api::namespaced(client, namespace);
    let deadline = Instant::now() + patience;
    let mut last = String::new();
    loop {
        let state = match daemonsets.get(name).await {
            Ok(daemonset) => match progress(&daemonset) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => {
                let source = Box::new(kube::Error::Api(status));
                return Err(RolloutError::Refused { name: format!("{namespace}/{name}"), source });
            }
            Err(error) => format!("the API server does not answer: {error}"),
        };
        if state != last {
            told(&state);
            last = state;
        }
        if Instant::now() + POLL > deadline {
            return Err(RolloutError::Late {
                name: format!("{namespace}/{name}"),
                after: patience,
                why: last,
            });
        }
        sleep(POLL).await;
    }
}

/// What is still waited for.
fn progress(daemonset: &DaemonSet) -> Result<(), String> {
    let Some(status) = &daemonset.status else { return Err("no node has been told yet".to_owned()) };
    if status.observed_generation < daemonset.metadata.generation {
        return Err("no node has been told yet".to_owned());
    }
    let (ready, all) = (status.number_ready, status.desired_number_scheduled);
    if ready < all { Err(format!("{ready} of {all} nodes are ready")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn readiness() {
        let status = |observed: i64, ready: i32, all: i32| {
            json!({"observedGeneration": observed, "numberReady": ready, "desiredNumberScheduled": all,
                "currentNumberScheduled": all, "numberMisscheduled": 0})
        };
        for (status, expected) in [
            (json!(null), Err("no node has been told yet")),
            (status(1, 3, 3), Err("no node has been told yet")),
            (status(2, 2, 3), Err("2 of 3 nodes are ready")),
            (status(2, 3, 3), Ok(())),
            (status(2, 0, 0), Ok(())),
        ] {
            let daemonset = json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
                "metadata": {"name": "d", "generation": 2}, "status": status});
            let daemonset: DaemonSet = serde_json::from_value(daemonset).unwrap();
            assert_eq!(progress(&daemonset), expected.map_err(str::to_owned), "{status}");
        }
    }
}
