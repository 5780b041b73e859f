//! Who may use which hosts at a gateway: what ServiceEntries' annotations say.

use std::collections::HashMap;
use std::sync::Arc;

use super::scope::Scope;
use super::{CompileSettings, Role};
use crate::resource::{AllowFrom, ServiceEntry, World};
use crate::snapshot::HostMap;

/// Of an entry's own clusters.
pub(super) fn of_entry(settings: &CompileSettings, entry: &ServiceEntry) -> Option<AllowFrom> {
    match settings.role {
        Role::Workload => None,
        Role::Gateway { .. } => entry.rule(),
    }
}

/// By host, for requests that reach it through another entry's cluster: see [`crate::snapshot::Snapshot::allow_from`].
pub(super) fn by_host(
    world: &World,
    settings: &CompileSettings,
    scope: &Scope<'_>,
) -> Arc<HostMap<Vec<AllowFrom>>> {
    let mut of_hosts: HashMap<&str, Vec<AllowFrom>> = HashMap::new();
    if let Role::Gateway { .. } = settings.role {
        for entry in world.all_service_entries().filter(|entry| scope.is_exported(entry)) {
            let Some(rule) = entry.rule() else { continue };
            for host in &entry.hosts {
                of_hosts.entry(&host.value).or_default().push(rule.clone());
            }
        }
    }
    let mut by_host = HostMap::default();
    for (host, rules) in of_hosts {
        by_host.insert(host, rules);
    }
    Arc::new(by_host)
}
