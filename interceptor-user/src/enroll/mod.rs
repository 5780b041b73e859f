//! Pods of this node: which of them are ours, where the kubelet put them, and which network namespace is theirs.

mod annotated;
mod identity;
mod kubepods;
mod netns;
mod network_changes;
mod node;
mod selection;

pub use annotated::Mistake;
pub use identity::{service_account, source_workload};
pub use kubepods::{Kubepods, PodCgroup};
pub use netns::{HostNetns, PodNetns, processes, within};
pub use network_changes::NetworkChanges;
pub use node::{enter_cgroup_namespace, node_namespace};
pub use selection::{
    ENROLL, LeftAlone, NamespaceLabel, OutOfReach, Selection, Selectors, Wanted, parse_enroll,
};
