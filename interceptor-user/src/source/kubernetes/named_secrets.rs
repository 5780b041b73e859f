//! Which Secrets resources name by credentialName: no others are asked for. An agent's are in the namespace of the
//! DestinationRule; a gateway's are all in its own, as with Istio, whoever names them.

use std::sync::Arc;

use super::Audience;
use super::credentials::is_name;
use super::watches::Watch;
use crate::resource::destination_rule::TrafficPolicy;
use crate::resource::gateway::Server;
use crate::resource::{DestinationRule, Labels, World};

/// The Secrets that `audience` needs.
pub(super) fn of<'a>(world: &'a World, audience: &'a Audience) -> Box<dyn Iterator<Item = Watch> + 'a> {
    match audience {
        Audience::Node(_) => {
            let named = |rule: &'a Arc<DestinationRule>| {
                of_rule(rule).flat_map(|name| secrets(rule.meta.namespace(), name))
            };
            Box::new(world.destination_rules().flat_map(named))
        }
        Audience::Gateway { namespace, labels, .. } => {
            let is_selected =
                |selector: &Labels| selector.iter().all(|(name, value)| labels.get(name) == Some(value));
            let gateways = world.gateways().filter(move |gateway| is_selected(&gateway.selector));
            let of_gateways = gateways.flat_map(|gateway| &gateway.servers).flat_map(of_server);
            let default = &world.mesh.default_destination_rule_export_to;
            let acts = move |rule: &&'a Arc<DestinationRule>| {
                rule.export_to.or(default).reaches(rule.meta.namespace(), namespace)
                    && rule.workload_selector.as_ref().is_none_or(is_selected)
            };
            let of_rules = world.destination_rules().filter(acts).flat_map(|rule| of_rule(rule));
            Box::new(of_gateways.chain(of_rules).flat_map(|name| secrets(namespace, name)))
        }
    }
}

fn of_server(server: &Server) -> impl Iterator<Item = &Arc<str>> {
    let tls = server.tls.as_ref().filter(|_| server.terminates_tls());
    tls.into_iter().flat_map(|tls| tls.credential_names.iter().chain(&tls.ca_credential_name))
}

fn of_rule(rule: &DestinationRule) -> impl Iterator<Item = &Arc<str>> {
    let policies = std::iter::once(&*rule.policy).chain(rule.subsets.iter().map(|subset| &subset.policy));
    policies.flat_map(of_policy)
}

fn of_policy(policy: &TrafficPolicy) -> impl Iterator<Item = &Arc<str>> {
    let blocks = std::iter::once(&policy.blocks).chain(policy.ports.values().map(|blocks| &**blocks));
    blocks.filter_map(|blocks| blocks.tls.as_ref()?.credential_name.as_ref())
}

/// The one of that name, and its `-cacert` sibling, where Istio lets the CA be apart.
fn secrets(namespace: &Arc<str>, name: &str) -> impl Iterator<Item = Watch> {
    let name = name.strip_prefix("kubernetes://").unwrap_or(name);
    let own = is_name(name).then(|| name.to_owned());
    let sibling = own.as_ref().filter(|name| !name.ends_with("-cacert")).map(|name| format!("{name}-cacert"));
    let watch = |name: String| Watch::Secret { namespace: Arc::clone(namespace), name: name.into() };
    own.into_iter().chain(sibling).map(watch)
}
