//! An egress gateway: the listeners that its Gateways' servers ask for (Istio's core/gateway.go). A server's protocol
//! and TLS decide which block of a VirtualService its traffic is routed by.

mod auto;
pub(crate) mod concern;
mod http;
mod l4;
mod ports;
mod servers;
mod terminated;
pub(super) mod upstream;

use std::sync::Arc;

use super::findings::Findings;
use super::http_routes::Translator;
use super::listeners::{ByAddress, ByPort};
use super::outbound::Listening;
use super::routes::Translations;
use super::virtual_services::VirtualServices;
use super::{Client, CompileSettings};
use crate::resource::gateway::{Server, ServerHost, ServerNamespace};
use crate::resource::virtual_service::gateway_meant;
use crate::resource::{Diagnostic, Gateway, Level, VirtualService, World, code, host};
use crate::snapshot::{CatchAll, Listener};
pub(crate) use servers::{Port, PortProtocol};

/// What [`listeners`] reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) world: &'a World,
    pub(super) settings: &'a CompileSettings,
    pub(super) translator: &'a Translator<'a>,
    pub(super) virtual_services: &'a VirtualServices,
}

/// A server, and whose it is.
#[derive(Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) server: &'a Server,
    pub(crate) index: usize,
}

/// Where the gateway that `client` is would listen, if what comes there goes anywhere.
pub(crate) fn merged_ports<'a>(world: &'a World, client: &Client) -> Vec<Port<'a>> {
    servers::ports(world, client, &Findings::default())
}

/// What the gateway listens on, and where what comes there goes.
pub(super) fn listeners(inputs: Inputs<'_>) -> Listening {
    let (mut by_address, mut by_port) = (ByAddress::default(), ByPort::default());
    let findings = inputs.translator.findings;
    for port in servers::ports(inputs.world, inputs.translator.client, findings) {
        let Some(listener) = listener(inputs, &port) else { continue };
        match port.address {
            Some(address) => drop(by_address.insert((address, port.number), Arc::new(listener))),
            None => drop(by_port.insert(port.number, Arc::new(listener))),
        }
    }
    let catch_all = CatchAll::gateway("blackhole".into());
    Listening {
        by_address,
        by_port,
        catch_all,
        translations: Translations::default(),
        l4_findings: Vec::new(),
    }
}

/// `None` when nothing that comes would go anywhere: then nobody listens, as with Istio.
fn listener(inputs: Inputs<'_>, port: &Port<'_>) -> Option<Listener> {
    let address = port.address.map_or_else(|| "0.0.0.0".to_owned(), |address| address.to_string());
    let catch_all = CatchAll::gateway("blackhole".into());
    let mut listener = Listener::new(format!("{address}_{}", port.number).into(), &catch_all);
    match port.protocol {
        PortProtocol::Http => {
            let name = format!("http.{}", port.number);
            listener.http = Some(Arc::new(http::table(inputs, name, &port.servers)));
        }
        PortProtocol::Tls => {
            for of in &port.servers {
                add_tls(inputs, *of, port.number, &mut listener);
            }
        }
        PortProtocol::Tcp => {
            let routed = port.servers.iter().map(|of| (of, l4::tcp(inputs, *of)));
            for (of, route) in routed {
                match route {
                    Some(route) => drop(listener.tcp.get_or_insert(route)),
                    None => report_without_routes(inputs, *of),
                }
            }
        }
    }
    let leads_somewhere = listener.http.is_some()
        || listener.tcp.is_some()
        || !listener.tls.is_empty()
        || !listener.terminated.is_empty();
    leads_somewhere.then_some(listener)
}

/// TLS that passes through, or ends here, by server name.
fn add_tls(inputs: Inputs<'_>, of: Of<'_>, number: u16, listener: &mut Listener) {
    if of.server.is_auto_passthrough() {
        let chains = auto::chains(inputs, of);
        if chains.is_empty() {
            report_without_services(inputs, of);
        }
        for (sni, route) in chains {
            listener.tls.insert(sni, route);
        }
        return;
    }
    if of.server.terminates_tls() {
        let Some(chain) = terminated::chain(inputs, of, number) else {
            return report_without_routes(inputs, of);
        };
        let chain = Arc::new(chain);
        for host in &of.server.hosts {
            listener.terminated.insert(Arc::clone(&host.host), Arc::clone(&chain));
        }
        return;
    }
    let chains = l4::tls(inputs, of);
    if chains.is_empty() {
        report_without_routes(inputs, of);
    }
    for (sni, route) in chains {
        listener.tls.insert(sni, route);
    }
}

/// Of AUTO_PASSTHROUGH, which needs no VirtualService.
fn report_without_services(inputs: Inputs<'_>, of: Of<'_>) {
    let message = format!(
        "no service that the gateway sees in namespace {} has a host of this server: what comes for it goes nowhere, and nobody \
         listens unless another server of the port has routes; declare the service (a wildcard's can't be named), export it \
         to this namespace, or correct hosts",
        inputs.translator.client.namespace
    );
    inputs.translator.findings.push(of.finding(&code::EGR0125, Level::Warning, "hosts", message));
}

/// Unless a VirtualService has routes of another block instead, which the analysis tells with its mend.
fn report_without_routes(inputs: Inputs<'_>, of: Of<'_>) {
    let passes_tls = of.server.protocol.is_tls() && !of.server.terminates_tls();
    let has_others = |service: &VirtualService| match passes_tls {
        true => service.tls.is_empty() && (!service.http.is_empty() || !service.tcp.is_empty()),
        false => service.tcp.is_empty() && (!service.http.is_empty() || !service.tls.is_empty()),
    };
    if of.bound(inputs.virtual_services).any(|(service, _)| has_others(service)) {
        return;
    }
    let (block, what) = if passes_tls { ("tls", "tls routes") } else { ("tcp", "a tcp route") };
    let message = format!(
        "no VirtualService that is bound to this Gateway has {what} for its hosts on port {}: what comes for this server goes \
         nowhere, and nobody listens unless another server of the port has routes; add {block} to a VirtualService with \
         gateways: [{}/{}]",
        of.server.port,
        of.gateway.meta.namespace(),
        of.gateway.meta.name()
    );
    inputs.translator.findings.push(of.finding(&code::EGR0125, Level::Warning, "hosts", message));
}

impl<'a> Of<'a> {
    fn finding(self, code: &'static code::Code, level: Level, field: &str, message: String) -> Diagnostic {
        let field = format!("spec.servers[{}].{field}", self.index);
        let finding = self.gateway.meta.finding(level, self.server.position, &field, message);
        Diagnostic { code: Some(code.id), ..finding }
    }

    /// The VirtualServices that are bound to the Gateway and have hosts that the server takes, with those, the oldest first.
    fn bound(
        self,
        services: &'a VirtualServices,
    ) -> impl Iterator<Item = (&'a Arc<VirtualService>, Vec<Arc<str>>)> {
        let key = &self.gateway.meta.key;
        let is_bound = move |service: &&Arc<VirtualService>| {
            let namespace = service.meta.namespace();
            let is_it =
                |reference: &Arc<str>| gateway_meant(reference, namespace) == (&*key.namespace, &*key.name);
            service.gateways.iter().any(is_it)
        };
        services.all.iter().filter(is_bound).filter_map(move |service| {
            let names = service.hosts.iter().map(|host| &host.value);
            let taken = self.taken(names, service.meta.namespace());
            (!taken.is_empty()).then_some((service, taken))
        })
    }

    /// What the server takes of the hosts of a VirtualService in `namespace`: of two that meet, the narrower one.
    fn taken<'b>(self, names: impl Iterator<Item = &'b Arc<str>>, namespace: &str) -> Vec<Arc<str>> {
        let is_of = |host: &&ServerHost| match &host.namespace {
            ServerNamespace::Any => true,
            ServerNamespace::Named(named) => **named == *namespace,
        };
        let mut taken = Vec::new();
        for name in names {
            for own in self.server.hosts.iter().filter(is_of) {
                let narrower = if host::matches(&own.host, name) {
                    name
                } else if host::matches(name, &own.host) {
                    &own.host
                } else {
                    continue;
                };
                if !taken.contains(narrower) {
                    taken.push(Arc::clone(narrower));
                }
            }
        }
        taken
    }
}

/// For messages about two of them.
fn described(of: Of<'_>) -> String {
    format!("servers[{}] of {} ({})", of.index, of.gateway.meta.key, of.gateway.meta.origin)
}

/// What is found about a whole port.
fn clash(later: Of<'_>, first: Of<'_>, findings: &Findings, message: String) {
    // The analysis tells it of Gateways that are always on the same pods.
    if later.gateway.selector != first.gateway.selector || later.server.port != first.server.port {
        findings.push(later.finding(&code::EGR0117, Level::Error, "port", message));
    }
}
