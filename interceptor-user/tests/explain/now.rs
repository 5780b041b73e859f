//! What is known of endpoints at the moment of asking: by a proxy that uses them, and by looking names up.

use std::net::SocketAddr;
use std::time::Duration;

use interceptor_user::proxy::upstream::{EndpointStatus, EndpointsNow};
use interceptor_user::snapshot::ClusterName;

use crate::support::{Case, logged};

const ENTRIES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: fixed}
spec:
  hosts: [fixed.org]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named}
spec:
  hosts: [named.org]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mixed}
spec:
  hosts: [mixed.org]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
  endpoints: [{address: named.org}, {address: 192.0.2.9}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dynamic}
spec:
  hosts: ['*.dynamic.org']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DYNAMIC_DNS
";

fn at(address: &str, ejected_for: Option<Duration>) -> EndpointStatus {
    let address = address.parse::<SocketAddr>().unwrap().into();
    EndpointStatus { address, weight: 1, active_requests: 0, ejected_for }
}

/// The line of the log, and what is noted of the endpoints.
#[track_caller]
fn tells(case: &Case, target: &str, line: &str, notes: &[&str]) {
    let explanation = case.ask(target);
    assert_eq!(logged(&explanation), line, "{explanation}");
    let step = explanation.steps.iter().find(|step| step.step == "endpoints").expect("endpoints");
    for note in notes {
        assert!(step.notes.iter().any(|there| there == note), "{note:?} is not in {:?}", step.notes);
    }
}

#[test]
fn endpoints_that_are_all_ejected_get_nothing() {
    let knows = |nobody: Option<&str>| {
        let of = |case: Case, port| {
            let endpoint = at("192.0.2.1:80", Some(Duration::from_secs(30)));
            let now = EndpointsNow {
                endpoints: vec![endpoint],
                nobody: nobody.map(Into::into),
                ..EndpointsNow::default()
            };
            case.knows(ClusterName::outbound(port, "", "fixed.org"), now)
        };
        of(of(Case::new(ENTRIES), 80), 443)
    };
    let note = "192.0.2.1:80 is ejected by outlier detection for 30 s more";
    let none = knows(Some("every endpoint is ejected by outlier detection"));
    let line = "outbound|80||fixed.org default UH no_healthy_upstream refused";
    tells(&none, "http://fixed.org/", line, &[note]);
    tells(&none, "https://fixed.org", "outbound|443||fixed.org - UH - refused", &[note]);
    // Where the others carry it, or too few are healthy to leave any out.
    let line = "outbound|80||fixed.org default - via_upstream";
    tells(&knows(None), "http://fixed.org/", line, &[note]);
}

#[test]
fn names_are_as_the_proxy_has_them() {
    let cluster = || ClusterName::outbound(80, "", "named.org");
    let why = "the name server knows no address";
    let now = EndpointsNow {
        without_address: vec![("named.org".into(), why.into())],
        nobody: Some(format!("named.org: {why}").into()),
        ..EndpointsNow::default()
    };
    tells(
        // What the proxy knows goes before what is looked up now.
        &Case::new(ENTRIES).knows(cluster(), now).looking_up(|_| Ok(vec!["192.0.2.7".parse().unwrap()])),
        "http://named.org/",
        "outbound|80||named.org default UH no_healthy_upstream refused",
        &[
            "the proxy has no address of named.org now: the name server knows no address",
            "named.org is 192.0.2.7 now",
        ],
    );
    let now = EndpointsNow { endpoints: vec![at("192.0.2.7:80", None)], ..EndpointsNow::default() };
    tells(
        &Case::new(ENTRIES).knows(cluster(), now).looking_up(|_| Err("no answer".into())),
        "http://named.org/",
        "outbound|80||named.org default - via_upstream",
        &["the proxy has 192.0.2.7:80 now", "named.org can't be looked up now: no answer"],
    );
}

#[test]
fn names_that_are_nothing_are_nobody() {
    let case = Case::new(ENTRIES).looking_up(|_| Err("no such name".into()));
    let note = ["named.org can't be looked up now: no such name"];
    let line = "outbound|80||named.org default UH no_healthy_upstream refused";
    tells(&case, "http://named.org/", line, &note);
    let line = "outbound|80||mixed.org default - via_upstream";
    tells(&case, "http://mixed.org/", line, &note);
    let line = "outbound|80||*.dynamic.org default DF dns_resolution_failure refused";
    let note = ["a.dynamic.org can't be looked up now: no such name"];
    let case = case.knows(ClusterName::outbound(80, "", "*.dynamic.org"), EndpointsNow::default());
    tells(&case, "http://a.dynamic.org/", line, &note);
}
