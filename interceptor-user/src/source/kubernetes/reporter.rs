//! What is wrong, on its way to the Events about it: the latest findings, as a whole. Never blocks.

use std::sync::Arc;

use tokio::sync::watch;

use crate::resource::{Diagnostic, Level};

/// Takes findings; Events about them are written in the background, each once in a while for as long as it is there.
#[derive(Clone, Debug)]
pub struct Reporter {
    resources: Arc<watch::Sender<Arc<[Diagnostic]>>>,
    pods: Arc<watch::Sender<Arc<[Diagnostic]>>>,
}

impl Reporter {
    pub(super) fn new() -> (Self, Findings) {
        let resources = watch::Sender::new(Arc::default());
        let pods = watch::Sender::new(Arc::default());
        let findings = Findings { resources: resources.subscribe(), pods: pods.subscribe() };
        (Self { resources: Arc::new(resources), pods: Arc::new(pods) }, findings)
    }

    /// All that is wrong with the cluster's resources now. What was told before and is not among it is told no more.
    pub fn resources(&self, findings: &[Diagnostic]) {
        self.resources.send_replace(worth_an_event(findings));
    }

    /// All that is wrong with pods of this node now: findings whose resource is `Pod namespace/name`.
    pub fn pods(&self, findings: &[Diagnostic]) {
        self.pods.send_replace(worth_an_event(findings));
    }
}

fn worth_an_event(findings: &[Diagnostic]) -> Arc<[Diagnostic]> {
    findings.iter().filter(|finding| finding.level <= Level::Warning).cloned().collect()
}

/// The other end.
#[derive(Debug)]
pub(super) struct Findings {
    resources: watch::Receiver<Arc<[Diagnostic]>>,
    pods: watch::Receiver<Arc<[Diagnostic]>>,
}

impl Findings {
    /// Fails when nobody reports any more.
    pub(super) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.resources.changed() => changed,
            changed = self.pods.changed() => changed,
        }
    }

    pub(super) fn latest(&mut self) -> Vec<Diagnostic> {
        // Pods go first: no other node tells of them.
        let pods = self.pods.borrow_and_update().to_vec();
        pods.into_iter().chain(self.resources.borrow_and_update().iter().cloned()).collect()
    }
}
