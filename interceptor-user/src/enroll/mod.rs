//! Pods of this node: which of them are ours, where the kubelet put them, and which network namespace is theirs.

mod addresses;
mod annotated;
mod identity;
mod kubepods;
mod netns;
mod node;
mod selection;

pub use addresses::AddressChanges;
pub use annotated::Mistake;
pub use identity::{service_account, source_workload};
pub use kubepods::{Kubepods, PodCgroup};
pub use netns::{HostNetns, PodNetns, processes, within};
pub use node::{enter_cgroup_namespace, node_namespace};
pub use selection::{ENROLL, LeftAlone, NamespaceLabel, OutOfReach, Selection, Selectors, Wanted};
