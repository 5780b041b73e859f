//! Where a gateway sends TLS that it does not end, by server name, and other bytes (Istio's
//! buildGatewayNetworkFiltersFromTLSRoutes and buildGatewayNetworkFiltersFromTCPRoutes). Of a match only its port, gateways
//! and server names count there.

use std::sync::Arc;

use super::{Inputs, Of};
use crate::compile::http_routes::{Entrance, Translator};
use crate::resource::VirtualService;
use crate::resource::virtual_service::L4Match;
use crate::snapshot::{Rule, Source, TcpRoute};

/// Server names, perhaps with a wildcard, and where each leads; of one that is there twice the first counts.
pub(super) fn tls(inputs: Inputs<'_>, of: Of<'_>) -> Vec<(Arc<str>, Arc<TcpRoute>)> {
    let translator = translator(inputs, of);
    let mut chains = Vec::new();
    for (service, _) in of.bound(inputs.virtual_services) {
        for (index, tls) in service.tls.iter().enumerate() {
            for (number, condition) in tls.matches.iter().enumerate() {
                let taken = of.taken(condition.sni_hosts.iter(), service.meta.namespace());
                if taken.is_empty() || !lets_in(&translator, of, service, condition) {
                    continue;
                }
                let field = format!("spec.tls[{index}].route");
                let clusters = translator.weighted(&service.meta, &tls.destinations, of.server.port, &field);
                if clusters.is_empty() {
                    continue;
                }
                let rule = Rule::Tls { route: index, condition: number };
                let source = Some(Source::rule(&service.meta.key, rule));
                let route = Arc::new(TcpRoute { source, ..TcpRoute::new(clusters) });
                chains.extend(taken.into_iter().map(|sni| (sni, Arc::clone(&route))));
            }
        }
    }
    chains
}

/// The first route that applies.
pub(super) fn tcp(inputs: Inputs<'_>, of: Of<'_>) -> Option<Arc<TcpRoute>> {
    let translator = translator(inputs, of);
    for (service, _) in of.bound(inputs.virtual_services) {
        for (index, tcp) in service.tcp.iter().enumerate() {
            let applies = |condition: &L4Match| lets_in(&translator, of, service, condition);
            if !tcp.matches.is_empty() && !tcp.matches.iter().any(applies) {
                continue;
            }
            let field = format!("spec.tcp[{index}].route");
            let clusters = translator.weighted(&service.meta, &tcp.destinations, of.server.port, &field);
            if clusters.is_empty() {
                continue;
            }
            let source = Some(Source::rule(&service.meta.key, Rule::Tcp { route: index }));
            return Some(Arc::new(TcpRoute { source, ..TcpRoute::new(clusters) }));
        }
    }
    None
}

fn translator<'a>(inputs: Inputs<'a>, of: Of<'a>) -> Translator<'a> {
    Translator { entrance: Entrance::Gateway(&of.gateway.meta.key), ..*inputs.translator }
}

fn lets_in(translator: &Translator<'_>, of: Of<'_>, service: &VirtualService, condition: &L4Match) -> bool {
    condition.port.is_none_or(|port| port == of.server.port)
        && translator.entrance.is_named(&condition.source.gateways, service.meta.namespace())
}
