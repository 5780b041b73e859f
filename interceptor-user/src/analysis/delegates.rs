//! Rules about VirtualServices that delegate routes to others, and those that are delegated to.

use std::collections::{HashMap, HashSet};

use super::findings::{Findings, about, at, named};
use super::mesh::Mesh;
use crate::compile::delegates;
use crate::resource::virtual_service::{HttpAction, HttpRoute};
use crate::resource::{ResourceKey, VirtualService, code};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    let known: HashMap<&ResourceKey, &VirtualService> =
        mesh.world.virtual_services().map(|service| (&service.meta.key, &**service)).collect();
    let mut used = HashSet::new();
    for root in mesh.world.virtual_services() {
        for (index, route) in root.http.iter().enumerate() {
            let HttpAction::Delegate { name, namespace } = &route.action else { continue };
            let namespace = namespace.as_ref().unwrap_or(root.meta.namespace());
            let key =
                ResourceKey { name: name.clone(), namespace: namespace.clone(), ..root.meta.key.clone() };
            let field = format!("spec.http[{index}].delegate");
            let not_found = |why: String| {
                about(
                    &code::IST0101,
                    &root.meta,
                    format!("{field}.name"),
                    format!("Referenced delegate not found: \"{namespace}/{name}\""),
                )
                .effect("this route is left out: requests that it matches get the next one, or 404")
                .mend(why)
            };
            match known.get(&key) {
                None => findings.push(not_found(
                    "its name and namespace must be those of a VirtualService without hosts".into(),
                )),
                Some(delegate) if !delegate.is_delegate() => findings.push(not_found(format!(
                    "{} has hosts, so that it is no delegate: remove them, or name another",
                    named(&delegate.meta)
                ))),
                Some(delegate) => {
                    let (export_to, _) = mesh.export_of(delegate);
                    if !export_to.reaches(delegate.meta.namespace(), root.meta.namespace()) {
                        findings.push(not_found(format!(
                            "{} is not exported to namespace {}: add it to exportTo there",
                            named(&delegate.meta),
                            root.meta.namespace()
                        )));
                    } else {
                        check_matches(root, (index, route), delegate, findings);
                    }
                }
            }
            used.insert(key);
        }
    }
    for delegate in
        known.values().filter(|service| service.is_delegate() && !used.contains(&service.meta.key))
    {
        let message =
            "no hosts: only a VirtualService that delegates to this one could use it, and none does"
                .to_owned();
        findings.push(about(&code::EGR0121, &delegate.meta, "spec", message));
    }
}

/// Routes that are left out: they match what the root's route does not.
fn check_matches(
    root: &VirtualService,
    (index, of_root): (usize, &HttpRoute),
    delegate: &VirtualService,
    findings: &mut Findings,
) {
    for (number, route) in delegate.http.iter().enumerate() {
        if delegates::is_conflict(of_root, route) {
            let message = format!("{} ({})", delegates::conflict(root, index), root.meta.origin);
            let field = format!("spec.http[{number}].match");
            findings.push(at(&code::EGR0123, &delegate.meta, route.position, field, message));
        }
    }
}
