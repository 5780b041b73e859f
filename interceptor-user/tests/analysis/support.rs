//! Looks for mistakes in YAML and compares what is found with what is expected.

use interceptor_user::analysis::{Audience, Flags, find};
use interceptor_user::resource::{Diagnostic, Places, World, mesh_config, parse};

/// Everything that is found, each at the place of its field, by place.
pub(crate) fn found(yaml: &str, mesh: &str) -> Vec<Diagnostic> {
    let parsed = parse(&"f.yaml".into(), yaml, &"default".into());
    let mut findings = parsed.diagnostics;
    let mut world = World { resources: parsed.resources.into_iter().collect(), ..World::default() };
    if !mesh.is_empty() {
        let (config, more) = mesh_config::parse(&"mesh.yaml".into(), mesh);
        world.mesh = config.unwrap_or_else(|| panic!("{more:#?}"));
        findings.extend(more);
    }
    let places = Places::new("a.yaml", yaml);
    findings.extend(find(&world, Audience::Mesh(Flags::default())).into_iter().map(|mut finding| {
        let origin = finding.origin.as_mut().expect("a place");
        if let Some(place) = places.find(origin.position, &finding.field) {
            origin.position = place;
        }
        finding
    }));
    findings.sort_by(|a, b| (&a.origin, a).cmp(&(&b.origin, b)));
    findings
}

/// The part of the text that a finding is about.
pub(crate) fn underlined(yaml: &str, finding: &Diagnostic) -> String {
    let position = finding.origin.as_ref().expect("a place").position;
    let line = yaml.lines().nth(position.line as usize - 1).unwrap_or_default();
    line.chars().skip(position.column as usize - 1).take(position.length as usize).collect()
}

/// Expectations are lines, in the order of places: `Level CODE Kind ns/name | underlined | words; more words`. Every
/// finding has its line, and each of its words is said.
#[track_caller]
pub(crate) fn check_in(mesh: &str, yaml: &str, expected: &[&str]) {
    let findings = found(yaml, mesh);
    let shown: Vec<String> = findings
        .iter()
        .map(|finding| {
            let code = finding.code.unwrap_or("(no code)");
            let level = format!("{:?}", finding.level);
            let said = format!("{}; {}; {}", finding.message, finding.effect, finding.mend);
            format!("{level} {code} {} | {} | {said}", finding.resource, underlined(yaml, finding))
        })
        .collect();
    let all = shown.join("\n");
    assert_eq!(shown.len(), expected.len(), "{yaml}\n{all}");
    for (shown, expected) in shown.iter().zip(expected) {
        let parts: Vec<&str> = expected.splitn(3, " | ").collect();
        let [head, place, words] = parts[..] else { panic!("{expected}") };
        let start = format!("{head} | {place} | ");
        assert!(shown.starts_with(&start), "{yaml}\n{all}\nexpected {expected}");
        for word in words.split("; ") {
            assert!(shown.contains(word), "{yaml}\n{shown}\nis without {word}");
        }
    }
}

#[track_caller]
pub(crate) fn check(yaml: &str, expected: &[&str]) {
    check_in("", yaml, expected);
}

/// One document on one line.
pub(crate) fn istio(kind: &str, name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, spec: \
         {{{spec}}}}}\n"
    )
}

pub(crate) fn se(name: &str, spec: &str) -> String {
    istio("ServiceEntry", name, spec)
}

pub(crate) fn vs(name: &str, spec: &str) -> String {
    istio("VirtualService", name, spec)
}

pub(crate) fn dr(name: &str, spec: &str) -> String {
    istio("DestinationRule", name, spec)
}

pub(crate) fn gateway(name: &str, spec: &str) -> String {
    istio("Gateway", name, spec)
}

/// HTTP on 80 and HTTPS on 443, looked up by name.
pub(crate) fn host(name: &str, host: &str) -> String {
    se(
        name,
        &format!(
            "hosts: [{host}], ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 443, name: tls, protocol: \
             HTTPS}}], resolution: DNS"
        ),
    )
}

/// A route to one port of a host.
pub(crate) fn to(host: &str, port: u16) -> String {
    format!("route: [{{destination: {{host: {host}, port: {{number: {port}}}}}}}]")
}
