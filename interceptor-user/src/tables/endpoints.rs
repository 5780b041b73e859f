//! Endpoints: who the clusters are. Names that are looked up when they are needed stand as names.

use std::net::IpAddr;

use serde::Serialize;

use super::Row;
use crate::snapshot::{Discovery, DnsTarget, EndpointAddress, Snapshot};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRow {
    pub endpoint: String,
    /// `HEALTHY`; `UNKNOWN` for a name that nobody has looked up.
    pub status: &'static str,
    pub outlier_check: &'static str,
    pub cluster: String,
    #[serde(skip)]
    host: String,
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
    const HEADS: &'static [&'static str] = &["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"];

    fn columns(&self) -> Vec<String> {
        vec![
            self.endpoint.clone(),
            self.status.to_owned(),
            self.outlier_check.to_owned(),
            self.cluster.clone(),
        ]
    }
}

pub fn endpoints(snapshot: &Snapshot, filter: &EndpointFilter) -> Vec<EndpointRow> {
    let mut rows: Vec<EndpointRow> = snapshot
        .clusters
        .values()
        .flat_map(|cluster| {
            let each = match &cluster.discovery {
                Discovery::Static(endpoints) => endpoints
                    .iter()
                    .map(|endpoint| {
                        let endpoint = &endpoint.address;
                        let (host, port) = match endpoint {
                            EndpointAddress::Ip(address) => (address.ip().to_string(), address.port()),
                            EndpointAddress::Unix(_) => (endpoint.written(), 0),
                        };
                        of_address(&endpoint.written(), &host, port)
                    })
                    .collect(),
                Discovery::StrictDns(targets) => targets.iter().map(of_name).collect(),
                Discovery::LogicalDns(target) => vec![of_name(target)],
                // Whoever is asked for.
                Discovery::OriginalDst { .. } | Discovery::DynamicDns { .. } => Vec::new(),
            };
            each.into_iter().map(|row| EndpointRow { cluster: cluster.name.to_string(), ..row })
        })
        .filter(|row| filter.takes(row))
        .collect();
    rows.sort();
    rows
}

fn of_address(endpoint: &str, host: &str, port: u16) -> EndpointRow {
    EndpointRow {
        endpoint: endpoint.to_owned(),
        status: "HEALTHY",
        outlier_check: "OK",
        cluster: String::new(),
        host: host.to_owned(),
        port,
    }
}

fn of_name(target: &DnsTarget) -> EndpointRow {
    let endpoint = format!("{}:{}", target.host, target.port);
    let row = of_address(&endpoint, &target.host, target.port);
    if target.host.parse::<IpAddr>().is_ok() {
        return row;
    }
    EndpointRow { status: "UNKNOWN", outlier_check: super::NONE, ..row }
}

impl EndpointFilter {
    fn takes(&self, row: &EndpointRow) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| *cluster == row.cluster)
            && self.status.as_ref().is_none_or(|status| status.eq_ignore_ascii_case(row.status))
            && self.address.as_ref().is_none_or(|address| address.eq_ignore_ascii_case(&row.host))
            && self.port.is_none_or(|port| port == row.port)
    }
}
