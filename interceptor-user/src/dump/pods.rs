//! Pods: what the agent said of each, and what the programs know of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{name, or_dash, yes_or_no};
use crate::datapath::{CgroupId, Listener, PodRecord, Workload};
use crate::tables::Row;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRow {
    /// `namespace/name`; none for a workload that nobody has described.
    pub pod: Option<String>,
    pub uid: Option<String>,
    /// See `interceptor_common::pod::PodState`; `unknown` for a workload that nobody has described.
    pub state: &'static str,
    /// What is to be said of the state: a mistake in an annotation, for example.
    pub note: Option<String>,
    /// Whether the pod's cgroup has our programs.
    pub hooks: bool,
    /// Whether it has the guard of enforced pods, too.
    pub guard: bool,
    /// None: the network namespace is not enrolled.
    pub policy: Option<u32>,
    pub listener: Option<ListenerCell>,
    pub netns_cookie: Option<u64>,
    pub cgroup_id: Option<u64>,
}

/// Where the pod's connections are redirected to, on its loopback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerCell {
    pub port: u16,
    /// 127.0.0.1 and following.
    pub ipv4_addresses: u16,
    /// `port` and following of `::1`.
    pub ipv6_ports: u16,
    /// None: DNS is not captured.
    pub dns_port: Option<u16>,
}

impl From<Listener> for ListenerCell {
    fn from(listener: Listener) -> Self {
        Self {
            port: listener.port,
            ipv4_addresses: listener.spread_v4,
            ipv6_ports: listener.ports_v6,
            dns_port: Some(listener.relay_port).filter(|port| *port != 0),
        }
    }
}

impl ListenerCell {
    fn cell(&self) -> String {
        let mut cell = self.port.to_string();
        if self.ipv6_ports > 1 {
            cell.push_str(&format!("-{}", self.port.saturating_add(self.ipv6_ports - 1)));
        }
        if let Some(port) = self.dns_port {
            cell.push_str(&format!(", dns {port}"));
        }
        cell
    }
}

impl Row for PodRow {
    const HEADS: &'static [&'static str] =
        &["POD", "STATE", "HOOKS", "GUARD", "POLICY", "LISTENER", "COOKIE", "UID", "NOTE"];

    fn columns(&self) -> Vec<String> {
        let number = |number: Option<u64>| or_dash(number.map(|number| number.to_string()).as_deref());
        vec![
            or_dash(self.pod.as_deref()),
            self.state.to_owned(),
            yes_or_no(self.hooks),
            yes_or_no(self.guard),
            number(self.policy.map(u64::from)),
            or_dash(self.listener.as_ref().map(ListenerCell::cell).as_deref()),
            number(self.netns_cookie),
            or_dash(self.uid.as_deref()),
            or_dash(self.note.as_deref()),
        ]
    }
}

pub(super) fn rows(
    pods: BTreeMap<CgroupId, PodRecord>,
    mut workloads: BTreeMap<u64, Workload>,
    (attached, guarded): (&BTreeSet<CgroupId>, &BTreeSet<CgroupId>),
) -> Vec<PodRow> {
    let mut rows: Vec<PodRow> = pods
        .into_iter()
        .map(|(cgroup, record)| {
            let workload = workloads.remove(&record.netns_cookie);
            PodRow {
                pod: Some(name(&record)),
                state: record.state.name(),
                note: Some(record.note).filter(|note| !note.is_empty()),
                hooks: attached.contains(&cgroup),
                guard: guarded.contains(&cgroup),
                policy: workload.as_ref().map(|workload| workload.policy),
                listener: workload.map(|workload| workload.listener.into()),
                netns_cookie: Some(record.netns_cookie).filter(|cookie| *cookie != 0),
                cgroup_id: Some(cgroup.0),
                uid: Some(record.uid),
            }
        })
        .collect();
    rows.sort_by(|a, b| a.pod.cmp(&b.pod));
    rows.extend(workloads.into_iter().map(|(cookie, workload)| PodRow {
        pod: None,
        uid: None,
        state: "unknown",
        note: None,
        hooks: false,
        guard: false,
        policy: Some(workload.policy),
        listener: Some(workload.listener.into()),
        netns_cookie: Some(cookie),
        cgroup_id: None,
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables;
    use interceptor_common::pod::PodState;

    #[test]
    fn every_pod_and_every_workload_has_a_row() {
        let record = |name: &str, netns_cookie, state, note: &str| PodRecord {
            uid: format!("uid-of-{name}"),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            netns_cookie,
            state,
            note: note.to_owned(),
        };
        let workload = |policy, relay_port| Workload {
            policy,
            listener: Listener { port: 15_001, spread_v4: 8, ports_v6: 8, relay_port },
            shown: Vec::new(),
        };
        let pods = BTreeMap::from([
            (CgroupId(1), record("web", 71, PodState::Enrolled, "")),
            (CgroupId(2), record("cart", 72, PodState::EnrolledWithMistake, "\"10/33\" is no range")),
            (CgroupId(3), record("node-exporter", 0, PodState::HostNetwork, "")),
        ]);
        let workloads =
            BTreeMap::from([(71, workload(4, 15_053)), (72, workload(5, 0)), (99, workload(6, 0))]);
        let rows = rows(
            pods,
            workloads,
            (&BTreeSet::from([CgroupId(1), CgroupId(2)]), &BTreeSet::from([CgroupId(2)])),
        );
        let expected = "\
POD                  STATE                   HOOKS   GUARD   POLICY   LISTENER                 COOKIE   UID                    NOTE
shop/cart            enrolled_with_mistake   yes     yes     5        15001-15008              72       uid-of-cart            \"10/33\" is no range
shop/node-exporter   host_network            no      no      -        -                        -        uid-of-node-exporter   -
shop/web             enrolled                yes     no      4        15001-15008, dns 15053   71       uid-of-web             -
-                    unknown                 no      no      6        15001-15008              99       -                      -
";
        assert_eq!(tables::text(&rows), expected);
    }
}
