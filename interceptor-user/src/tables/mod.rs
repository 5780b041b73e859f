//! The compiled configuration as tables, with istioctl's columns and words (istioctl proxy-config). Pure: rows come from
//! a snapshot, whoever holds one. Sorted, so that two runs compare.

mod clusters;
mod endpoints;
mod listeners;
mod registry;
mod routes;

use serde::Serialize;

pub use clusters::{ClusterFilter, ClusterRow, clusters};
pub use endpoints::{EndpointFilter, EndpointRow, endpoints};
pub use listeners::{ListenerFilter, ListenerRow, listeners};
pub use registry::{RegistryFilter, RegistryRow, registry};
pub use routes::{RouteRow, routes};

use crate::resource::{ResourceKey, printable};
use crate::snapshot::WeightedCluster;

/// A row as columns of text, and as data.
pub trait Row: Serialize {
    const HEADS: &'static [&'static str];

    fn columns(&self) -> Vec<String>;
}

/// The rows in columns as wide as they need to be, under their heads. Without rows the heads stand alone.
pub fn text<R: Row>(rows: &[R]) -> String {
    let lines: Vec<Vec<String>> =
        rows.iter().map(|row| row.columns().iter().map(|text| printable(text)).collect()).collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        let head = R::HEADS.get(column).map_or(0, |head| head.len());
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(head)
    };
    let widths: Vec<usize> = (0..R::HEADS.len()).map(width).collect();
    let mut out = String::new();
    let heads: Vec<String> = R::HEADS.iter().map(|head| (*head).to_owned()).collect();
    for line in std::iter::once(&heads).chain(&lines) {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        out.push('\n');
    }
    out
}

/// As istioctl names a resource: `name.namespace`.
fn name_of(key: &ResourceKey) -> String {
    format!("{}.{}", key.name, key.namespace)
}

/// `Cluster: a`, or several with their weights.
fn destination(clusters: &[WeightedCluster]) -> String {
    match clusters {
        [only] => format!("Cluster: {}", only.cluster.name),
        several => {
            let each =
                several.iter().map(|weighted| format!("{} ({})", weighted.cluster.name, weighted.weight));
            format!("Cluster: {}", each.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Nothing, as istioctl writes it.
const NONE: &str = "-";

fn or_dash(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}
