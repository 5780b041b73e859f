//! Listeners: which chain takes a connection, in the order in which they are asked.

use std::net::IpAddr;

use serde::Serialize;

use super::{Row, destination};
use crate::snapshot::tls_termination::Then;
use crate::snapshot::{ClusterName, Fallthrough, HostMap, Listener, Snapshot};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerRow {
    pub listener: String,
    /// `0.0.0.0` stands for every address.
    pub address: String,
    /// `None`: every port that no other listener has.
    pub port: Option<u16>,
    #[serde(rename = "match")]
    pub condition: String,
    pub destination: String,
}

#[derive(Clone, Debug, Default)]
pub struct ListenerFilter {
    pub address: Option<String>,
    pub port: Option<u16>,
}

impl Row for ListenerRow {
    const HEADS: &'static [&'static str] = &["ADDRESSES", "PORT", "MATCH", "DESTINATION"];

    fn columns(&self) -> Vec<String> {
        let port = self.port.map_or_else(|| "*".to_owned(), |port| port.to_string());
        vec![self.address.clone(), port, self.condition.clone(), self.destination.clone()]
    }
}

const EVERY_ADDRESS: &str = "0.0.0.0";

pub fn listeners(snapshot: &Snapshot, filter: &ListenerFilter) -> Vec<ListenerRow> {
    let mut own: Vec<(&(IpAddr, u16), &Arc<Listener>)> = snapshot.by_address.iter().collect();
    own.sort_by_key(|((address, port), _)| (*port, *address));
    let mut shared: Vec<(&u16, &Arc<Listener>)> = snapshot.by_port.iter().collect();
    shared.sort_by_key(|(port, _)| **port);
    let own = own.into_iter().map(|((address, port), listener)| (address.to_string(), Some(*port), listener));
    let shared = shared.into_iter().map(|(port, listener)| (EVERY_ADDRESS.to_owned(), Some(*port), listener));
    let rest = [(EVERY_ADDRESS.to_owned(), None, &snapshot.virtual_outbound)];
    shared
        .chain(own)
        .chain(rest)
        .filter(|(address, port, _)| {
            filter.address.as_ref().is_none_or(|wanted| wanted == address)
                && filter.port.is_none_or(|wanted| Some(wanted) == *port)
        })
        .flat_map(|(address, port, listener)| of_listener(&address, port, listener))
        .collect()
}

fn of_listener(address: &str, port: Option<u16>, listener: &Listener) -> Vec<ListenerRow> {
    let mut rows = Vec::new();
    let mut add = |condition: String, destination: String| {
        let (listener, address) = (listener.name.to_string(), address.to_owned());
        rows.push(ListenerRow { listener, address, port, condition, destination });
    };
    for chain in &listener.cidrs {
        let range = format!("Addr: {}/{}", chain.network, chain.prefix_len);
        for (sni, route) in sorted(&chain.tls) {
            add(format!("SNI: {sni}; {range}"), destination(&route.clusters));
        }
        if let Some(route) = &chain.tcp {
            add(range, destination(&route.clusters));
        }
    }
    for (sni, route) in sorted(&listener.tls) {
        add(format!("SNI: {sni}"), destination(&route.clusters));
    }
    for (sni, chain) in sorted(&listener.terminated) {
        let then = match &chain.then {
            Then::Http(table) => format!("Route: {}", table.name),
            Then::Tcp(route) => destination(&route.clusters),
        };
        add(format!("SNI: {sni}; TLS: {}", chain.tls.mode.name()), then);
    }
    if let Some(table) = &listener.http {
        add("Trans: raw_buffer; App: HTTP".into(), format!("Route: {}", table.name));
    }
    // No column of istioctl's: names that the client has learned.
    for (name, route) in sorted(&listener.tcp_by_name) {
        add(format!("Name: {name}"), destination(&route.clusters));
    }
    add(
        "ALL".into(),
        match (&listener.tcp, &listener.fallthrough) {
            (Some(route), _) if !listener.names_required => destination(&route.clusters),
            (Some(_), _) | (None, Fallthrough::BlackHole) => ClusterName::BLACK_HOLE.to_owned(),
            (None, Fallthrough::EgressProxy(route)) => destination(&route.clusters),
            (None, Fallthrough::Passthrough) => ClusterName::PASSTHROUGH.to_owned(),
            (None, Fallthrough::NoFilterChain) => "reset".to_owned(),
        },
    );
    rows
}

fn sorted<T>(chains: &HostMap<Arc<T>>) -> Vec<(String, &Arc<T>)> {
    let mut chains: Vec<(String, &Arc<T>)> = chains.iter().collect();
    chains.sort_by(|(a, _), (b, _)| a.cmp(b));
    chains
}
