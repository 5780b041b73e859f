//! The tutorials' own mistakes are found, and what they show to work is not called an error.

use std::fs;

use crate::support::found;

fn text(name: &str) -> String {
    let path = format!("{}/tests/data/seeds/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What is found in some of them together: code and resource.
fn codes(texts: &[String]) -> Vec<String> {
    let yaml = texts.join("\n---\n");
    let findings = found(&yaml, "").into_iter().filter(|finding| finding.code != Some("EGR0118"));
    let mut codes: Vec<String> =
        findings.map(|finding| format!("{} {}", finding.code.expect("a code"), finding.resource)).collect();
    codes.sort();
    codes
}

fn files(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| text(name)).collect()
}

/// `protocol: TLS` with ISTIO_MUTUAL and http routes only: nothing listens.
#[test]
fn the_gateway_of_003_has_the_wrong_protocol() {
    let both = codes(&files(&["003-01", "003-04"]));
    assert!(both.contains(&"EGR0111 Gateway default/istio-egressgateway".to_owned()), "{both:#?}");
    // With its Service and the right protocol it is gone.
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: istio-egressgateway, namespace: istio-system}\nspec:\n  ports: \
                   [{port: 80, name: http2}, {port: 443, name: https}]\n";
    let right = text("003-04").replace("protocol: TLS", "protocol: HTTPS");
    let mended = codes(&[text("003-01"), right, service.to_owned()]);
    assert!(!mended.iter().any(|code| code.starts_with("EGR0111") || code.starts_with("IST")), "{mended:#?}");
    for works in ["003-02", "003-03"] {
        let found = codes(&[text("003-01"), text(works), service.to_owned()]);
        assert_eq!(found, [""; 0], "{works}");
    }
}

/// `host: httpbin` in istio-system is a Service there.
#[test]
fn the_rule_of_003_has_a_short_host_in_another_namespace() {
    let found = codes(&files(&["003-01", "003-05"]));
    assert_eq!(
        found,
        [
            "EGR0104 DestinationRule istio-system/originate-mtls-for-httpbin",
            "IST0174 DestinationRule istio-system/originate-mtls-for-httpbin"
        ]
    );
}

/// Its note says what happens when only `bookinfo-gateway` is named.
#[test]
fn the_virtual_service_of_000_bound_to_a_gateway_only() {
    let note = text("000-02")
        .replace("  # gateways: #", "  gateways: #")
        .replace("  # - bookinfo-gateway", "  - bookinfo-gateway");
    assert_ne!(note, text("000-02"));
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: bookinfo-gateway}\nspec:\n  selector: {istio: \
                   ingressgateway}\n  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]\n";
    let found = codes(&[text("000-01"), note, gateway.to_owned()]);
    assert!(found.contains(&"EGR0106 VirtualService default/httpbin-org".to_owned()), "{found:#?}");
    let right = codes(&files(&["000-01", "000-02"]));
    assert!(!right.iter().any(|code| code.starts_with("EGR")), "{right:#?}");
}

/// The note of 002: without the subset the rule would take the applications' own HTTPS, too.
#[test]
fn the_rule_of_002_without_its_subset_wraps_https() {
    let right = text("002-05");
    assert_eq!(codes(std::slice::from_ref(&right)), [""; 0]);
    let policy =
        "  trafficPolicy:\n    portLevelSettings:\n    - port: {number: 443}\n      tls: {mode: SIMPLE}\n";
    let whole = right.split("  trafficPolicy:").next().expect("a rule").to_owned() + policy + "EOF\n";
    let whole = whole.replace("        subset: originate-tls\n", "");
    assert_eq!(codes(&[whole]), ["EGR0105 DestinationRule default/originate-tls-for-entry"]);
}

#[test]
fn what_the_tutorials_show_to_work_is_no_error() {
    for names in [
        &["000-01", "000-02", "000-03", "000-04", "000-05"][..],
        &["001-01", "001-02"],
        &["002-03"],
        &["002-04"],
        &["002-05"],
    ] {
        let found = found(&files(names).join("\n---\n"), "");
        let errors: Vec<_> = found
            .iter()
            .filter(|finding| finding.level == interceptor_user::resource::Level::Error)
            .collect();
        assert!(errors.is_empty(), "{names:?}: {errors:#?}");
    }
}
