//! Names below `egress.interceptor.io/` that nothing here reads: a mistyped one, or an annotation given as a label, would
//! leave pods unenforced without a word.

use super::annotations::On;
use super::findings::{Findings, at};
use crate::enroll::{ENROLL, parse_enroll};
use crate::resource::{
    ALLOW_FROM, Annotations, CAPTURE_DNS, Diagnostic, ENFORCE, Kind, Labels, Level, POLICY, PodTemplate,
    Position, closest, code,
};

const PREFIX: &str = "egress.interceptor.io";
const ANNOTATIONS: [&str; 4] = [ALLOW_FROM, CAPTURE_DNS, ENFORCE, POLICY];

#[derive(Clone, Copy)]
enum Of {
    Annotations,
    Labels,
}

pub(super) fn check(on: &On<'_>, annotations: &Annotations, labels: &Labels, findings: &mut Findings) {
    let annotations = annotations
        .iter()
        .map(|(name, annotation)| (Of::Annotations, &**name, &*annotation.value, annotation.key_position));
    let labels = labels.iter().map(|(name, value)| (Of::Labels, &**name, &**value, Position::default()));
    for (of, name, value, position) in annotations.chain(labels).filter(|(_, name, ..)| is_own(name)) {
        let finding =
            if name == ENROLL { enroll(on, of, value, position) } else { misnamed(on, of, name, position) };
        if let Some(finding) = finding {
            findings.push(finding);
        }
    }
}

fn is_own(name: &str) -> bool {
    name.split_once('/').is_some_and(|(prefix, _)| prefix.eq_ignore_ascii_case(PREFIX))
}

impl Of {
    /// What it is, and where such stand.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Annotations => ("annotation", "annotations"),
            Self::Labels => ("label", "labels"),
        }
    }
}

fn misnamed(on: &On<'_>, of: Of, name: &str, position: Position) -> Option<Diagnostic> {
    let (what, place) = of.words();
    let field = on.field(place, name);
    let finding = match (of, ANNOTATIONS.contains(&name)) {
        (Of::Annotations, true) => return None,
        (Of::Labels, true) => {
            let message = format!("Misplaced label: {name} is an annotation");
            at(&code::IST0107, on.meta, position, field, message)
                .mend(format!("move it to {}metadata.annotations", on.place))
        }
        (Of::Annotations | Of::Labels, false) => {
            let mend = match meant(name) {
                Some(meant) => format!("did you mean {PREFIX}/{meant}?"),
                None => format!("there are {} and {ENROLL}", ANNOTATIONS.join(", ")),
            };
            at(&code::IST0108, on.meta, position, field, format!("Unknown {what}: {name}")).mend(mend)
        }
    };
    Some(Diagnostic { level: Level::Error, ..finding })
}

/// Of a pod it is read as a label and as an annotation, of a namespace as a label, of anything else not at all.
fn enroll(on: &On<'_>, of: Of, value: &str, position: Position) -> Option<Diagnostic> {
    let (what, place) = of.words();
    let field = on.field(place, ENROLL);
    let misplaced = |of_whom: &str, mend: String| {
        let message = format!("Misplaced {what}: {ENROLL} {of_whom}");
        let finding = at(&code::IST0107, on.meta, position, &field, message).mend(mend);
        Some(Diagnostic { level: Level::Error, ..finding })
    };
    match (on.kind, of) {
        (Kind::Pod, Of::Annotations | Of::Labels) => {
            let error = parse_enroll(value).err()?;
            let message = format!("Invalid {what} {ENROLL}: {error}, not {value:?}");
            let finding = at(&code::IST0125, on.meta, position, field, message);
            Some(finding.effect("the namespace decides whether the pod is intercepted"))
        }
        (Kind::Namespace, Of::Annotations) => {
            misplaced("of a Namespace is a label", "move it to metadata.labels".into())
        }
        (_, Of::Annotations) => misplaced(
            "can only be applied to Pod, or as a label to Namespace",
            match on.place_of_its_pods() {
                Some(template) => format!("move it to {template}metadata.annotations"),
                None => "remove it; the pods or their Namespace may have it".into(),
            },
        ),
        // Which values select a namespace is the agent's to say (--enroll-namespaces), and labels are given to all that an
        // application is of.
        (_, Of::Labels) => None,
    }
}

/// A label of a workload that its pods don't have: nobody reads it there.
pub(super) fn check_template(on: &On<'_>, template: &PodTemplate, findings: &mut Findings) {
    // A ReplicaSet has the labels of its Deployment's pods.
    if on.kind == Kind::ReplicaSet
        || !on.meta.labels.contains_key(ENROLL)
        || template.labels.contains_key(ENROLL)
        || template.annotations.contains_key(ENROLL)
    {
        return;
    }
    let message = format!("Misplaced label: {ENROLL} can only be applied to Pod, Namespace");
    let finding = at(&code::IST0107, on.meta, Position::default(), on.field("labels", ENROLL), message);
    let template = on.place_of_its_pods().unwrap_or_default();
    findings.push(
        finding
            .effect(format!("what stands on the {} reaches no pod", on.kind))
            .mend(format!("move it to {template}metadata.labels")),
    );
}

/// The known name that a mistyped one probably means: both without their prefix, which is the same.
fn meant(name: &str) -> Option<&'static str> {
    let known: Vec<&str> =
        ANNOTATIONS.iter().chain(&[ENROLL]).filter_map(|name| Some(name.split_once('/')?.1)).collect();
    closest(name.split_once('/')?.1, &known)
}
