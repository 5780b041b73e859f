//! Which servers are this gateway's, and which of them share a port (Istio's pilot/pkg/model/gateway.go, MergeGateways).

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Of, clash, described, ports};
use crate::compile::Client;
use crate::compile::findings::Findings;
use crate::resource::gateway::{Server, ServerHost, ServerNamespace};
use crate::resource::{Gateway, Level, World, code};

/// What comes to one address and port, and the servers that take it, in order of precedence.
pub(crate) struct Port<'a> {
    /// `None`: every address of the gateway.
    pub(crate) address: Option<IpAddr>,
    /// Where the gateway itself listens: behind a Service, its targetPort.
    pub(crate) number: u16,
    pub(crate) protocol: PortProtocol,
    pub(crate) servers: Vec<Of<'a>>,
    /// Of TLS servers, which are told apart by them.
    names: HashSet<Name<'a>>,
}

type Name<'a> = (&'a ServerNamespace, &'a str);

fn name(host: &ServerHost) -> Name<'_> {
    (&host.namespace, &host.host)
}

/// What of servers' protocols must be the same on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortProtocol {
    Http,
    Tls,
    Tcp,
}

impl PortProtocol {
    fn of(server: &Server) -> Self {
        match server.protocol {
            protocol if protocol.is_http() => Self::Http,
            protocol if protocol.is_tls() => Self::Tls,
            _ => Self::Tcp,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
        }
    }
}

/// The ports of the gateway that `client` is, the oldest Gateway's servers first.
pub(super) fn ports<'a>(world: &'a World, client: &Client, findings: &Findings) -> Vec<Port<'a>> {
    let mut gateways: Vec<&Arc<Gateway>> =
        world.gateways().filter(|gateway| client.has_labels(&gateway.selector)).collect();
    gateways.sort_by_key(|gateway| gateway.meta.age_order());
    let targets = ports::Targets::of(world, client);
    let mut merged: Vec<Port<'a>> = Vec::new();
    for gateway in gateways {
        for (index, server) in gateway.servers.iter().enumerate() {
            let of = Of { gateway, server, index };
            let Some(address) = address(of, findings) else { continue };
            for number in targets.of_port(server.port) {
                let found = merged.iter_mut().find(|port| (port.address, port.number) == (address, number));
                match found {
                    Some(port) => port.add(of, findings),
                    None => merged.push(Port::new(address, number, of)),
                }
            }
        }
    }
    merged
}

/// The address that `bind` asks for; `Some(None)` for all of them. `None` when there is no listening there.
fn address(of: Of<'_>, findings: &Findings) -> Option<Option<IpAddr>> {
    let Some(bind) = of.server.bind.as_deref() else { return Some(None) };
    match bind.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Some(None),
        Ok(address) => Some(Some(address)),
        Err(_) => {
            let message = format!(
                "the gateway listens on IP addresses alone, and {bind} is none: this server is left out; give an address of \
                 the gateway, or none for all of them"
            );
            findings.push(of.finding(&code::EGR0119, Level::Error, "bind", message));
            None
        }
    }
}

impl<'a> Port<'a> {
    fn new(address: Option<IpAddr>, number: u16, first: Of<'a>) -> Self {
        let protocol = PortProtocol::of(first.server);
        let names = first.server.hosts.iter().map(name).collect();
        Self { address, number, protocol, servers: vec![first], names }
    }

    fn add(&mut self, of: Of<'a>, findings: &Findings) {
        let (protocol, first) = (PortProtocol::of(of.server), self.servers[0]);
        if protocol != self.protocol {
            let message = format!(
                "this server is left out: port {} of the gateway is {} already, for {}; HTTP, TLS and TCP share no port",
                self.number,
                self.protocol.name(),
                described(first)
            );
            return clash(of, first, findings, message);
        }
        if protocol == PortProtocol::Tls
            && let Some(taken) = of.server.hosts.iter().find(|host| self.names.contains(&name(host)))
        {
            let message = format!(
                "this server is left out: {} is another server's of port {} already, which comes first by age and name",
                taken.host, self.number
            );
            return clash(of, first, findings, message);
        }
        self.names.extend(of.server.hosts.iter().map(name));
        self.servers.push(of);
    }
}
