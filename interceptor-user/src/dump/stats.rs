//! Counters: what became of the connections of each pod, and why.

use interceptor_common::policy::NOT_ENROLLED;
use serde::Serialize;

use super::{Names, or_dash};
use crate::datapath::Counter;
use crate::tables::Row;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatRow {
    /// `namespace/name`; none if nobody has described it, or for all that are not enrolled.
    pub pod: Option<String>,
    /// `redirected`, `bypassed`, `refused`, or `undecided`: let through because nobody had decided.
    pub verdict: &'static str,
    pub reason: &'static str,
    pub count: u64,
    /// 0: all network namespaces that are not enrolled.
    pub netns_cookie: u64,
}

impl Row for StatRow {
    const HEADS: &'static [&'static str] = &["POD", "VERDICT", "REASON", "COUNT", "COOKIE"];

    fn columns(&self) -> Vec<String> {
        let others = (self.netns_cookie == NOT_ENROLLED).then_some("(not enrolled)");
        vec![
            or_dash(self.pod.as_deref().or(others)),
            self.verdict.to_owned(),
            self.reason.to_owned(),
            self.count.to_string(),
            self.netns_cookie.to_string(),
        ]
    }
}

pub(super) fn rows(counters: &[Counter], names: &Names) -> Vec<StatRow> {
    let row = |counter: &Counter| StatRow {
        pod: names.get(counter.cookie),
        verdict: counter.reason.effect().name(),
        reason: counter.reason.name(),
        count: counter.count,
        netns_cookie: counter.cookie,
    };
    let mut rows: Vec<StatRow> = counters.iter().map(row).collect();
    rows.sort_by(|a, b| {
        (&a.pod, a.netns_cookie, a.verdict, a.reason).cmp(&(&b.pod, b.netns_cookie, b.verdict, b.reason))
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables;
    use interceptor_common::verdict::Reason;
    use std::collections::BTreeMap;

    #[test]
    fn counters_are_told_with_their_verdict() {
        let counter = |cookie, reason, count| Counter { cookie, reason, count };
        let counters = [
            counter(71, Reason::IncludedRange, 12),
            counter(71, Reason::ExcludedPort, 3),
            counter(0, Reason::UndecidedAllowed, 1),
            counter(0, Reason::UndecidedRefused, 7),
            counter(72, Reason::NoListener, 2),
            counter(72, Reason::EventDropped, 9),
        ];
        let names = Names(BTreeMap::from([(71, "shop/web".to_owned())]));
        let expected = "\
POD              VERDICT         REASON              COUNT   COOKIE
(not enrolled)   refused         undecided_refused   7       0
(not enrolled)   undecided       undecided_allowed   1       0
-                event_dropped   event_dropped       9       72
-                refused         no_listener         2       72
shop/web         bypassed        excluded_port       3       71
shop/web         redirected      included_range      12      71
";
        assert_eq!(tables::text(&rows(&counters, &names)), expected);
    }
}
