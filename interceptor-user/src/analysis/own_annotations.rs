//! Names below `egress.interceptor.io/` that nothing here reads: a mistyped one, or an annotation given as a label, would
//! leave pods unenforced without a word.

use super::annotations::On;
use super::findings::{Findings, at};
use crate::enroll::ENROLL;
use crate::resource::{
    ALLOW_FROM, Annotations, CAPTURE_DNS, Diagnostic, ENFORCE, Labels, Level, POLICY, Position, closest, code,
};

const PREFIX: &str = "egress.interceptor.io";
const ANNOTATIONS: [&str; 4] = [ALLOW_FROM, CAPTURE_DNS, ENFORCE, POLICY];
const LABELS: [&str; 1] = [ENROLL];

#[derive(Clone, Copy)]
enum Of {
    Annotations,
    Labels,
}

pub(super) fn check(on: &On<'_>, annotations: &Annotations, labels: &Labels, findings: &mut Findings) {
    for (name, annotation) in annotations.iter().filter(|(name, _)| is_own(name)) {
        if let Some(finding) = misnamed(on, Of::Annotations, name, annotation.key_position) {
            findings.push(finding);
        }
    }
    for name in labels.keys().filter(|name| is_own(name)) {
        if let Some(finding) = misnamed(on, Of::Labels, name, Position::default()) {
            findings.push(finding);
        }
    }
}

fn is_own(name: &str) -> bool {
    name.split_once('/').is_some_and(|(prefix, _)| prefix.eq_ignore_ascii_case(PREFIX))
}

fn misnamed(on: &On<'_>, of: Of, name: &str, position: Position) -> Option<Diagnostic> {
    let (what, place, read, other) = match of {
        Of::Annotations => ("annotation", "annotations", &ANNOTATIONS[..], &LABELS[..]),
        Of::Labels => ("label", "labels", &LABELS[..], &ANNOTATIONS[..]),
    };
    if read.contains(&name) {
        return None;
    }
    let field = on.field(place, name);
    let finding = if other.contains(&name) {
        let (meant, there) = match of {
            Of::Annotations => ("a label", "labels"),
            Of::Labels => ("an annotation", "annotations"),
        };
        let message = format!("Misplaced {what}: {name} is {meant}");
        at(&code::IST0107, on.meta, position, field, message)
            .mend(format!("move it to {}metadata.{there}", on.place))
    } else {
        let mend = match meant(name) {
            Some(meant) => format!("did you mean {PREFIX}/{meant}?"),
            None => format!("there are {} and {}", ANNOTATIONS.join(", "), LABELS.join(", ")),
        };
        at(&code::IST0108, on.meta, position, field, format!("Unknown {what}: {name}")).mend(mend)
    };
    Some(Diagnostic { level: Level::Error, ..finding })
}

/// The known name that a mistyped one probably means: both without their prefix, which is the same.
fn meant(name: &str) -> Option<&'static str> {
    let known: Vec<&str> =
        ANNOTATIONS.iter().chain(&LABELS).filter_map(|name| Some(name.split_once('/')?.1)).collect();
    closest(name.split_once('/')?.1, &known)
}
