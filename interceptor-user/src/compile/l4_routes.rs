//! Filter chains of one port of one service: TLS by SNI, or TCP (Istio's core/tls.go).

use std::sync::Arc;

use super::clusters::Clusters;
use super::http_routes::Translator;
use super::registry::{Bind, Service};
use super::virtual_services::VirtualServices;
use crate::resource::service_entry::{AddressRange, ServicePort};
use crate::resource::virtual_service::L4Match;
use crate::resource::{Level, VirtualService, host};
use crate::snapshot::{Rule, Source, TcpRoute};

/// What a chain takes, and where it leads.
#[derive(Debug)]
pub(super) struct Chain {
    /// Only destinations in this range.
    pub(super) range: Option<AddressRange>,
    /// Only this server name, perhaps with a wildcard.
    pub(super) sni: Option<Arc<str>>,
    pub(super) route: Arc<TcpRoute>,
}

#[derive(Debug)]
pub(super) struct L4Routes<'a> {
    pub(super) translator: &'a Translator<'a>,
    pub(super) virtual_services: &'a VirtualServices,
}

impl L4Routes<'_> {
    /// The chains of a port that is not HTTP, in order of precedence.
    pub(super) fn chains(&self, service: &Service, port: &ServicePort, bind: Bind) -> Vec<Chain> {
        let range = match bind {
            Bind::Range(range) => Some(range),
            Bind::Any | Bind::Address(_) => None,
        };
        let default = || default_route(self.translator.clusters, service, port);
        if port.protocol.is_tls() {
            let chains = self.tls(service, port, range);
            if !chains.is_empty() {
                return chains;
            }
            // With an address of its own a service needs no server name.
            let named = Chain { range, sni: Some(Arc::clone(&service.host)), route: default() };
            return match bind {
                Bind::Address(_) => vec![Chain { range, sni: None, route: Arc::clone(&named.route) }, named],
                Bind::Any | Bind::Range(_) => vec![named],
            };
        }
        let (mut chains, whole) = self.tcp(service, port, range);
        if !whole {
            chains.push(Chain { range, sni: None, route: default() });
        }
        chains
    }

    /// Any TLS route that applies replaces the service's own chain.
    fn tls(&self, service: &Service, port: &ServicePort, range: Option<AddressRange>) -> Vec<Chain> {
        let mut chains = Vec::new();
        let mut first = None;
        for virtual_service in self.applying(service) {
            for (index, tls) in virtual_service.tls.iter().enumerate() {
                let field = format!("spec.tls[{index}]");
                let conditions = tls.matches.iter().enumerate();
                let applying =
                    conditions.filter(|(_, condition)| self.matches(virtual_service, condition, port.number));
                for (number, condition) in applying {
                    let clusters = self.translator.weighted(
                        &virtual_service.meta,
                        &tls.destinations,
                        port.number,
                        &format!("{field}.route"),
                    );
                    if clusters.is_empty() {
                        continue;
                    }
                    first.get_or_insert((virtual_service, index));
                    let rule = Rule::Tls { route: index, condition: number };
                    let source = Some(Source::rule(&virtual_service.meta.key, rule));
                    let route = Arc::new(TcpRoute { source, ..TcpRoute::new(clusters) });
                    for range in ranges(condition, range) {
                        chains.extend(condition.sni_hosts.iter().map(|sni| Chain {
                            range,
                            sni: Some(Arc::clone(sni)),
                            route: Arc::clone(&route),
                        }));
                    }
                }
            }
        }
        if let Some(by) = first {
            self.report_left_over((service, port), by, &chains);
        }
        chains
    }

    /// What a TLS route replaces is gone, also for names that no `sniHosts` takes.
    fn report_left_over(
        &self,
        (service, port): (&Service, &ServicePort),
        (by, index): (&VirtualService, usize),
        chains: &[Chain],
    ) {
        let takes_all = |sni: &Arc<str>| host::matches(sni, &service.host);
        if chains.iter().filter_map(|chain| chain.sni.as_ref()).any(takes_all) {
            return;
        }
        let message = format!(
            "TLS routes replace what {} says of port {}: server names of {} that no sniHosts names are treated as \
             unknown hosts there; a rule with sniHosts [\"{}\"] keeps them",
            service.entry.meta.key, port.number, service.host, service.host,
        );
        let position = by.tls.get(index).map(|tls| tls.position).unwrap_or_default();
        let field = format!("spec.tls[{index}].match");
        self.translator.findings.coded("EGR0116", &by.meta, Level::Warning, position, &field, message);
    }

    /// The chains, and whether they leave nothing to the service's own.
    fn tcp(&self, service: &Service, port: &ServicePort, range: Option<AddressRange>) -> (Vec<Chain>, bool) {
        let mut chains = Vec::new();
        for virtual_service in self.applying(service) {
            for (index, tcp) in virtual_service.tcp.iter().enumerate() {
                let field = format!("spec.tcp[{index}]");
                let applying: Vec<&L4Match> = tcp
                    .matches
                    .iter()
                    .filter(|condition| self.matches(virtual_service, condition, port.number))
                    .collect();
                if applying.is_empty() && !tcp.matches.is_empty() {
                    continue;
                }
                let field = format!("{field}.route");
                let clusters =
                    self.translator.weighted(&virtual_service.meta, &tcp.destinations, port.number, &field);
                if clusters.is_empty() {
                    continue;
                }
                let source = Some(Source::rule(&virtual_service.meta.key, Rule::Tcp { route: index }));
                let route = Arc::new(TcpRoute { source, ..TcpRoute::new(clusters) });
                if tcp.matches.is_empty()
                    || applying.iter().any(|condition| condition.destination_subnets.is_empty())
                {
                    chains.push(Chain { range, sni: None, route });
                    return (chains, true);
                }
                let subnets = applying.iter().flat_map(|condition| &condition.destination_subnets);
                chains.extend(subnets.map(|subnet| Chain {
                    range: Some(*subnet),
                    sni: None,
                    route: Arc::clone(&route),
                }));
            }
        }
        (chains, false)
    }

    fn applying(&self, service: &Service) -> impl Iterator<Item = &VirtualService> {
        let matching = self.virtual_services.matching(&service.host);
        matching.into_iter().map(|index| &*self.virtual_services.all[index])
    }

    /// Unlike with HTTP, everything that a match says counts.
    fn matches(&self, service: &VirtualService, condition: &L4Match, port: u16) -> bool {
        condition.port.is_none_or(|wanted| wanted == port)
            && self.translator.entrance.is_named(&condition.source.gateways, service.meta.namespace())
            && self.translator.client_matches(&condition.source)
    }
}

/// Where a service's connections go without a VirtualService.
pub(super) fn default_route(clusters: &Clusters, service: &Service, port: &ServicePort) -> Arc<TcpRoute> {
    let cluster = clusters.named(port.number, "", &service.host);
    let source = Some(Arc::clone(&service.source));
    Arc::new(TcpRoute { source, ..TcpRoute::to(cluster) })
}

/// A match's own subnets go before the service's range.
fn ranges(condition: &L4Match, range: Option<AddressRange>) -> Vec<Option<AddressRange>> {
    if condition.destination_subnets.is_empty() {
        return vec![range];
    }
    condition.destination_subnets.iter().map(|subnet| Some(*subnet)).collect()
}
