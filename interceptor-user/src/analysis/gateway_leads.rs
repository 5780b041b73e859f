//! Where what comes to a Gateway's servers is led: by the routes of VirtualServices that act there.

use super::gateway_routes::{block_of, has_host};
use super::mesh::Mesh;
use crate::resource::gateway::Server;
use crate::resource::virtual_service::{Destination, HttpAction, HttpRoute, SourceMatch, gateway_meant};
use crate::resource::{Gateway, VirtualService};

/// A server, and a destination that a route leads it to.
#[derive(Clone, Debug)]
pub(super) struct Lead<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) index: usize,
    pub(super) server: &'a Server,
    /// Whose the route is: a delegate's is its own.
    pub(super) service: &'a VirtualService,
    /// `spec.http[0].route[0].destination.host`.
    pub(super) field: String,
    pub(super) destination: &'a Destination,
}

/// All of them; of routes that others hide, none.
pub(super) fn of<'a>(mesh: &Mesh<'a>) -> Vec<Lead<'a>> {
    let mut leads = Vec::new();
    for service in mesh.world.virtual_services().filter(|service| service.binds_gateways()) {
        for gateway in mesh.world.gateways().filter(|gateway| is_bound(service, gateway)) {
            for (index, server) in gateway.servers.iter().enumerate() {
                if has_host(server, service) {
                    let at = At { gateway, index, server };
                    add(mesh, at, service, &mut leads);
                }
            }
        }
    }
    leads
}

/// A server of a Gateway.
#[derive(Clone, Copy)]
struct At<'a> {
    gateway: &'a Gateway,
    index: usize,
    server: &'a Server,
}

impl<'a> At<'a> {
    /// Whether a match of a VirtualService in `namespace` acts there.
    fn has(self, namespace: &str, source: &SourceMatch, port: Option<u16>) -> bool {
        let is_named = source.gateways.is_empty()
            || source.gateways.iter().any(|reference| is_it(reference, namespace, self.gateway));
        is_named && port.is_none_or(|port| port == self.server.port)
    }

    fn has_any<'b>(
        self,
        service: &VirtualService,
        mut matches: impl ExactSizeIterator<Item = (&'b SourceMatch, Option<u16>)>,
    ) -> bool {
        matches.len() == 0 || matches.any(|(source, port)| self.has(service.meta.namespace(), source, port))
    }

    fn lead(self, service: &'a VirtualService, field: String, destination: &'a Destination) -> Lead<'a> {
        let At { gateway, index, server } = self;
        Lead { gateway, index, server, service, field, destination }
    }
}

fn is_it(reference: &str, namespace: &str, gateway: &Gateway) -> bool {
    gateway_meant(reference, namespace) == (&**gateway.meta.namespace(), &**gateway.meta.name())
}

fn is_bound(service: &VirtualService, gateway: &Gateway) -> bool {
    service.gateways.iter().any(|reference| is_it(reference, service.meta.namespace(), gateway))
}

fn add<'a>(mesh: &Mesh<'a>, at: At<'a>, service: &'a VirtualService, leads: &mut Vec<Lead<'a>>) {
    let listed = |block: &str, index: usize, destinations: &'a [Destination]| -> Vec<Lead<'a>> {
        let field = |number: usize| format!("spec.{block}[{index}].route[{number}].destination.host");
        let each = destinations.iter().enumerate();
        each.map(|(number, destination)| at.lead(service, field(number), destination)).collect()
    };
    match block_of(at.server) {
        "http" => add_http(mesh, at, service, true, leads),
        "tls" => {
            for (index, route) in service.tls.iter().enumerate() {
                if at.has_any(service, route.matches.iter().map(|found| (&found.source, found.port))) {
                    leads.extend(listed("tls", index, &route.destinations));
                }
            }
        }
        "tcp" => {
            let mut routes = service.tcp.iter().enumerate();
            let first = routes.find(|(_, route)| {
                at.has_any(service, route.matches.iter().map(|found| (&found.source, found.port)))
            });
            leads.extend(
                first.into_iter().flat_map(|(index, route)| listed("tcp", index, &route.destinations)),
            );
        }
        _ => {}
    }
}

/// `follows`: delegates of it are looked at, which have none themselves.
fn add_http<'a>(
    mesh: &Mesh<'a>,
    at: At<'a>,
    service: &'a VirtualService,
    follows: bool,
    leads: &mut Vec<Lead<'a>>,
) {
    let acts = |route: &HttpRoute| {
        at.has_any(service, route.matches.iter().map(|found| (&found.source, found.port)))
    };
    for (index, route) in service.http.iter().enumerate().filter(|(_, route)| acts(route)) {
        match &route.action {
            HttpAction::Route(destinations) => {
                for (number, destination) in destinations.iter().enumerate() {
                    let field = format!("spec.http[{index}].route[{number}].destination.host");
                    leads.push(at.lead(service, field, destination));
                }
            }
            HttpAction::Delegate { name, namespace } if follows => {
                let home = namespace.as_ref().unwrap_or(service.meta.namespace());
                let is_meant = |other: &&'a std::sync::Arc<VirtualService>| {
                    other.meta.name() == name && other.meta.namespace() == home
                };
                if let Some(delegate) = mesh.world.virtual_services().find(is_meant) {
                    add_http(mesh, at, delegate, false, leads);
                }
            }
            HttpAction::Delegate { .. } | HttpAction::Redirect(_) | HttpAction::DirectResponse { .. } => {}
        }
        if route.matches.is_empty() {
            // It takes every request.
            break;
        }
    }
}
