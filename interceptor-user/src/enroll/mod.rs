//! Pods of this node: which of them are ours, where the kubelet put them, and which network namespace is theirs.

mod addresses;
mod identity;
mod kubepods;
mod netns;
mod selection;

pub use addresses::AddressChanges;
pub use identity::source_workload;
pub use kubepods::{Kubepods, PodCgroup};
pub use netns::{HostNetns, PodNetns, processes, within};
pub use selection::{ENROLL, LeftAlone, Mistake, NamespaceLabel, OutOfReach, Selection, Selectors, Wanted};
