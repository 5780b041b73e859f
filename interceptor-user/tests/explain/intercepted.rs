//! Requests that are answered before they are sent: by a fault, or as a CORS preflight.

use http::Method;

use crate::support::{Case, logged};

fn case(action: &str) -> Case {
    Case::new(&format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: a}}
spec: {{hosts: [a.org], ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 81, name: http-2, protocol: HTTP}}], \
         resolution: DNS}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: v}}
spec:
  hosts: [a.org]
  http:
  - name: r
    {action}
    route:
    - {{destination: {{host: a.org, port: {{number: 80}}}}, weight: 30}}
    - {{destination: {{host: a.org, port: {{number: 81}}}}, weight: 70}}
"
    ))
}

const ABORTED: &str = "outbound|80||a.org or outbound|81||a.org r FI fault_filter_abort";

#[test]
fn faults() {
    let sent = |flags: &str, of: &str| {
        format!(
            "outbound|80||a.org r {flags} via_upstream 30/100{of}; outbound|81||a.org r {flags} via_upstream 70/100{of}"
        )
    };
    let rows = [
        ("abort: {httpStatus: 555, percentage: {value: 100}}", format!("{ABORTED} refused"), Some(555)),
        ("abort: {httpStatus: 204, percentage: {value: 100}}", ABORTED.to_owned(), Some(204)),
        (
            "abort: {httpStatus: 503, percentage: {value: 12.5}}",
            format!("{ABORTED} 12.5 % refused; {}", sent("-", " of 87.5 %")),
            Some(503),
        ),
        ("abort: {httpStatus: 503, percentage: {value: 0}}", sent("-", ""), None),
        ("delay: {fixedDelay: 2s, percentage: {value: 100}}", sent("DI", ""), None),
        ("delay: {fixedDelay: 2s, percentage: {value: 50}}", sent("-", ""), None),
        (
            "abort: {httpStatus: 500, percentage: {value: 100}}, delay: {fixedDelay: 2s, percentage: {value: 100}}",
            format!("{} refused", ABORTED.replace("FI", "DI,FI")),
            Some(500),
        ),
    ];
    for (fault, expected, status) in rows {
        let explanation = case(&format!("fault: {{{fault}}}")).ask("http://a.org/");
        assert_eq!(logged(&explanation), expected, "{fault}\n{explanation}");
        assert_eq!(explanation.outcomes[0].status, status, "{fault}");
    }
}

#[test]
fn a_grpc_client_gets_a_grpc_status() {
    let rows = [
        ("grpcStatus: UNAVAILABLE", true, "200 OK from the proxy, with grpc-status 14", false),
        (
            "grpcStatus: UNAVAILABLE",
            false,
            "200 OK from the proxy, with the body \"fault filter abort\"",
            true,
        ),
        ("httpStatus: 403", true, "200 OK from the proxy, with grpc-status 7", false),
    ];
    for (abort, is_grpc, sees, carried) in rows {
        let case = case(&format!("fault: {{abort: {{{abort}, percentage: {{value: 100}}}}}}"));
        let case = if is_grpc { case.header("content-type", "application/grpc") } else { case };
        let explanation = case.ask("http://a.org/");
        let [outcome] = explanation.outcomes.as_slice() else { panic!("{explanation}") };
        assert_eq!((&*outcome.client_sees, outcome.carried), (sees, carried), "{abort} {is_grpc}");
    }
}

#[test]
fn preflights() {
    const POLICY: &str = "corsPolicy: {allowOrigins: [{exact: 'https://b.org'}], unmatchedPreflights: ";
    let answered = "outbound|80||a.org or outbound|81||a.org r - cors_response";
    let rows = [
        (Method::OPTIONS, "https://b.org", "FORWARD", true),
        (Method::OPTIONS, "https://c.org", "FORWARD", false),
        (Method::OPTIONS, "https://c.org", "IGNORE", true),
        (Method::GET, "https://b.org", "FORWARD", false),
    ];
    for (method, origin, unmatched, is_answered) in rows {
        let asked = |action: &str| {
            let case = case(action).method(method.clone()).header("origin", origin);
            case.header("access-control-request-method", "PUT").ask("http://a.org/")
        };
        let row = format!("{method} {origin} {unmatched}");
        let explanation = asked(&format!("{POLICY}{unmatched}}}"));
        assert_eq!(logged(&explanation) == answered, is_answered, "{row}\n{explanation}");
        assert_eq!(explanation.outcomes[0].status, is_answered.then_some(200), "{row}");
        let abort = "\n    fault: {abort: {httpStatus: 500, percentage: {value: 100}}}";
        let aborted = asked(&format!("{POLICY}{unmatched}}}{abort}"));
        assert_eq!(logged(&aborted), format!("{ABORTED} refused"), "the fault comes first: {row}");
    }
}

#[test]
fn strict_names_must_fit_the_address() {
    let none = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec: {hosts: [a.org], ports: \
                [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}], resolution: NONE}\n";
    let http = "outbound|80||a.org default";
    let rows = [
        ("http://a.org/", Some("192.0.2.2"), format!("{http} UAEX name_does_not_match_address refused")),
        ("http://a.org/", Some("192.0.2.1"), format!("{http} - via_upstream")),
        ("http://a.org/", None, format!("{http} - via_upstream")),
        ("https://a.org", Some("192.0.2.2"), "outbound|443||a.org - UAEX - refused".to_owned()),
        ("https://a.org", Some("192.0.2.1"), "outbound|443||a.org - - -".to_owned()),
        ("https://b.org", Some("192.0.2.2"), "PassthroughCluster - UAEX - refused".to_owned()),
    ];
    for (target, resolved, expected) in rows {
        let explanation = Case::new(none).at("192.0.2.1").strict(resolved).ask(target);
        assert_eq!(logged(&explanation), expected, "{target} {resolved:?}\n{explanation}");
    }
}
