//! Rules about annotations of istio.io: on the wrong kind, unknown, wrong, deprecated, alpha.

use super::findings::{Findings, at};
use super::known_annotations::{KNOWN, Known, Stage};
use super::mesh::Mesh;
use super::own_annotations;
use crate::resource::{
    ALLOW_FROM, Annotation, Annotations, CAPTURE_DNS, ClientPolicy, Diagnostic, ENFORCE, Kind, Labels, Level,
    Meta, POLICY, Resource, code, parse_capture_dns, parse_enforce,
};
use crate::workload::RedirectPolicy;

/// Annotations of pods that Istio's proxy follows and nothing here does: what happens instead, and what helps.
const NOT_APPLIED: [(&str, &str, &str); 2] = [
    ("traffic.sidecar.istio.io/kubevirtInterfaces", OF_MACHINES, KEEP_ISTIO),
    ("istio.io/reroute-virtual-interfaces", OF_MACHINES, KEEP_ISTIO),
];
const OF_MACHINES: &str =
    "connections of a virtual machine behind these interfaces are not taken over, and not refused";
const KEEP_ISTIO: &str = "keep Istio's proxy for such pods, or a NetworkPolicy beside";

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    for resource in mesh.world.resources.values() {
        let meta = resource.meta();
        let labels = &meta.labels;
        let own = On { meta, place: "", kind: meta.key.kind };
        check_each(&own, &meta.annotations, labels, findings);
        if let Resource::PodTemplate(template) = resource {
            own_annotations::check_template(&own, template, findings);
            let on = On { meta, place: place_of_pod(meta), kind: Kind::Pod };
            check_each(&on, &template.annotations, &template.labels, findings);
        }
    }
}

/// Where a pod is described in what it is itself, or is made by.
fn place_of_pod(meta: &Meta) -> &'static str {
    if meta.key.kind == Kind::Pod {
        ""
    } else if meta.key.kind == Kind::CronJob {
        "spec.jobTemplate.spec.template."
    } else {
        "spec.template."
    }
}

/// What the annotations and labels of a pod, which `meta` is or makes, say by names that nothing reads there.
pub fn misnamed(meta: &Meta, annotations: &Annotations, labels: &Labels) -> Vec<Diagnostic> {
    let mut findings = Findings::default();
    check_each(&On { meta, place: place_of_pod(meta), kind: Kind::Pod }, annotations, labels, &mut findings);
    let is_of_name = |finding: &Diagnostic| {
        [&code::IST0107, &code::IST0108, &code::EGR0119].iter().any(|code| finding.code == Some(code.id))
    };
    let mut findings = findings.into_sorted();
    findings.retain(is_of_name);
    findings
}

/// Whose annotations: of a resource, or of the pods that it makes.
pub(super) struct On<'a> {
    pub(super) meta: &'a Meta,
    pub(super) place: &'a str,
    pub(super) kind: Kind,
}

impl On<'_> {
    fn finding(
        &self,
        code: &'static code::Code,
        name: &str,
        annotation: &Annotation,
        message: String,
    ) -> Diagnostic {
        at(code, self.meta, annotation.key_position, self.field("annotations", name), message)
    }

    pub(super) fn field(&self, of: &str, name: &str) -> String {
        format!("{}metadata.{of}[{name}]", self.place)
    }

    /// Where the pods are described that it makes.
    pub(super) fn place_of_its_pods(&self) -> Option<&'static str> {
        let makes_pods = matches!(
            self.kind,
            Kind::Deployment
                | Kind::StatefulSet
                | Kind::DaemonSet
                | Kind::ReplicaSet
                | Kind::Job
                | Kind::CronJob
        );
        makes_pods.then(|| place_of_pod(self.meta))
    }
}

fn check_each(on: &On<'_>, annotations: &Annotations, labels: &Labels, findings: &mut Findings) {
    own_annotations::check(on, annotations, labels, findings);
    for (name, annotation) in annotations {
        let name = &**name;
        if name == POLICY {
            check_policy(on, annotation, findings);
            continue;
        }
        if name == ALLOW_FROM {
            check_allow_from(on, annotation, findings);
            continue;
        }
        if name == ENFORCE {
            check_enforce(on, annotation, findings);
            continue;
        }
        if name == CAPTURE_DNS {
            check_capture_dns(on, annotation, findings);
            continue;
        }
        if !is_of_istio(name) {
            continue;
        }
        let Some(known) = KNOWN.iter().find(|known| known.name == name) else {
            findings.push(unknown(on, name, annotation));
            continue;
        };
        let replaced = known.replaced_by_label.filter(|label| labels.contains_key(*label));
        if known.deprecated && replaced.is_none() {
            findings.push(deprecated(on, known, annotation));
        }
        if known.kinds.is_empty() {
            continue;
        }
        if !known.kinds.contains(&on.kind.name()) {
            findings.push(misplaced(on, known, annotation));
            continue;
        }
        if let Some((_, effect, mend)) = NOT_APPLIED.iter().find(|(not_applied, ..)| *not_applied == name)
            && !annotation.value.trim().is_empty()
        {
            let message = format!("{name} does not act here");
            findings.push(on.finding(&code::EGR0119, name, annotation, message).effect(*effect).mend(*mend));
        }
        if let Err(error) = RedirectPolicy::from_annotations([(name, &*annotation.value)]) {
            let message = format!("Invalid annotation {name}: {}", error.cause);
            findings.push(on.finding(&code::IST0125, name, annotation, message));
        } else if known.stage == Stage::Alpha && !known.deprecated {
            let message = format!(
                "Annotation \"{name}\" is part of an alpha-phase feature and may be incompletely supported"
            );
            findings.push(on.finding(&code::IST0136, name, annotation, message));
        }
    }
}

/// In the namespace of Istio's names, or documented by it.
fn is_of_istio(name: &str) -> bool {
    name == "kubernetes.io/ingress.class"
        || name
            .split_once('/')
            .is_some_and(|(prefix, _)| prefix == "istio.io" || prefix.ends_with(".istio.io"))
}

fn check_policy(on: &On<'_>, annotation: &Annotation, findings: &mut Findings) {
    if !matches!(on.kind, Kind::Pod | Kind::Namespace) {
        let message = format!("Misplaced annotation: {POLICY} can only be applied to Pod, Namespace");
        findings.push(on.finding(&code::IST0107, POLICY, annotation, message));
    } else if let Err(error) = ClientPolicy::parse(&annotation.value) {
        let message = format!("Invalid annotation {POLICY}: {error}");
        let counts_as = format!("it counts as {}", error.instead().described());
        let effect = if on.kind == Kind::Pod {
            format!("{counts_as}; a pod that had a good value before keeps that one")
        } else {
            counts_as
        };
        let finding = on.finding(&code::IST0125, POLICY, annotation, message);
        findings.push(Diagnostic { level: Level::Error, ..finding }.effect(effect));
    }
}

/// A value that can't be read was told with the entry.
fn check_allow_from(on: &On<'_>, annotation: &Annotation, findings: &mut Findings) {
    if on.kind != Kind::ServiceEntry {
        let message = format!("Misplaced annotation: {ALLOW_FROM} can only be applied to ServiceEntry");
        let finding = on.finding(&code::IST0107, ALLOW_FROM, annotation, message);
        findings.push(
            Diagnostic { level: Level::Error, ..finding }
                .effect("it keeps nobody out")
                .mend("write it on the ServiceEntry that has the hosts"),
        );
    }
}

fn check_enforce(on: &On<'_>, annotation: &Annotation, findings: &mut Findings) {
    if !matches!(on.kind, Kind::Pod | Kind::Namespace) {
        let message = format!("Misplaced annotation: {ENFORCE} can only be applied to Pod, Namespace");
        findings.push(on.finding(&code::IST0107, ENFORCE, annotation, message));
    } else if let Err(error) = parse_enforce(&annotation.value) {
        let message = format!("Invalid annotation {ENFORCE}: {error}");
        let finding = on.finding(&code::IST0125, ENFORCE, annotation, message);
        findings.push(
            Diagnostic { level: Level::Error, ..finding }
                .effect("it counts as gateway; a pod that had a good value before keeps what that said"),
        );
    }
}

fn check_capture_dns(on: &On<'_>, annotation: &Annotation, findings: &mut Findings) {
    if !matches!(on.kind, Kind::Pod | Kind::Namespace) {
        let message = format!("Misplaced annotation: {CAPTURE_DNS} can only be applied to Pod, Namespace");
        findings.push(on.finding(&code::IST0107, CAPTURE_DNS, annotation, message));
    } else if let Err(error) = parse_capture_dns(&annotation.value) {
        let message = format!("Invalid annotation {CAPTURE_DNS}: {error}");
        let finding = on.finding(&code::IST0125, CAPTURE_DNS, annotation, message);
        findings.push(finding.effect("it changes nothing"));
    }
}

fn unknown(on: &On<'_>, name: &str, annotation: &Annotation) -> Diagnostic {
    let finding = on.finding(&code::IST0108, name, annotation, format!("Unknown annotation: {name}"));
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
    let (_, own) = name.split_once('/').unwrap_or(("", name));
    let meant = KNOWN.iter().find(|known| {
        let (_, other) = known.name.split_once('/').unwrap_or(("", known.name));
        plain(known.name) == plain(name)
            || plain(other) == plain(own)
            || plain(other) == format!("{}s", plain(own))
    });
    match meant {
        Some(known) => finding.mend(format!("did you mean {}?", known.name)),
        None => finding,
    }
}

fn deprecated(on: &On<'_>, known: &Known, annotation: &Annotation) -> Diagnostic {
    let instead = known.replaced_by_label.map(|label| format!(" in favor of the \"{label}\" label"));
    let message = format!(
        "Annotation \"{}\" has been deprecated{} and may not work in future Istio versions",
        known.name,
        instead.unwrap_or_default()
    );
    let finding = on.finding(&code::IST0135, known.name, annotation, message);
    match known.replaced_by_label {
        Some(label) => finding.mend(format!("use the label {label}")),
        None => finding,
    }
}

fn misplaced(on: &On<'_>, known: &Known, annotation: &Annotation) -> Diagnostic {
    let message =
        format!("Misplaced annotation: {} can only be applied to {}", known.name, known.kinds.join(", "));
    let finding = on.finding(&code::IST0107, known.name, annotation, message);
    match on.place_of_its_pods().filter(|_| known.kinds.contains(&"Pod")) {
        Some(template) => finding
            .effect(format!("what stands on the {} reaches no pod", on.kind))
            .mend(format!("move it to {template}metadata.annotations")),
        None => finding,
    }
}
