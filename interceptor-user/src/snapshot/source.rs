//! Which resource made a part of the snapshot. Where it is written is looked up by these names: a position here would
//! make a snapshot differ when a comment is added to a file.

use std::sync::Arc;

use crate::resource::ResourceKey;

/// A resource, and the rule in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    pub resource: ResourceKey,
    /// `None`: the resource as a whole, without a rule (a service's own route).
    pub rule: Option<Rule>,
}

/// A rule of a VirtualService: the index in its list, and of the match that applied when it has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    Http { route: usize, condition: Option<usize> },
    Tls { route: usize, condition: usize },
    Tcp { route: usize },
}

impl Source {
    pub fn whole(resource: &ResourceKey) -> Arc<Self> {
        Arc::new(Self { resource: resource.clone(), rule: None })
    }

    pub fn rule(resource: &ResourceKey, rule: Rule) -> Arc<Self> {
        Arc::new(Self { resource: resource.clone(), rule: Some(rule) })
    }
}

/// What made a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterSource {
    pub service: ResourceKey,
    /// Those that were merged, the oldest first; empty when none applies.
    pub destination_rules: Vec<ResourceKey>,
}
