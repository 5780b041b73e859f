//! What becomes of hosts that nobody declared, for a client: the command line goes before the client's
//! annotation, that before its namespace's, that before its Sidecar's, that before the mesh's.

use super::CompileSettings;
use super::findings::Findings;
use super::scope::Scope;
use crate::resource::mesh_config::OutboundTrafficPolicyMode;
use crate::resource::{ClientPolicy, Level, POLICY, World};
use crate::snapshot::OutboundTrafficPolicy;

/// The policy, and whether names must fit the addresses asked for.
pub(super) fn of(
    world: &World,
    settings: &CompileSettings,
    scope: &Scope<'_>,
    findings: &Findings,
) -> (OutboundTrafficPolicy, bool) {
    let own = settings.client.policy.within(of_namespace(world, &settings.client.namespace, findings));
    let of_sidecar = scope.sidecar.as_ref().and_then(|sidecar| sidecar.outbound_traffic_policy);
    let mode = own.outbound_traffic_policy.or(of_sidecar).or(world.mesh.outbound_traffic_policy);
    let policy = match mode {
        Some(OutboundTrafficPolicyMode::AllowAny) | None => OutboundTrafficPolicy::AllowAny,
        Some(OutboundTrafficPolicyMode::RegistryOnly) => OutboundTrafficPolicy::RegistryOnly,
        Some(OutboundTrafficPolicyMode::AllowAnyDynamicDns) => OutboundTrafficPolicy::AllowAnyDynamicDns,
    };
    (settings.outbound_traffic_policy.unwrap_or(policy), own.strict)
}

/// What the Namespace's annotation says; a value that can't be used says nothing.
fn of_namespace(world: &World, name: &str, findings: &Findings) -> ClientPolicy {
    let namespace = world.namespaces().find(|namespace| **namespace.meta.name() == *name);
    let annotated =
        namespace.and_then(|namespace| Some((namespace, namespace.meta.annotations.get(POLICY)?)));
    let Some((namespace, annotation)) = annotated else { return ClientPolicy::default() };
    ClientPolicy::parse(&annotation.value).unwrap_or_else(|error| {
        let field = format!("metadata.annotations[{POLICY}]");
        let message = format!("{error}; the annotation changes nothing");
        findings.coded("IST0125", &namespace.meta, Level::Error, annotation.position, &field, message);
        ClientPolicy::default()
    })
}
