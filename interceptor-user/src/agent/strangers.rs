//! Pods that run here and that nobody tells of. What they connect to is refused, and nothing else would say so: a wrong name
//! of the node refuses everybody, and looks like a node without pods.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::Control;
use crate::datapath::Undecided;

/// A pod may be told of after its cgroup is there, and be gone before it: longer than either takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many are named.
const NAMED_MAX: usize = 3;

/// By uid: since when, and whether it has been told.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<Arc<str>, (Instant, bool)>);

impl Control {
    pub(super) fn look_for_strangers(&mut self) {
        let there = self.cgroups.there().iter();
        let strangers = there.filter(|(uid, directory)| !self.pods.contains_key(*uid) && runs(directory));
        let before = std::mem::take(&mut self.strangers.0);
        let since = |uid: &Arc<str>| before.get(uid).copied().unwrap_or_else(|| (Instant::now(), false));
        self.strangers.0 = strangers.map(|(uid, _)| (Arc::clone(uid), since(uid))).collect();
        let mut untold: Vec<Arc<str>> = Vec::new();
        for (uid, (since, is_told)) in &mut self.strangers.0 {
            if since.elapsed() > PATIENCE && !std::mem::replace(is_told, true) {
                untold.push(Arc::clone(uid));
            }
        }
        if untold.is_empty() {
            return;
        }
        let named = untold.get(..NAMED_MAX).unwrap_or(&untold).join(", ");
        let more = untold.len().saturating_sub(NAMED_MAX);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        tracing::warn!("{} (uid {named}{more})", self.about_strangers(untold.len()));
    }

    /// Why no pod is served where there are some; `None` where one is known, or none is there.
    pub(super) fn nobody_but_strangers(&self) -> Option<String> {
        let told = self.strangers.0.values().filter(|(_, is_told)| *is_told).count();
        (self.pods.is_empty() && told > 0).then(|| self.about_strangers(told))
    }

    fn about_strangers(&self, count: usize) -> String {
        let of_node = match &self.settings.node_name {
            Some(name) => format!(", as pods of node {name} (is --node-name right?)"),
            None => String::new(),
        };
        let becomes = match self.settings.undecided {
            Undecided::Refuse => "are refused",
            Undecided::Allow => "go their own way",
        };
        format!(
            "nobody tells of {count} of the pods that run here{of_node}: until then their connections {becomes}"
        )
    }
}

/// Whether there is a process in it; what a pod has left behind is none.
fn runs(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}
