//! Endpoints: who the clusters are, and how they are where a proxy can be asked. Names stand as names until they are looked
//! up.

use std::net::IpAddr;

use serde::Serialize;

use super::Row;
use crate::proxy::upstream::{EndpointsNow, InUse};
use crate::snapshot::{Discovery, DnsTarget, EndpointAddress, Snapshot};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRow {
    pub endpoint: String,
    /// `HEALTHY`; `UNHEALTHY` where nothing is sent to; `UNKNOWN` for a name that nobody has looked up.
    pub status: &'static str,
    pub outlier_check: &'static str,
    pub cluster: String,
    /// Why it is not healthy.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Its address, and the names that it may be an address of.
    #[serde(skip)]
    hosts: Vec<String>,
    /// 0 of a unix socket.
    #[serde(skip)]
    port: u16,
}

#[derive(Clone, Debug, Default)]
pub struct EndpointFilter {
    pub cluster: Option<String>,
    pub status: Option<String>,
    /// An address, `unix:///path`, or a name.
    pub address: Option<String>,
    pub port: Option<u16>,
}

impl Row for EndpointRow {
    const HEADS: &'static [&'static str] = &["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER", "NOTE"];

    fn columns(&self) -> Vec<String> {
        vec![
            self.endpoint.clone(),
            self.status.to_owned(),
            self.outlier_check.to_owned(),
            self.cluster.clone(),
            self.note.clone(),
        ]
    }
}

/// `in_use`: what a proxy knows of the clusters that it uses; `None`: there is none to ask.
pub fn endpoints(snapshot: &Snapshot, in_use: Option<&InUse>, filter: &EndpointFilter) -> Vec<EndpointRow> {
    let mut rows: Vec<EndpointRow> = snapshot
        .clusters
        .values()
        .flat_map(|cluster| {
            let each = match in_use.map(|in_use| in_use.get(&cluster.name)) {
                Some(Some(now)) => known(&cluster.discovery, now),
                Some(None) => declared(&cluster.discovery, "looked up when it is first used"),
                None => declared(&cluster.discovery, ""),
            };
            each.into_iter().map(|row| EndpointRow { cluster: cluster.name.to_string(), ..row })
        })
        .filter(|row| filter.takes(row))
        .collect();
    rows.sort();
    rows
}

/// As nobody has tried them. `of_names`: said of names.
fn declared(discovery: &Discovery, of_names: &str) -> Vec<EndpointRow> {
    let of_name = |target: &DnsTarget| {
        let row = of_name(target);
        if target.host.parse::<IpAddr>().is_ok() {
            return row;
        }
        EndpointRow { status: "UNKNOWN", outlier_check: super::NONE, note: of_names.to_owned(), ..row }
    };
    match discovery {
        Discovery::Static(endpoints) => {
            endpoints.iter().map(|endpoint| of_address(&endpoint.address)).collect()
        }
        Discovery::StrictDns(targets) => targets.iter().map(of_name).collect(),
        Discovery::LogicalDns(target) => vec![of_name(target)],
        // Whoever is asked for.
        Discovery::OriginalDst { .. } | Discovery::DynamicDns { .. } => Vec::new(),
    }
}

/// As the proxy has them now: the addresses of names, and names that have none.
fn known(discovery: &Discovery, now: &EndpointsNow) -> Vec<EndpointRow> {
    let targets = match discovery {
        Discovery::StrictDns(targets) => &**targets,
        Discovery::LogicalDns(target) => std::slice::from_ref(target),
        Discovery::Static(_) | Discovery::OriginalDst { .. } | Discovery::DynamicDns { .. } => &[],
    };
    let addresses = now.endpoints.iter().map(|endpoint| {
        let mut row = of_address(&endpoint.address);
        row.hosts.extend(targets.iter().map(|target| target.host.to_string()));
        match endpoint.why_left_out() {
            Some(why) => EndpointRow { status: UNHEALTHY, outlier_check: "FAILED", note: why, ..row },
            None => row,
        }
    });
    let why_none = |target: &DnsTarget| {
        let (_, why) = now.without_address.iter().find(|(name, _)| *name == target.host)?;
        Some(EndpointRow {
            status: UNHEALTHY,
            outlier_check: super::NONE,
            note: why.to_string(),
            ..of_name(target)
        })
    };
    addresses.chain(targets.iter().filter_map(why_none)).collect()
}

const UNHEALTHY: &str = "UNHEALTHY";

fn of_address(address: &EndpointAddress) -> EndpointRow {
    let (host, port) = match address {
        EndpointAddress::Ip(address) => (address.ip().to_string(), address.port()),
        EndpointAddress::Unix(_) => (address.written(), 0),
    };
    healthy(address.written(), host, port)
}

fn of_name(target: &DnsTarget) -> EndpointRow {
    healthy(format!("{}:{}", target.host, target.port), target.host.to_string(), target.port)
}

fn healthy(endpoint: String, host: String, port: u16) -> EndpointRow {
    EndpointRow {
        endpoint,
        status: "HEALTHY",
        outlier_check: "OK",
        cluster: String::new(),
        note: String::new(),
        hosts: vec![host],
        port,
    }
}

impl EndpointFilter {
    fn takes(&self, row: &EndpointRow) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| *cluster == row.cluster)
            && self.status.as_ref().is_none_or(|status| status.eq_ignore_ascii_case(row.status))
            && self
                .address
                .as_ref()
                .is_none_or(|address| row.hosts.iter().any(|host| address.eq_ignore_ascii_case(host)))
            && self.port.is_none_or(|port| port == row.port)
    }
}
