//! Connections that are redirected now.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use super::{Names, or_dash};
use crate::datapath::{Redirected, Workload};
use crate::tables::Row;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedirectRow {
    /// `namespace/name`; none if nobody has described it.
    pub pod: Option<String>,
    /// As the process sees it.
    pub source: SocketAddr,
    /// Where the process wanted to go, and sees itself connected to.
    pub destination: SocketAddr,
    /// As ss(8) and netstat(8) know it: `ESTABLISHED`, `SYN_SENT`, …
    pub state: &'static str,
    /// The policy that redirected it, which may have been replaced since.
    pub policy: u32,
    pub netns_cookie: u64,
}

impl Row for RedirectRow {
    const HEADS: &'static [&'static str] = &["POD", "SOURCE", "DESTINATION", "STATE", "POLICY", "COOKIE"];

    fn columns(&self) -> Vec<String> {
        vec![
            or_dash(self.pod.as_deref()),
            self.source.to_string(),
            self.destination.to_string(),
            self.state.to_owned(),
            self.policy.to_string(),
            self.netns_cookie.to_string(),
        ]
    }
}

pub(super) fn rows(
    connections: &[Redirected],
    workloads: &BTreeMap<u64, Workload>,
    names: &Names,
) -> Vec<RedirectRow> {
    let row = |connection: &Redirected| RedirectRow {
        pod: names.get(connection.cookie),
        source: source(connection, workloads.get(&connection.cookie)),
        destination: connection.original,
        state: connection.state,
        policy: connection.policy,
        netns_cookie: connection.cookie,
    };
    let mut rows: Vec<RedirectRow> = connections.iter().map(row).collect();
    rows.sort_by(|a, b| (&a.pod, a.destination, a.source).cmp(&(&b.pod, b.destination, b.source)));
    rows
}

/// What getsockname(2) shows: the pod's own address in place of the loopback address that the redirect gave it.
fn source(connection: &Redirected, workload: Option<&Workload>) -> SocketAddr {
    let local = connection.local;
    if !local.ip().is_loopback() {
        return local;
    }
    let is_v4 = connection.original.is_ipv4();
    let own = workload.and_then(|workload| workload.shown.iter().find(|own| own.is_ipv4() == is_v4));
    SocketAddr::new(own.copied().unwrap_or(local.ip()), local.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Listener;
    use crate::tables;

    #[test]
    fn both_ends_are_as_the_process_sees_them() {
        let connection = |cookie, local: &str, original: &str| Redirected {
            cookie,
            policy: 4,
            local: local.parse().unwrap(),
            original: original.parse().unwrap(),
            state: "ESTABLISHED",
        };
        let connections = [
            connection(71, "127.0.0.1:40002", "93.184.216.34:443"),
            connection(71, "10.1.2.3:40001", "93.184.216.34:443"),
            connection(71, "[::1]:40003", "[2001:db8::7]:443"),
            connection(72, "127.0.0.1:40004", "192.0.2.1:80"),
        ];
        let workload = Workload {
            policy: 4,
            listener: Listener { port: 15_001, spread_v4: 8, ports_v6: 8, relay_port: 0 },
            shown: vec!["10.1.2.3".parse().unwrap(), "fd77::1".parse().unwrap()],
        };
        let names = Names(BTreeMap::from([(71, "shop/web".to_owned())]));
        let expected = "\
POD        SOURCE            DESTINATION         STATE         POLICY   COOKIE
-          127.0.0.1:40004   192.0.2.1:80        ESTABLISHED   4        72
shop/web   10.1.2.3:40001    93.184.216.34:443   ESTABLISHED   4        71
shop/web   10.1.2.3:40002    93.184.216.34:443   ESTABLISHED   4        71
shop/web   [fd77::1]:40003   [2001:db8::7]:443   ESTABLISHED   4        71
";
        let rows = rows(&connections, &BTreeMap::from([(71, workload)]), &names);
        assert_eq!(tables::text(&rows), expected);
    }
}
