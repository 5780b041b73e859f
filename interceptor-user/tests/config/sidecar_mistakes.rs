//! A Sidecar with a mistake blocks what it can have meant to block, from the first start on.

use std::fs;
use std::path::Path;

use interceptor_user::compile::{Client, CompileSettings, compile};
use interceptor_user::source::FileSource;

use crate::support::{Config, shown};

const ENTRIES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: web}
spec: {hosts: [a.test], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b, namespace: other}
spec: {hosts: [b.test], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
";

/// What a client gets of files that say this.
fn started(sidecars: &str, labels: &[(&str, &str)]) -> Config {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.yaml");
    fs::write(&path, format!("{ENTRIES}{sidecars}")).unwrap();
    let (_, world, mut findings) = FileSource::open(vec![path], None).unwrap();
    let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let client = Client { labels, ..Client::in_namespace("web") };
    let (snapshot, more) = compile(&world, &CompileSettings { client, ..CompileSettings::default() });
    findings.extend(more);
    Config { snapshot, findings }
}

fn sidecar(metadata: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{{metadata}}}\n{spec}\n---\n")
}

fn of_web(spec: &str) -> String {
    sidecar("name: s, namespace: web", &format!("spec: {spec}"))
}

/// What becomes of unknown hosts, and which of `a.test` and `b.test` are known.
fn got(config: &Config) -> String {
    let hosts = ["a.test", "b.test"].into_iter().filter(|host| {
        config.snapshot.clusters.keys().any(|name| *name.0 == *format!("outbound|80||{host}"))
    });
    let hosts: Vec<&str> = hosts.collect();
    format!("{} {}", config.ask("203.0.113.9:9999 tcp"), hosts.join(","))
}

const BLOCKED: &str = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}";

#[test]
fn what_can_be_read_of_it_acts() {
    for (spec, expected) in [
        // Egress hosts that are wrong are left out.
        (&*format!("{{{BLOCKED}, egress: [{{hosts: ['./*', nodash]}}]}}"), "close a.test"),
        (&format!("{{{BLOCKED}, egress: [{{hosts: [nodash]}}]}}"), "close "),
        (
            &format!(
                "{{{BLOCKED}, egress: [{{hosts: ['other/*']}}, {{port: {{number: 0x}}, hosts: ['./*']}}]}}"
            ),
            "close b.test",
        ),
        (&format!("{{{BLOCKED}, egress: 5}}"), "close "),
        (&format!("{{{BLOCKED}, egress: [{{bind: nowhere, hosts: ['./*']}}]}}"), "close "),
        (
            "{outboundTrafficPolicy: {mode: ALLOW_ANY}, egress: [{hosts: ['./*', nodash]}]}",
            "PassthroughCluster a.test",
        ),
        // A policy that can't be read blocks.
        ("{outboundTrafficPolicy: {mode: BOGUS}}", "close a.test,b.test"),
        ("{outboundTrafficPolicy: {mode: 1}}", "close a.test,b.test"),
        ("{outboundTrafficPolicy: REGISTRY_ONLY}", "close a.test,b.test"),
        ("{outboundTraficPolicy: {mode: REGISTRY_ONLY}}", "close a.test,b.test"),
        ("{outbound_traffic_policy: {mode: ALLOW_ANY}}", "close a.test,b.test"),
        ("{outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}}", "close a.test,b.test"),
        // Nor one that stands beside `spec`.
        ("{}\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}", "close a.test,b.test"),
        (&format!("{{{BLOCKED}}}\negress: [{{hosts: ['./*']}}]"), "close "),
        // Nor does it pass by a proxy that can't be read.
        ("{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.test}}}", "close a.test,b.test"),
        (
            "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProx: {host: a.test, port: {number: 80}}}}",
            "close a.test,b.test",
        ),
        (
            "{outboundTrafficPolicy: {mode: REGISTRY_ONLY, egressProxy: {host: a.test, port: {number: 80}}}}",
            "close a.test,b.test",
        ),
        // Of a key that stands twice nobody knows which is meant.
        ("{outboundTrafficPolicy: {mode: ALLOW_ANY, mode: REGISTRY_ONLY}}", "close "),
        ("[]", "close "),
    ] {
        let config = started(&of_web(spec), &[]);
        assert_eq!(got(&config), expected, "{spec}\n{}", config.found());
        let told = if expected.starts_with("close") {
            "hosts that nobody declared are blocked (REGISTRY_ONLY); when it was good before"
        } else {
            "hosts that nobody declared are let through (ALLOW_ANY); when it was good before"
        };
        assert!(config.found().contains(told), "{spec}\n{}", config.found());
    }
}

#[test]
fn its_own_name_may_be_wrong() {
    for metadata in ["namespace: web", "name: Not_a_name, namespace: web"] {
        let config = started(&sidecar(metadata, &format!("spec: {{{BLOCKED}}}")), &[]);
        assert_eq!(got(&config), "close a.test,b.test", "{metadata}\n{}", config.found());
    }
    let config = started(&sidecar("name: s, namespace: web", BLOCKED), &[]);
    assert_eq!(got(&config), "close ", "{}", config.found());
}

#[test]
fn a_selector_that_cannot_be_read_takes_from_all_and_gives_nothing() {
    let open = sidecar(
        "name: open, namespace: web",
        "spec: {outboundTrafficPolicy: {mode: ALLOW_ANY}, egress: [{hosts: ['*/*']}]}",
    );
    let selectors = [
        "workloadSelector: {labels: {app: 5}}",
        "workloadSelector: {labels: [app]}",
        "workloadSelector: app",
        "workloadSelector: {matchLabels: {app: x}}",
        "workloadSeletor: {labels: {app: x}}",
    ];
    for selector in selectors {
        let spec = |policy: &str| {
            format!("{{{selector}, outboundTrafficPolicy: {{mode: {policy}}}, egress: [{{hosts: ['./*']}}]}}")
        };
        for (sidecars, expected) in [
            (of_web(&spec("REGISTRY_ONLY")), "close a.test"),
            (of_web(&spec("REGISTRY_ONLY")) + &open, "close a.test"),
            (
                of_web(&spec("ALLOW_ANY"))
                    + &of_web(&format!("{{{BLOCKED}}}")).replace("name: s,", "name: z,"),
                "close a.test",
            ),
        ] {
            let config = started(&sidecars, &[("app", "y")]);
            assert_eq!(got(&config), expected, "{sidecars}\n{}", config.found());
        }
    }
    // One that can be read selects whom it selects.
    let wrong = of_web(&format!(
        "{{workloadSelector: {{labels: {{app: x}}}}, {BLOCKED}, egress: [{{hosts: [nodash]}}]}}"
    ));
    assert_eq!(got(&started(&(wrong.clone() + &open), &[("app", "x")])), "close ");
    assert_eq!(got(&started(&(wrong + &open), &[("app", "y")])), "PassthroughCluster a.test,b.test");
}

/// At once: a file that is written in place is empty for a moment.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn its_last_good_form_goes_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.yaml");
    fs::write(&path, of_web(&format!("{{{BLOCKED}, egress: [{{hosts: ['./*']}}]}}"))).unwrap();
    let (source, _, findings) = FileSource::open(vec![path.clone()], None).unwrap();
    assert!(findings.is_empty(), "{}", shown(&findings));
    let (sender, changes) = std::sync::mpsc::channel();
    let _watching = source.watch(move |world, findings, _| {
        drop(sender.send((world.clone(), shown(&findings))));
    });
    let next = || changes.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    replace(&path, &of_web("{outboundTrafficPolicy: {mode: BOGUS}, egress: [{hosts: ['other/*']}]}"));
    let (world, said) = next();
    let sidecar = world.sidecars().next().unwrap();
    assert!(!sidecar.refused && sidecar.leaves_out("other", "b.test"), "{sidecar:?}");
    assert!(said.contains("keeps acting in its last good form"), "{said}");
}

#[test]
fn a_mistake_that_stays_never_had_a_last_good_form() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.yaml");
    fs::write(&path, of_web("{outboundTrafficPolicy: {mode: BOGUS}}")).unwrap();
    let (source, world, _) = FileSource::open(vec![path.clone()], None).unwrap();
    assert!(world.sidecars().next().unwrap().refused);
    let (sender, changes) = std::sync::mpsc::channel();
    let _watching = source.watch(move |world, findings, _| {
        drop(sender.send((world.clone(), shown(&findings))));
    });
    replace(&path, &of_web("{outboundTrafficPolicy: {mode: BOGUS2}}"));
    let (world, said) = changes.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    assert!(world.sidecars().next().unwrap().refused);
    assert!(!said.contains("last good form until"), "{said}");
}
