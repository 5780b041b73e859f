//! Listeners: which service takes a connection, by its destination and first bytes (Istio's
//! core/listener.go). HTTP services of a port share one listener whatever their addresses; the others
//! have one of their own when they have an address, a filter chain when they have a range, and take the
//! whole port when they have neither.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::clusters::Clusters;
use super::registry::{Bind, Registry, Service};
use super::routes::Routes;
use crate::resource::service_entry::{AddressRange, Protocol, ServicePort};
use crate::resource::{Diagnostic, Level};
use crate::snapshot::{CidrChain, HostMap, Listener, OutboundTrafficPolicy, TcpRoute};

pub(super) struct Listeners<'a> {
    policy: OutboundTrafficPolicy,
    clusters: &'a Clusters,
    routes: &'a Routes<'a>,
    by_address: HashMap<(IpAddr, u16), Draft>,
    by_port: HashMap<u16, Draft>,
}

/// A listener in the making.
struct Draft {
    listener: Listener,
    /// Who has `tcp`, and who has it for a range: to name both when another wants it.
    tcp_owner: Option<Owner>,
    /// Who made it, and whether nobody else may join (server-first protocols).
    first: Owner,
    locked: bool,
    findings: Vec<Diagnostic>,
}

#[derive(Clone)]
struct Owner {
    service: Service,
    port: ServicePort,
}

impl<'a> Listeners<'a> {
    pub(super) fn new(policy: OutboundTrafficPolicy, clusters: &'a Clusters, routes: &'a Routes<'a>) -> Self {
        Self { policy, clusters, routes, by_address: HashMap::new(), by_port: HashMap::new() }
    }

    pub(super) fn add_all(&mut self, registry: &Registry) {
        for service in &registry.services {
            for port in &service.entry.ports {
                let owner = Owner { service: service.clone(), port: port.clone() };
                match port.protocol {
                    Protocol::Udp => {}
                    protocol if protocol.is_http() => self.add_http(&owner),
                    _ => service.binds().into_iter().for_each(|bind| self.add_opaque(&owner, bind)),
                }
            }
        }
    }

    fn add_http(&mut self, owner: &Owner) {
        let port = owner.port.number;
        let routes = self.routes;
        if let Some(draft) = self.draft_of_port(owner) {
            draft.listener.http.get_or_insert_with(|| routes.table_of_port(port));
        }
    }

    fn add_opaque(&mut self, owner: &Owner, bind: Bind) {
        let route = Arc::new(TcpRoute::to(self.clusters.named(owner.port.number, "", &owner.service.host)));
        let host = &owner.service.host;
        let is_tls = owner.port.protocol.is_tls();
        let is_auto = owner.port.protocol == Protocol::Auto;
        let routes = self.routes;
        let draft = match bind {
            Bind::Any | Bind::Range(_) => self.draft_of_port(owner),
            Bind::Address(range) => self.draft_of_address(owner, range.address),
        };
        let Some(draft) = draft else { return };
        match bind {
            Bind::Any | Bind::Address(_) => {
                let by_address = matches!(bind, Bind::Address(_));
                if is_tls {
                    draft.listener.tls.insert(host, Arc::clone(&route));
                }
                // With an address of its own a TLS service needs no SNI.
                if !is_tls || (by_address && draft.listener.tcp.is_none()) {
                    draft.take_tcp(owner, route);
                }
                if is_auto && by_address {
                    let port = owner.port.number;
                    draft.listener.http.get_or_insert_with(|| routes.table_of_service(&owner.service, port));
                }
            }
            Bind::Range(range) => draft.take_range(owner, range, route),
        }
        if is_auto && !matches!(bind, Bind::Address(_)) {
            draft.listener.http.get_or_insert_with(|| routes.table_of_port(owner.port.number));
        }
    }

    fn draft_of_port(&mut self, owner: &Owner) -> Option<&mut Draft> {
        let port = owner.port.number;
        let draft = self
            .by_port
            .entry(port)
            .or_insert_with(|| Draft::new(format!("0.0.0.0_{port}"), self.policy, owner));
        draft.admits(owner).then_some(draft)
    }

    fn draft_of_address(&mut self, owner: &Owner, address: IpAddr) -> Option<&mut Draft> {
        let port = owner.port.number;
        let new = || Draft::new(format!("{address}_{port}"), self.policy, owner);
        let draft = self.by_address.entry((address, port)).or_insert_with(new);
        draft.admits(owner).then_some(draft)
    }

    pub(super) fn finish(
        self,
    ) -> (HashMap<(IpAddr, u16), Arc<Listener>>, HashMap<u16, Arc<Listener>>, Vec<Diagnostic>) {
        let mut findings = Vec::new();
        let mut finish = |draft: Draft| {
            findings.extend(draft.findings);
            Arc::new(draft.listener)
        };
        let by_address = self.by_address.into_iter().map(|(key, draft)| (key, finish(draft))).collect();
        let by_port = self.by_port.into_iter().map(|(key, draft)| (key, finish(draft))).collect();
        (by_address, by_port, findings)
    }
}

impl Draft {
    fn new(name: String, policy: OutboundTrafficPolicy, first: &Owner) -> Self {
        let server_first = first.port.protocol.is_server_first();
        let mut listener = Listener::new(name.into(), policy);
        listener.server_first = server_first;
        Self { listener, tcp_owner: None, first: first.clone(), locked: server_first, findings: Vec::new() }
    }

    /// Server-first protocols share a port with nobody.
    fn admits(&mut self, owner: &Owner) -> bool {
        let same_service = std::ptr::eq(&*self.first.service.entry, &*owner.service.entry)
            && self.first.service.host == owner.service.host;
        if same_service || !(self.locked || owner.port.protocol.is_server_first()) {
            return true;
        }
        let message = format!(
            "conflict happens on a well known port: {} is taken by {} of {} ({}); this port is left out: give one of \
             them an address",
            self.listener.name,
            self.first.service.host,
            self.first.service.entry.meta.key,
            self.first.service.entry.meta.origin,
        );
        self.findings.push(owner.finding(Level::Error, message));
        false
    }

    fn take_tcp(&mut self, owner: &Owner, route: Arc<TcpRoute>) {
        match &self.tcp_owner {
            None => {
                self.listener.tcp = Some(route);
                self.tcp_owner = Some(owner.clone());
            }
            Some(other) => self.findings.push(other.conflict_with(owner, &self.listener.name)),
        }
    }

    fn take_range(&mut self, owner: &Owner, range: AddressRange, route: Arc<TcpRoute>) {
        let chains = &mut self.listener.cidrs;
        let key = |chain: &CidrChain| (std::cmp::Reverse(chain.prefix_len), chain.network);
        let wanted = (std::cmp::Reverse(range.prefix_len), range.network());
        let index = match chains.binary_search_by_key(&wanted, key) {
            Ok(index) => index,
            Err(index) => {
                let chain = CidrChain {
                    network: range.network(),
                    prefix_len: range.prefix_len,
                    tls: HostMap::default(),
                    tcp: None,
                };
                chains.insert(index, chain);
                index
            }
        };
        let Some(chain) = chains.get_mut(index) else { return };
        if owner.port.protocol.is_tls() {
            chain.tls.insert(&owner.service.host, route);
        } else if chain.tcp.is_none() {
            chain.tcp = Some(route);
        } else {
            let message = format!(
                "another TCP service has {range} on port {} already: this one is left out",
                owner.port.number
            );
            self.findings.push(owner.finding(Level::Error, message));
        }
    }
}

impl Owner {
    fn finding(&self, level: Level, message: String) -> Diagnostic {
        let index = self.service.entry.ports.iter().position(|port| *port == self.port).unwrap_or(0);
        self.service.entry.meta.finding(level, self.port.position, &format!("spec.ports[{index}]"), message)
    }

    /// `other` wants the bytes that this one already takes.
    fn conflict_with(&self, other: &Self, listener: &str) -> Diagnostic {
        let message = format!(
            "port {} of {} is left out: {} ({}), which comes first by age and name, takes every TCP connection of \
             {listener} for {}; give each an address of its own",
            other.port.number,
            other.service.host,
            self.service.entry.meta.key,
            self.service.entry.meta.origin,
            self.service.host,
        );
        other.finding(Level::Error, message)
    }
}
