//! Policies: what is redirected and what is not, as far as addresses and ports say.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Names, few, yes_or_no};
use crate::datapath::Workload;
use crate::plan::KernelPolicy;
use crate::tables::Row;
use crate::workload::IncludeIpRanges;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    pub policy: u32,
    /// `namespace/name`, or the cookie of a network namespace that nobody has described.
    pub pods: Vec<String>,
    /// `*`: all.
    pub include_ip_ranges: Vec<String>,
    pub exclude_ip_ranges: Vec<String>,
    /// What the pods' routes lead to by an excluded interface; `!`: a range in another that they do not.
    pub exclude_interface_ranges: Vec<String>,
    pub include_ports: Vec<u16>,
    pub exclude_ports: Vec<u16>,
    /// Everything goes to the proxy, whatever is included and excluded.
    pub enforced: bool,
    /// Those that an enforced pod may ask itself.
    pub name_servers: Vec<String>,
    /// The pods' own addresses, which are never redirected.
    pub own_addresses: Vec<String>,
}

impl Row for PolicyRow {
    const HEADS: &'static [&'static str] = &[
        "POLICY",
        "PODS",
        "INCLUDE",
        "EXCLUDE",
        "BY INTERFACE",
        "INCLUDE PORTS",
        "EXCLUDE PORTS",
        "ENFORCED",
        "NAME SERVERS",
        "OWN ADDRESSES",
    ];

    fn columns(&self) -> Vec<String> {
        vec![
            self.policy.to_string(),
            few(&self.pods),
            few(&self.include_ip_ranges),
            few(&self.exclude_ip_ranges),
            few(&self.exclude_interface_ranges),
            few(&self.include_ports),
            few(&self.exclude_ports),
            yes_or_no(self.enforced),
            few(&self.name_servers),
            few(&self.own_addresses),
        ]
    }
}

pub(super) fn rows(
    policies: &BTreeMap<u32, KernelPolicy>,
    workloads: &BTreeMap<u64, Workload>,
    names: &Names,
) -> Vec<PolicyRow> {
    let mut pods: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (&cookie, workload) in workloads {
        let name = names.get(cookie).unwrap_or_else(|| format!("cookie {cookie}"));
        pods.entry(workload.policy).or_default().push(name);
    }
    let row = |(&id, kernel): (&u32, &KernelPolicy)| {
        let policy = kernel.redirect_policy();
        let include = match policy.include_ip_ranges {
            IncludeIpRanges::All => vec!["*".to_owned()],
            IncludeIpRanges::List(ranges) => ranges.iter().map(ToString::to_string).collect(),
        };
        PolicyRow {
            policy: id,
            pods: pods.remove(&id).unwrap_or_default(),
            include_ip_ranges: include,
            exclude_ip_ranges: policy.exclude_ip_ranges.iter().map(ToString::to_string).collect(),
            exclude_interface_ranges: policy.interface_ranges.texts(),
            include_ports: policy.include_ports,
            exclude_ports: policy.exclude_ports,
            enforced: policy.enforced.is_some(),
            name_servers: policy
                .enforced
                .iter()
                .flat_map(|enforced| &enforced.name_servers)
                .map(ToString::to_string)
                .collect(),
            own_addresses: kernel.own_addresses().iter().map(ToString::to_string).collect(),
        }
    };
    policies.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Listener;
    use crate::tables;
    use crate::workload::{Enforced, RedirectPolicy};

    #[test]
    fn ranges_and_ports_are_those_that_were_written() {
        let all = RedirectPolicy { exclude_ports: vec![22, 3306], ..Default::default() };
        let some = RedirectPolicy {
            include_ip_ranges: IncludeIpRanges::List(vec!["10.0.0.0/8".parse().unwrap()]),
            exclude_ip_ranges: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
            include_ports: vec![443],
            interface_ranges: [("10.9.0.0/16", true), ("10.9.1.0/24", false)]
                .map(|(range, leaves)| (range.parse().unwrap(), leaves))
                .into_iter()
                .collect(),
            ..Default::default()
        };
        let server = "10.96.0.10".parse().unwrap();
        let enforced = RedirectPolicy { enforced: Some(Enforced::new([server])), ..all.clone() };
        let own = ["10.1.2.3".parse().unwrap(), "fd77::1".parse().unwrap()];
        let policies = BTreeMap::from([
            (4, KernelPolicy::new(&all, &[])),
            (9, KernelPolicy::new(&some, &own)),
            (10, KernelPolicy::new(&enforced, &[])),
        ]);
        let workload = |policy| Workload {
            policy,
            listener: Listener { port: 15_001, spread_v4: 8, ports_v6: 8, relay_port: 0 },
            shown: Vec::new(),
        };
        let workloads = BTreeMap::from([(70, workload(4)), (71, workload(9)), (72, workload(4))]);
        let names = Names(BTreeMap::from([(70, "shop/web".to_owned()), (71, "shop/cart".to_owned())]));
        let expected = "\
POLICY   PODS                  INCLUDE      EXCLUDE                 BY INTERFACE                INCLUDE PORTS   EXCLUDE PORTS   ENFORCED   NAME SERVERS   OWN ADDRESSES
4        shop/web, cookie 72   *            -                       -                           -               22, 3306        no         -              -
9        shop/cart             10.0.0.0/8   10.1.0.0/16, fd00::/8   10.9.0.0/16, !10.9.1.0/24   443             -               no         -              10.1.2.3, fd77::1
10       -                     *            -                       -                           -               22, 3306        yes        10.96.0.10     -
";
        assert_eq!(tables::text(&rows(&policies, &workloads, &names)), expected);
    }
}
