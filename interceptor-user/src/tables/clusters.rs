//! Clusters: where connections and requests can be sent.

use serde::Serialize;

use super::{NONE, Row, name_of, or_dash};
use crate::snapshot::{Cluster, ClusterName, Discovery, Snapshot};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRow {
    pub service_fqdn: String,
    /// `None` for those that are no service's.
    pub port: Option<u16>,
    pub subset: String,
    /// `outbound`; empty for those that are no service's.
    pub direction: &'static str,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `name.namespace` of each that was merged.
    pub destination_rules: Vec<String>,
    pub name: String,
}

/// Which are shown; what is not set asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct ClusterFilter {
    pub fqdn: Option<String>,
    pub port: Option<u16>,
    pub subset: Option<String>,
}

impl Row for ClusterRow {
    const HEADS: &'static [&'static str] =
        &["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"];

    fn columns(&self) -> Vec<String> {
        vec![
            self.service_fqdn.clone(),
            self.port.map_or_else(|| NONE.to_owned(), |port| port.to_string()),
            or_dash(&self.subset),
            or_dash(self.direction),
            self.kind.to_owned(),
            self.destination_rules.join(","),
        ]
    }
}

pub fn clusters(snapshot: &Snapshot, filter: &ClusterFilter) -> Vec<ClusterRow> {
    let of_services = snapshot.clusters.values().map(|cluster| of_cluster(cluster));
    let mut rows: Vec<ClusterRow> = of_services.chain(own()).filter(|row| filter.takes(row)).collect();
    rows.sort();
    rows.dedup();
    rows
}

/// Those of what no service takes; as in Istio both are there whatever the policy.
fn own() -> [ClusterRow; 2] {
    [(ClusterName::PASSTHROUGH, "ORIGINAL_DST"), (ClusterName::BLACK_HOLE, "STATIC")].map(|(name, kind)| {
        ClusterRow {
            service_fqdn: name.to_owned(),
            port: None,
            subset: String::new(),
            direction: "",
            kind,
            destination_rules: Vec::new(),
            name: name.to_owned(),
        }
    })
}

fn of_cluster(cluster: &Cluster) -> ClusterRow {
    let rules = cluster.source.iter().flat_map(|source| &source.destination_rules);
    let is_service = cluster.source.is_some();
    ClusterRow {
        service_fqdn: cluster.host.to_string(),
        port: is_service.then_some(cluster.port),
        subset: subset(cluster).to_owned(),
        direction: if is_service { "outbound" } else { "" },
        kind: match &cluster.discovery {
            Discovery::OriginalDst { .. } => "ORIGINAL_DST",
            // Fixed endpoints come by EDS in Istio.
            Discovery::Static(_) => "EDS",
            Discovery::StrictDns(_) => "STRICT_DNS",
            Discovery::LogicalDns(_) => "LOGICAL_DNS",
            Discovery::DynamicDns { .. } => "DYNAMIC_DNS",
        },
        destination_rules: rules.map(name_of).collect(),
        name: cluster.name.to_string(),
    }
}

/// The third part of `outbound|443|subset|host`.
fn subset(cluster: &Cluster) -> &str {
    cluster.name.0.split('|').nth(2).unwrap_or_default()
}

impl ClusterFilter {
    fn takes(&self, row: &ClusterRow) -> bool {
        self.fqdn.as_ref().is_none_or(|fqdn| fqdn.eq_ignore_ascii_case(&row.service_fqdn))
            && self.port.is_none_or(|port| row.port == Some(port))
            && self.subset.as_ref().is_none_or(|subset| *subset == row.subset)
    }
}
