//! The first steps at an egress gateway, to which connections come: where it listens for the port that clients ask its
//! Service for, and which servers of its Gateways take what comes there. The kernel has no part in it.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::address::Chosen;
use super::explanation::{PassedOver, Place, Step};
use super::places::place;
use super::{Context, Question, words};
use crate::compile::gateway::{Of, Port, PortProtocol, merged_ports};
use crate::compile::tls::host_of_mesh_name;
use crate::compile::{CompileSettings, Role};
use crate::resource::gateway::Server;
use crate::resource::{World, host};
use crate::snapshot::{Decision, FirstBytes, Snapshot};

/// More servers than this are counted, not named.
const NAMED_MAX: usize = 5;

/// Where a connection comes to.
pub(super) struct Entrance<'a> {
    /// `None`: no server has the port.
    port: Option<Port<'a>>,
    pub(super) destination: SocketAddr,
    is_open: bool,
}

impl<'a> Entrance<'a> {
    /// `None` for what is no gateway.
    pub(super) fn of(
        world: &'a World,
        snapshot: &Snapshot,
        settings: &CompileSettings,
        question: &Question,
    ) -> Option<Self> {
        let Role::Gateway { .. } = settings.role else { return None };
        let asked = question.port();
        let address = question.address.as_ref();
        let address = address.map(|(address, _)| address.to_canonical());
        let is_for = |port: &Port<'_>| port.servers.iter().any(|of| of.server.port == asked);
        let is_open = |port: &Port<'_>| match port.address {
            Some(address) => snapshot.by_address.contains_key(&(address, port.number)),
            None => snapshot.by_port.contains_key(&port.number),
        };
        let fits = |port: &Port<'_>| {
            let is_there = address.is_none_or(|address| port.address.is_none_or(|bound| bound == address));
            is_there && (is_for(port) || port.number == asked)
        };
        let fitting = merged_ports(world, &settings.client).into_iter().filter(fits);
        // An address of its own goes before all of them.
        let port = fitting.min_by_key(|port| {
            let is_special = port.address.is_some() == address.is_some();
            (Reverse(is_for(port)), Reverse(is_open(port)), Reverse(is_special), port.number)
        });
        let bound = port.as_ref().and_then(|port| port.address);
        let address: IpAddr = address.or(bound).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let number = port.as_ref().map_or(asked, |port| port.number);
        let is_open = port.as_ref().is_some_and(is_open);
        Some(Self { port, destination: SocketAddr::new(address, number), is_open })
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn address(&self, question: &Question) -> Chosen {
        let address = self.destination.ip();
        let (is_known, because) = match &question.address {
            Some((_, because)) => (true, because.clone()),
            _ if !address.is_unspecified() => (true, "what its server is bound to".to_owned()),
            _ => (false, "any of the gateway's".to_owned()),
        };
        Chosen { address, is_known, because }
    }

    /// As matches of VirtualServices have it: that of the servers.
    pub(super) fn server_port(&self) -> Option<u16> {
        self.port.as_ref()?.servers.first().map(|of| of.server.port)
    }

    fn servers(&self) -> &[Of<'a>] {
        self.port.as_ref().map(|port| &*port.servers).unwrap_or_default()
    }

    /// The Gateways whose servers take what comes to the port.
    pub(super) fn has_gateway(&self, (namespace, name): (&str, &str)) -> bool {
        let meant =
            |of: &Of<'_>| **of.gateway.meta.namespace() == *namespace && **of.gateway.meta.name() == *name;
        self.servers().iter().any(meant)
    }

    /// Where the server is written that ends the TLS of a name.
    pub(super) fn place_of_tls(&self, name: Option<&str>) -> Option<Place> {
        let of = self.taking(name.unwrap_or("*"), Server::terminates_tls)?;
        let field = format!("spec.servers[{}].tls", of.index);
        Some(place(&of.gateway.meta, Some(field), of.server.position))
    }

    /// The server that takes a name: the one with the most specific host.
    fn taking(&self, name: &str, is_meant: impl Fn(&Server) -> bool) -> Option<Of<'a>> {
        let of_name = self.servers().iter().filter(|of| is_meant(of.server));
        let of_name = of_name.filter_map(|of| Some((specificity(of.server, name)?, of)));
        // Of several the first one counts.
        of_name.rev().max_by_key(|(specificity, _)| *specificity).map(|(_, of)| *of)
    }
}

/// Of the host that matches best.
fn specificity(server: &Server, name: &str) -> Option<(bool, usize)> {
    let name = if server.is_auto_passthrough() { host_of_mesh_name(name)? } else { name };
    let matching = server.hosts.iter().filter(|own| host::matches(&own.host, name));
    matching.map(|own| (!own.host.starts_with('*'), own.host.len())).max()
}

fn here(of: &Of<'_>) -> Place {
    place(&of.gateway.meta, Some(format!("spec.servers[{}]", of.index)), of.server.position)
}

fn lost(of: &Of<'_>, why: String) -> PassedOver {
    PassedOver { place: here(of), why }
}

pub(super) fn listener_step(context: Context<'_>, entrance: &Entrance<'_>) -> Step {
    let asked = context.question.port();
    let number = entrance.destination.port();
    let decided = match &entrance.port {
        None => format!("none: no server of this gateway has port {asked}"),
        Some(_) if !entrance.is_open => {
            format!("none: nothing that comes to port {number} would go anywhere, so that nobody listens")
        }
        Some(port) => {
            let address = port.address.map_or_else(|| "0.0.0.0".to_owned(), |address| address.to_string());
            let why = match number == asked {
                true => format!("the gateway listens on port {number}"),
                false => format!("the gateway listens on {number}, where its Service sends port {asked}"),
            };
            format!("{address}_{number}: {why}")
        }
    };
    let mut step = Step::new("listener", decided);
    if !entrance.is_open {
        step.by.extend(entrance.servers().iter().take(NAMED_MAX).map(here));
        step.notes.extend(entrance.port.is_some().then(|| {
            "its servers have no VirtualService with routes that act for their protocol; interceptor analyze says which".into()
        }));
    }
    step.passed_over = elsewhere(context, asked);
    step
}

/// Servers with this port, of Gateways that don't select this gateway.
fn elsewhere(context: Context<'_>, asked: u16) -> Vec<PassedOver> {
    let client = &context.settings.client;
    let others = context.world.gateways().filter(|gateway| !client.has_labels(&gateway.selector));
    let servers = others.flat_map(|gateway| {
        let servers = gateway.servers.iter().enumerate();
        servers.map(move |(index, server)| Of { gateway, server, index })
    });
    let mut lost: Vec<PassedOver> = servers
        .filter(|of| of.server.port == asked)
        .map(|of| {
            let labels = of.gateway.selector.iter().map(|(name, value)| format!("{name}={value}"));
            let labels: Vec<String> = labels.collect();
            lost(&of, format!("its selector {} is not of this gateway's labels", labels.join(",")))
        })
        .collect();
    lost.sort();
    lost
}

/// Which server takes the connection, by the name that it brings (SNI, or a request's Host in clear).
pub(super) fn server_step(
    context: Context<'_>,
    entrance: &Entrance<'_>,
    first: FirstBytes<'_>,
    decision: Decision<'_>,
) -> Step {
    let Some(port) = &entrance.port else { return Step::new("server", "none") };
    let name = match first {
        FirstBytes::Tls { sni } => sni.map(str::to_owned),
        FirstBytes::Http1 { .. } | FirstBytes::Http2 => Some(context.request_host()),
        FirstBytes::Opaque => None,
    };
    let any = name.as_deref().unwrap_or("*");
    let is_tls = matches!(first, FirstBytes::Tls { .. });
    if port.protocol == PortProtocol::Tls && !is_tls {
        let mut step = Step::new("server", "none: the servers of this port take TLS alone");
        step.by.extend(port.servers.iter().take(NAMED_MAX).map(here));
        return step;
    }
    let taken: Vec<Of<'_>> = match port.protocol {
        // All of them are one.
        PortProtocol::Tcp => port.servers.clone(),
        PortProtocol::Http => {
            port.servers.iter().filter(|of| specificity(of.server, any).is_some()).copied().collect()
        }
        PortProtocol::Tls => match decision {
            Decision::Terminate(_) => entrance.taking(any, Server::terminates_tls),
            Decision::Route(_) => entrance.taking(any, |server| !server.terminates_tls()),
            Decision::Http(..) | Decision::Passthrough | Decision::Refuse | Decision::NoFilterChain => {
                entrance.taking(any, |_| true)
            }
        }
        .into_iter()
        .collect(),
    };
    let shown = name.as_deref().unwrap_or("what has no name");
    let mut step = match taken.first() {
        Some(of) => Step::new("server", described(of.server)),
        None => Step::new("server", format!("none: no server of this port has {shown}")),
    };
    if let (Some(of), Decision::NoFilterChain) = (taken.first(), decision) {
        step.notes.push(match of.server.is_auto_passthrough() {
            true => format!("{shown} is the name of no cluster that the gateway sees"),
            false => {
                format!("no VirtualService of its Gateway has routes for {shown} that act for its protocol")
            }
        });
    }
    step.by.extend(taken.iter().take(NAMED_MAX).map(here));
    let is = |a: &Of<'_>, b: &Of<'_>| a.gateway.meta.key == b.gateway.meta.key && a.index == b.index;
    let others: Vec<&Of<'_>> =
        port.servers.iter().filter(|of| !taken.iter().any(|own| is(own, of))).collect();
    let count = others.len();
    step.passed_over.extend(others.into_iter().take(NAMED_MAX).map(|of| {
        let hosts = words::few(of.server.hosts.iter().map(|host| host.host.to_string()));
        let why = match specificity(of.server, any) {
            Some(_) => format!("{hosts} is less specific for {shown}"),
            None => format!("is for {hosts}"),
        };
        lost(of, why)
    }));
    if count > NAMED_MAX {
        step.notes.push(format!("{} more servers of this port are for other hosts", count - NAMED_MAX));
    }
    step.passed_over.extend(left_out(context, port));
    step
}

fn described(server: &Server) -> String {
    let mode = server.tls.as_ref().filter(|_| server.protocol.is_tls());
    let mode = mode.map(|tls| format!(", tls.mode {}", tls.mode.name())).unwrap_or_default();
    let hosts = words::few(server.hosts.iter().map(|host| host.host.to_string()));
    format!("{}{mode}, for {hosts}", server.protocol.name())
}

/// Servers of this gateway that would be on the port, if it were not others' already.
fn left_out(context: Context<'_>, port: &Port<'_>) -> Vec<PassedOver> {
    let client = &context.settings.client;
    let is_taken = |of: &Of<'_>| {
        port.servers.iter().any(|own| own.gateway.meta.key == of.gateway.meta.key && own.index == of.index)
    };
    let has_port = |server: &Server| {
        port.servers.iter().any(|own| own.server.port == server.port && own.server.bind == server.bind)
    };
    let own = context.world.gateways().filter(|gateway| client.has_labels(&gateway.selector));
    let servers = own.flat_map(|gateway| {
        let servers = gateway.servers.iter().enumerate();
        servers.map(move |(index, server)| Of { gateway, server, index })
    });
    let mut out: Vec<PassedOver> = servers
        .filter(|of| has_port(of.server) && !is_taken(of))
        .map(|of| {
            let why = format!(
                "left out: the port is {} already, for an older server, or one of its hosts is another server's",
                port.protocol.name()
            );
            lost(&of, why)
        })
        .collect();
    out.sort();
    out
}
