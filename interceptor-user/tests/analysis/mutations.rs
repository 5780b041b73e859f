//! Whatever is written, looking for mistakes ends, and what it finds has a code and a place in the text.

use std::fs;

use interceptor_user::report::{Finding, Format, render};
use interceptor_user::resource::code::Code;
use proptest::prelude::*;

use crate::support::{dr, found, gateway, host, istio, se, to, vs};

/// Something of every kind.
fn sample() -> String {
    let seeds = ["002-08", "003-04"].map(|name| {
        fs::read_to_string(format!("{}/tests/data/seeds/{name}.yaml", env!("CARGO_MANIFEST_DIR")))
            .expect("a seed")
    });
    [
        host("a", "a.com"),
        se("b", "hosts: ['*.b.com', c.com], ports: [{number: 5432, name: db, protocol: TCP}, {number: 27017, name: m, protocol: MONGO}], resolution: NONE"),
        vs("v", &format!("hosts: [a.com, '*.b.com'], gateways: [mesh, x/gw], http: [{{match: [{{uri: {{prefix: /x}}, port: 80}}, {{headers: {{x: {{exact: y}}}}}}], {}}}, {{{}}}], tls: [{{match: [{{sniHosts: [x.b.com]}}], {}}}]", to("a.com", 443), to("nowhere", 1), to("a.com", 443))),
        dr("r", "host: '*.com', trafficPolicy: {tls: {mode: MUTUAL}, portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE, insecureSkipVerify: true}}]}, subsets: [{name: s, labels: {v: one}}]"),
        gateway("x/gw", "selector: {a: b}, servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: ['*/*'], tls: {mode: SIMPLE, credentialName: c}}]"),
        istio("Sidecar", "s", "workloadSelector: {labels: {a: b}}, egress: [{hosts: ['*/*']}], outboundTrafficPolicy: {}"),
        "---\n{apiVersion: v1, kind: Service, metadata: {name: web, annotations: {a.istio.io/b: c}}, spec: {type: ExternalName, externalName: x.com, ports: [{port: 443, name: tcp}], selector: {a: b}}}\n".into(),
        "---\n{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {a: b}}, spec: {securityContext: {runAsUser: 1337}, containers: []}}\n".into(),
        "---\n{apiVersion: v1, kind: Secret, metadata: {name: c}, data: {x: y}}\n".into(),
        seeds.join("\n---\n"),
    ]
    .concat()
}

/// Cuts, repeats and exchanges pieces.
fn mutated(text: &str, steps: &[(usize, usize, u8)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (from, length, way) in steps {
        if characters.is_empty() {
            break;
        }
        let from = from % characters.len();
        let to = (from + length).min(characters.len());
        match way % 6 {
            0 => drop(characters.drain(from..to)),
            1 => {
                let piece: Vec<char> = characters[from..to].to_vec();
                let at = (from * 7 + 13) % (characters.len() + 1);
                drop(characters.splice(at..at, piece));
            }
            2 => {
                characters[from] =
                    ['{', '}', '[', ']', ':', '\n', '*', '"', '\u{0}', 'é', '-', '&'][length % 12]
            }
            3 => characters.truncate(from),
            4 => drop(characters.splice(from..to, "null".chars())),
            _ => {
                let other = (from + length) % characters.len();
                characters.swap(from, other);
            }
        }
    }
    characters.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_panics(steps in proptest::collection::vec((0..20_000_usize, 0..200_usize, any::<u8>()), 0..12)) {
        let yaml = mutated(&sample(), &steps);
        let findings = found(&yaml, "");
        for finding in &findings {
            let code = finding.code.expect("every finding has a code");
            prop_assert!(Code::find(code).is_some(), "{code}");
            let line = finding.origin.as_ref().expect("a place").position.line as usize;
            // What is missing at the end is missing behind the last line.
            prop_assert!(line <= yaml.lines().count() + 1, "{finding:?}");
        }
        let shown: Vec<_> = findings.iter().map(|diagnostic| Finding { diagnostic, line: yaml.lines().next() }).collect();
        for format in [Format::Text, Format::Json, Format::Yaml, Format::Sarif] {
            let text = render(&shown, format, true);
            prop_assert!(!text.contains('\0'), "control characters of the input reach the terminal");
        }
    }
}

#[test]
fn the_sample_has_findings_of_every_family() {
    let findings = found(&sample(), "");
    let codes: std::collections::BTreeSet<_> = findings.iter().filter_map(|finding| finding.code).collect();
    for code in ["EGR0105", "EGR0111", "IST0101", "IST0108", "IST0144", "IST0150", "IST0174"] {
        assert!(codes.contains(code), "{code}: {codes:?}");
    }
}
