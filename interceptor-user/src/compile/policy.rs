//! What becomes of hosts that nobody declared, for a client: the command line goes before the client's
//! annotation, that before its namespace's, that before its Sidecar's, that before the mesh's.

use std::fmt::Display;

use super::clusters::Clusters;
use super::findings::Findings;
use super::scope::Scope;
use super::{CompileSettings, Role};
use crate::resource::mesh_config::OutboundTrafficPolicyMode;
use crate::resource::virtual_service::Destination;
use crate::resource::{
    ClientPolicy, ENFORCE, EnforceError, Level, POLICY, PolicyError, Sidecar, World, parse_enforce,
};
use crate::snapshot::{CatchAll, OutboundTrafficPolicy};

/// What holds for a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy<'a> {
    pub(super) outbound_traffic: OutboundTrafficPolicy,
    /// Names must fit the addresses asked for.
    pub(super) strict: bool,
    /// Nothing outside is reached but through the egress gateway.
    pub(super) enforced: bool,
    /// Where a Sidecar sends what nobody declared, if it is what decides.
    pub(super) egress_proxy: Option<(&'a Sidecar, &'a Destination)>,
}

impl<'a> Policy<'a> {
    /// A gateway has servers, and nothing for what none of them takes.
    const GATEWAY: Policy<'static> = Policy {
        outbound_traffic: OutboundTrafficPolicy::AllowAny,
        strict: false,
        enforced: false,
        egress_proxy: None,
    };

    pub(super) fn of(
        world: &World,
        settings: &CompileSettings,
        scope: &'a Scope<'_>,
        findings: &Findings,
    ) -> Self {
        if let Role::Gateway { .. } = settings.role {
            return Policy::GATEWAY;
        }
        let own = settings.client.policy.within(of_namespace(world, &settings.client.namespace, findings));
        let sidecar = scope.sidecar_of_policy();
        let of_sidecar = sidecar.and_then(|sidecar| sidecar.outbound_traffic_policy);
        let mode = own.outbound_traffic_policy.or(of_sidecar).or(world.mesh.outbound_traffic_policy);
        let policy = match mode {
            Some(OutboundTrafficPolicyMode::AllowAny) | None => OutboundTrafficPolicy::AllowAny,
            Some(OutboundTrafficPolicyMode::RegistryOnly) => OutboundTrafficPolicy::RegistryOnly,
            Some(OutboundTrafficPolicyMode::AllowAnyDynamicDns) => OutboundTrafficPolicy::AllowAnyDynamicDns,
        };
        let is_overridden =
            settings.outbound_traffic_policy.is_some() || own.outbound_traffic_policy.is_some();
        let egress_proxy = sidecar.filter(|_| !is_overridden);
        let enforced = settings.client.enforced || enforces(world, &settings.client.namespace, findings);
        let policy = settings.outbound_traffic_policy.unwrap_or(policy);
        Self {
            outbound_traffic: if enforced { OutboundTrafficPolicy::RegistryOnly } else { policy },
            strict: own.strict,
            enforced,
            egress_proxy: egress_proxy.and_then(|sidecar| Some((sidecar, sidecar.egress_proxy.as_ref()?))),
        }
    }

    /// What connections and requests get that nobody declared.
    pub(super) fn catch_all(self, clusters: &Clusters, findings: &Findings) -> CatchAll {
        let Some((sidecar, proxy)) = self.egress_proxy else {
            return if self.enforced { CatchAll::around_gateway() } else { self.outbound_traffic.into() };
        };
        let (port, subset) = (proxy.port.unwrap_or_default(), proxy.subset.as_deref().unwrap_or_default());
        let cluster = clusters.named(port, subset, &proxy.host);
        if cluster.cluster.is_none() {
            let field = "spec.outboundTrafficPolicy.egressProxy";
            let message = format!(
                "there is no cluster {}: requests to hosts that nobody declared get 503 (NC), other connections are \
                 closed; declare its host with that port and subset, and import it with the Sidecar's egress hosts",
                cluster.name
            );
            findings.coded("IST0101", &sidecar.meta, Level::Error, proxy.position, field, message);
        }
        CatchAll::egress_proxy(cluster)
    }
}

/// What the Namespace's annotation says; of a value that can't be used the most restrictive that it can mean.
fn of_namespace(world: &World, name: &str, findings: &Findings) -> ClientPolicy {
    let restricted = |error: &PolicyError| (error.instead(), error.instead().described());
    annotation((world, name, findings), POLICY, ClientPolicy::parse, restricted)
}

/// Whether the Namespace's annotation enforces the gateway for all its pods.
fn enforces(world: &World, name: &str, findings: &Findings) -> bool {
    let restricted = |_: &EnforceError| (true, "gateway");
    annotation((world, name, findings), ENFORCE, parse_enforce, restricted)
}

/// What an annotation of the Namespace says; `restricted` is what one that can't be used means, and how to write that.
fn annotation<T: Default, E: Display>(
    (world, name, findings): (&World, &str, &Findings),
    key: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
    restricted: impl FnOnce(&E) -> (T, &'static str),
) -> T {
    let namespace = world.namespaces().find(|namespace| **namespace.meta.name() == *name);
    let annotated = namespace.and_then(|namespace| Some((namespace, namespace.meta.annotations.get(key)?)));
    let Some((namespace, annotation)) = annotated else { return T::default() };
    parse(&annotation.value).unwrap_or_else(|error| {
        let field = format!("metadata.annotations[{key}]");
        let (instead, counts_as) = restricted(&error);
        let message = format!("{error}; until it is mended, it counts as {counts_as}");
        findings.coded("IST0125", &namespace.meta, Level::Error, annotation.position, &field, message);
        instead
    })
}
