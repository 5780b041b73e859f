//! The registry: which hosts the client sees, on which ports, and which resource says so.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Row, name_of, or_dash};
use crate::resource::service_entry::Protocol;
use crate::resource::{Resource, ResourceKey, World};
use crate::snapshot::Snapshot;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryRow {
    pub host: String,
    pub port: u16,
    /// Empty where none is declared.
    pub protocol: String,
    pub resolution: String,
    pub addresses: Vec<String>,
    /// `name.namespace`.
    pub service: String,
    pub kind: String,
    pub at: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct RegistryFilter {
    pub fqdn: Option<String>,
    pub port: Option<u16>,
}

impl Row for RegistryRow {
    const HEADS: &'static [&'static str] =
        &["HOST", "PORT", "PROTOCOL", "RESOLUTION", "ADDRESSES", "KIND", "SERVICE", "AT"];

    fn columns(&self) -> Vec<String> {
        vec![
            self.host.clone(),
            self.port.to_string(),
            or_dash(&self.protocol),
            or_dash(&self.resolution),
            or_dash(&self.addresses.join(",")),
            self.kind.clone(),
            self.service.clone(),
            self.at.clone().unwrap_or_default(),
        ]
    }
}

/// A row for each host and port that has a cluster.
pub fn registry(world: &World, snapshot: &Snapshot, filter: &RegistryFilter) -> Vec<RegistryRow> {
    let rows = snapshot.clusters.values().filter_map(|cluster| {
        let key = &cluster.source.as_ref()?.service;
        Some(row(world, key, &cluster.host, cluster.port))
    });
    let rows: BTreeSet<RegistryRow> = rows
        .filter(|row| {
            filter.fqdn.as_ref().is_none_or(|fqdn| fqdn.eq_ignore_ascii_case(&row.host))
                && filter.port.is_none_or(|port| port == row.port)
        })
        .collect();
    rows.into_iter().collect()
}

fn row(world: &World, key: &ResourceKey, host: &str, port: u16) -> RegistryRow {
    let resource = world.resources.get(key);
    let (protocol, resolution, addresses) = match resource {
        Some(Resource::ServiceEntry(entry)) => (
            entry.ports.iter().find(|known| known.number == port).map(|port| port.protocol),
            entry.resolution.to_string(),
            entry.addresses.iter().map(|range| range.value.to_string()).collect(),
        ),
        Some(Resource::Service(service)) => (
            service.ports.iter().find(|known| known.number == port).map(|port| port.protocol),
            String::new(),
            service.cluster_ips.iter().map(ToString::to_string).collect(),
        ),
        Some(_) | None => (None, String::new(), Vec::new()),
    };
    RegistryRow {
        host: host.to_owned(),
        port,
        protocol: protocol.map(|protocol| name_of_protocol(protocol).to_owned()).unwrap_or_default(),
        resolution,
        addresses,
        service: name_of(key),
        kind: key.kind.to_string(),
        at: resource.map(|resource| resource.meta().origin.to_string()),
    }
}

fn name_of_protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Auto => "",
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP2",
        Protocol::Grpc => "GRPC",
        Protocol::GrpcWeb => "GRPC-WEB",
        Protocol::Https => "HTTPS",
        Protocol::Tls => "TLS",
        Protocol::Tcp => "TCP",
        Protocol::Mongo => "MONGO",
        Protocol::Mysql => "MYSQL",
        Protocol::Redis => "REDIS",
        Protocol::Udp => "UDP",
    }
}
