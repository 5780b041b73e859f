//! Listeners: which service takes a connection, by its destination and first bytes (Istio's
//! core/listener.go). HTTP services of a port share one listener whatever their addresses; the others
//! have one of their own when they have an address, a filter chain when they have a range, and take the
//! whole port when they have neither.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use super::findings::Findings;
use super::l4_routes::{Chain, L4Routes};
use super::registry::{Bind, Registry, Service};
use super::routes::Routes;
use crate::hash::HashMap;
use crate::resource::service_entry::{AddressRange, Protocol, ServicePort};
use crate::resource::{Diagnostic, Level, code};
use crate::snapshot::{CatchAll, CidrChain, HostMap, Listener, RouteTable, TcpRoute};

pub(super) struct Listeners<'a> {
    catch_all: &'a CatchAll,
    is_strict: bool,
    learned_names: bool,
    routes: &'a Routes<'a>,
    l4_routes: &'a L4Routes<'a>,
    findings: &'a Findings,
    by_address: HashMap<(IpAddr, u16), Draft>,
    by_port: HashMap<u16, Draft>,
}

pub(super) type ByAddress = HashMap<(IpAddr, u16), Arc<Listener>>;
pub(super) type ByPort = HashMap<u16, Arc<Listener>>;

fn with_table(listener: &Listener, table: Arc<RouteTable>) -> Arc<Listener> {
    Arc::new(Listener { http: Some(table), ..listener.clone() })
}

/// A listener in the making.
struct Draft {
    listener: Listener,
    /// Who made it.
    first: Owner,
    /// Who takes everything, and everything of a range: to name both when another wants it.
    tcp_owner: Option<Owner>,
    /// Who takes everything that has a learned name; none where names are not learned.
    name_owners: Option<HashMap<Arc<str>, Owner>>,
    is_strict: bool,
    range_owners: HashMap<AddressRange, Owner>,
}

/// One port of one service.
#[derive(Clone)]
struct Owner {
    service: Arc<Service>,
    port: ServicePort,
}

impl<'a> Listeners<'a> {
    pub(super) fn new(
        (catch_all, is_strict): (&'a CatchAll, bool),
        learned_names: bool,
        routes: &'a Routes<'a>,
        l4_routes: &'a L4Routes<'a>,
        findings: &'a Findings,
    ) -> Self {
        Self {
            catch_all,
            is_strict,
            learned_names,
            routes,
            l4_routes,
            findings,
            by_address: HashMap::default(),
            by_port: HashMap::default(),
        }
    }

    pub(super) fn add_all(&mut self, registry: &Registry) {
        for service in &registry.services {
            for port in service.entry.ports.iter().filter(|port| service.is_listed_on(port)) {
                let owner = Owner { service: Arc::clone(service), port: port.clone() };
                if port.protocol.is_http() {
                    self.add_http(&owner);
                } else if port.protocol != Protocol::Udp {
                    service.binds().into_iter().for_each(|bind| self.add_opaque(&owner, bind));
                }
            }
        }
    }

    /// The listeners of a compile in which services, rules and routes of TLS and TCP were the same: with the
    /// HTTP routes of now.
    pub(super) fn with_routes(previous: &ByPort, routes: &Routes<'_>) -> ByPort {
        let with_routes = |(port, listener): (&u16, &Arc<Listener>)| match &listener.http {
            Some(_) => (*port, with_table(listener, routes.table_of_port(*port))),
            None => (*port, Arc::clone(listener)),
        };
        previous.iter().map(with_routes).collect()
    }

    fn add_http(&mut self, owner: &Owner) {
        let routes = self.routes;
        let draft = match owner.service.bound_to() {
            Some(address) => self.draft_of_address(owner, address),
            None => self.draft_of_port(owner),
        };
        if let Some(draft) = draft {
            draft.listener.http.get_or_insert_with(|| routes.table_of_port(owner.port.number));
        }
    }

    fn add_opaque(&mut self, owner: &Owner, bind: Bind) {
        let (routes, findings) = (self.routes, self.findings);
        let chains = self.l4_routes.chains(&owner.service, &owner.port, bind);
        let draft = match bind {
            Bind::Any | Bind::Range(_) => self.draft_of_port(owner),
            Bind::Address(range) => self.draft_of_address(owner, range.address),
        };
        let Some(draft) = draft else { return };
        for chain in chains {
            draft.add(owner, chain, findings);
        }
        if owner.port.protocol == Protocol::Auto {
            let port = owner.port.number;
            draft.listener.http.get_or_insert_with(|| match bind {
                Bind::Address(_) => routes.table_of_service(&owner.service, port),
                Bind::Any | Bind::Range(_) => routes.table_of_port(port),
            });
        }
    }

    fn draft_of_port(&mut self, owner: &Owner) -> Option<&mut Draft> {
        let port = owner.port.number;
        let new = || {
            let mut draft = Draft::new(format!("0.0.0.0_{port}"), self.catch_all, owner);
            draft.name_owners = self.learned_names.then(HashMap::default);
            draft.is_strict = self.is_strict;
            draft
        };
        let draft = self.by_port.entry(port).or_insert_with(new);
        draft.admits(owner, self.findings).then_some(draft)
    }

    fn draft_of_address(&mut self, owner: &Owner, address: IpAddr) -> Option<&mut Draft> {
        let port = owner.port.number;
        let new = || Draft::new(format!("{address}_{port}"), self.catch_all, owner);
        let draft = self.by_address.entry((address, port)).or_insert_with(new);
        draft.admits(owner, self.findings).then_some(draft)
    }

    pub(super) fn finish(self) -> (ByAddress, ByPort) {
        let by_address = self.by_address.into_iter().map(|(key, draft)| (key, Arc::new(draft.listener)));
        let by_port = self.by_port.into_iter().map(|(key, draft)| (key, Arc::new(draft.listener)));
        (by_address.collect(), by_port.collect())
    }
}

impl Draft {
    fn new(name: String, catch_all: &CatchAll, first: &Owner) -> Self {
        let mut listener = Listener::new(name.into(), catch_all);
        listener.server_first = first.port.protocol.is_server_first();
        Self {
            listener,
            first: first.clone(),
            tcp_owner: None,
            name_owners: None,
            is_strict: false,
            range_owners: HashMap::default(),
        }
    }

    /// Server-first protocols share a port with nobody but, where names tell them apart, each other.
    fn admits(&self, owner: &Owner, findings: &Findings) -> bool {
        let is_server_first = owner.port.protocol.is_server_first();
        let told_apart = self.name_owners.is_some() && self.listener.server_first && is_server_first;
        let server_first = self.listener.server_first || is_server_first;
        if !server_first || told_apart || self.first.is(owner) {
            return true;
        }
        let message = format!(
            "conflict happens on a well known port: {} belongs to {}, and {:?} shares a port with nobody; this port is \
             left out, give one of them an address of its own",
            self.listener.name,
            self.first.described(),
            if self.listener.server_first { self.first.port.protocol } else { owner.port.protocol },
        );
        findings.push(owner.finding(&code::EGR0115, Level::Error, message));
        false
    }

    fn add(&mut self, owner: &Owner, chain: Chain, findings: &Findings) {
        match (chain.range, chain.sni) {
            (None, Some(sni)) => {
                self.listener.tls.insert(sni, chain.route);
            }
            (Some(range), Some(sni)) => {
                self.chain_of(range).tls.insert(sni, chain.route);
            }
            (None, None) => self.take_all(owner, chain.route, findings),
            (Some(range), None) => self.take_range(owner, range, chain.route, findings),
        }
    }

    fn take_all(&mut self, owner: &Owner, route: Arc<TcpRoute>, findings: &Findings) {
        let is_named = self.take_name(owner, &route);
        match &self.tcp_owner {
            None => {
                self.listener.tcp = Some(route);
                self.tcp_owner = Some(owner.clone());
            }
            // Hosts of one entry share an address: TLS tells them apart by name, and to others it is the same.
            Some(first) if first.is_same_entry(owner) => {}
            Some(first) if is_named => findings.push(owner.shares_with(first, &self.listener.name)),
            Some(first) => findings.push(owner.loses_to(first, &self.listener.name)),
        }
    }

    /// Whether connections to the owner's host are told from others by learned names.
    fn take_name(&mut self, owner: &Owner, route: &Arc<TcpRoute>) -> bool {
        let Some(owners) = &mut self.name_owners else { return false };
        let host = &owner.service.host;
        if let Some(first) = owners.get(host) {
            return first.is(owner);
        }
        owners.insert(Arc::clone(host), owner.clone());
        self.listener.names_required = self.is_strict && owners.len() > 1;
        self.listener.tcp_by_name.insert(Arc::clone(host), Arc::clone(route))
    }

    fn take_range(&mut self, owner: &Owner, range: AddressRange, route: Arc<TcpRoute>, findings: &Findings) {
        match self.range_owners.get(&range) {
            Some(first) if first.is_same_entry(owner) => {}
            Some(first) => {
                findings.push(owner.loses_to(first, &format!("{range} port {}", owner.port.number)))
            }
            None => {
                self.chain_of(range).tcp = Some(route);
                self.range_owners.insert(range, owner.clone());
            }
        }
    }

    /// The chain of a range; longer prefixes stand before shorter ones.
    fn chain_of(&mut self, range: AddressRange) -> &mut CidrChain {
        let chains = &mut self.listener.cidrs;
        let wanted = (Reverse(range.prefix_len), range.network());
        let found = chains.binary_search_by_key(&wanted, |chain| (Reverse(chain.prefix_len), chain.network));
        let index = found.unwrap_or_else(|index| {
            let (network, prefix_len) = (range.network(), range.prefix_len);
            chains.insert(index, CidrChain { network, prefix_len, tls: HostMap::default(), tcp: None });
            index
        });
        &mut chains[index]
    }
}

impl Owner {
    fn is_same_entry(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.service.entry, &other.service.entry)
    }

    fn is(&self, other: &Self) -> bool {
        self.is_same_entry(other)
            && self.service.host == other.service.host
            && self.port.number == other.port.number
    }

    fn described(&self) -> String {
        let meta = &self.service.entry.meta;
        format!("{} of {} ({})", self.service.host, meta.key, meta.origin)
    }

    fn finding(&self, code: &'static code::Code, level: Level, message: String) -> Diagnostic {
        let index = self.service.entry.ports.iter().position(|port| *port == self.port).unwrap_or(0);
        let field = format!("spec.ports[{index}]");
        let finding = self.service.entry.meta.finding(level, self.port.position, &field, message);
        Diagnostic { code: Some(code.id), ..finding }
    }

    /// `first` takes what no learned name tells it from.
    fn shares_with(&self, first: &Self, what: &str) -> Diagnostic {
        let message = format!(
            "port {} of {} shares {what} with {}: connections are told apart by the names that the workload's own DNS \
             answers give their addresses; what has no such name goes to the latter, which comes first by age and name",
            self.port.number,
            self.service.host,
            first.described(),
        );
        self.finding(&code::EGR0110, Level::Info, message)
    }

    /// `first` has what this one wants, too.
    fn loses_to(&self, first: &Self, what: &str) -> Diagnostic {
        let message = format!(
            "port {} of {} is left out: {}, which comes first by age and name, takes every TCP connection of {what}; \
             give each an address of its own, or have names learned (`exec --capture-dns`)",
            self.port.number,
            self.service.host,
            first.described(),
        );
        self.finding(&code::EGR0110, Level::Error, message)
    }
}
