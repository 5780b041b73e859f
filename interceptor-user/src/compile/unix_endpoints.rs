//! Endpoints that are unix sockets of the node, and are left out unless they were allowed. Abstract names never are: they
//! belong to a workload's own network namespace.

use std::path::Path;

use super::NodePaths;
use crate::resource::service_entry::{Resolution, WorkloadEntry as Endpoint};
use crate::resource::{Diagnostic, Labels, Meta, ServiceEntry, UnixPath, WorkloadEntry, World, code};

/// An endpoint that is left out.
#[derive(Debug)]
pub(crate) struct Refused<'a> {
    /// The ServiceEntry or the WorkloadEntry.
    pub(crate) meta: &'a Meta,
    pub(crate) field: String,
    pub(crate) endpoint: &'a Endpoint,
}

/// Whether an endpoint with this address is used; those that are no unix sockets are.
pub(super) fn allows(allowed: &NodePaths, address: &str) -> bool {
    match UnixPath::of_address(address) {
        // What is no path at all is not used anyway.
        None | Some(Err(_)) => true,
        Some(Ok(path)) => path.abstract_name().is_some() || allowed.allow(Path::new(path.as_str())),
    }
}

/// The endpoints of `entry` that are left out, those that it selects among them.
pub(crate) fn refused<'a>(
    allowed: &NodePaths,
    entry: &'a ServiceEntry,
    world: &'a World,
) -> Vec<Refused<'a>> {
    refused_of(allowed, entry, &refused_workloads(allowed, world))
}

/// The same of every entry that is `seen`, as findings.
pub(crate) fn findings(
    allowed: &NodePaths,
    world: &World,
    seen: impl Fn(&ServiceEntry) -> bool,
) -> Vec<Diagnostic> {
    if *allowed == NodePaths::Any {
        return Vec::new();
    }
    let workloads = refused_workloads(allowed, world);
    let entries = world.service_entries().filter(|entry| seen(entry));
    let refused = entries.flat_map(|entry| refused_of(allowed, entry, &workloads));
    refused.map(|refused| refused.finding(allowed)).collect()
}

fn refused_workloads<'a>(allowed: &NodePaths, world: &'a World) -> Vec<&'a WorkloadEntry> {
    let workloads = world.workload_entries().map(|entry| &**entry);
    workloads.filter(|entry| !allows(allowed, &entry.endpoint.address)).collect()
}

fn refused_of<'a>(
    allowed: &NodePaths,
    entry: &'a ServiceEntry,
    workloads: &[&'a WorkloadEntry],
) -> Vec<Refused<'a>> {
    if entry.resolution != Resolution::Static {
        return Vec::new();
    }
    let own = entry.endpoints.iter().enumerate().filter(|(_, endpoint)| !allows(allowed, &endpoint.address));
    let own = own.map(|(index, endpoint)| Refused {
        meta: &entry.meta,
        field: format!("spec.endpoints[{index}].address"),
        endpoint,
    });
    let is_selected = |workload: &&&WorkloadEntry| {
        workload.meta.namespace() == entry.meta.namespace()
            && entry.workload_selector.as_ref().is_some_and(|wanted| has(&workload.endpoint.labels, wanted))
    };
    let selected = workloads.iter().filter(is_selected).map(|workload| Refused {
        meta: &workload.meta,
        field: "spec.address".into(),
        endpoint: &workload.endpoint,
    });
    own.chain(selected).collect()
}

impl Refused<'_> {
    fn finding(&self, allowed: &NodePaths) -> Diagnostic {
        let code = &code::EGR0124;
        let address = &self.endpoint.address;
        let message =
            format!("{address} is a socket of the node, and --allow-unix-endpoints allows {allowed}");
        let finding = self.meta.finding(code.level, self.endpoint.position, &self.field, message);
        Diagnostic { code: Some(code.id), effect: code.effect.into(), mend: code.mend.into(), ..finding }
    }
}

fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}
