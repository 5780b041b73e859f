//! WorkloadEntry: an endpoint that ServiceEntries of its namespace select by its labels. WorkloadGroup:
//! what such endpoints have in common; read and checked only.

use std::sync::Arc;

use super::meta::Meta;
use super::object::Object;
use super::service_entry::{self, WorkloadEntry as Endpoint};
use super::service_entry_rules;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEntry {
    pub meta: Meta,
    /// Its labels are those of the spec and those of the metadata.
    pub endpoint: Endpoint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadGroup {
    pub meta: Meta,
}

/// `None` when it has no address.
pub(super) fn read(meta: Meta, spec: &Object<'_>) -> Option<WorkloadEntry> {
    let mut endpoint = service_entry::read_workload(spec)?;
    if let Some(problem) = service_entry_rules::address_problem(&endpoint) {
        spec.error_at(spec.position(), "address", problem);
    }
    for (name, value) in &meta.labels {
        endpoint.labels.entry(Arc::clone(name)).or_insert_with(|| Arc::clone(value));
    }
    Some(WorkloadEntry { meta, endpoint })
}

pub(super) fn read_group(meta: Meta, spec: &Object<'_>) -> WorkloadGroup {
    spec.ignore(&["probe"]);
    if let Some(metadata) = spec.get("metadata").and_then(|field| field.object()) {
        metadata.ignore(&["labels", "annotations"]);
    }
    if let Some(template) = spec.require("template").and_then(|field| field.object()) {
        // The address is each workload's own.
        template.ignore(&["address"]);
        service_entry::read_workload_fields(&template);
    }
    WorkloadGroup { meta }
}
