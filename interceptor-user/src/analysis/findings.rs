//! Makes findings, and brings them into an order that does not depend on that of the work.

use crate::resource::code::Code;
use crate::resource::{Diagnostic, Meta, Position};

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Diagnostic>);

impl Findings {
    pub(super) fn push(&mut self, finding: Diagnostic) {
        self.0.push(finding);
    }

    /// By place, the gravest first; each once.
    pub(super) fn into_sorted(self) -> Vec<Diagnostic> {
        let mut findings = self.0;
        findings.sort_by(|a, b| (&a.origin, a.level, a).cmp(&(&b.origin, b.level, b)));
        findings.dedup();
        findings
    }
}

/// A finding of the code's level about a field of a resource. The place is that of the resource until
/// somebody knows better: whoever has the text finds it by the field.
pub(super) fn about(code: &'static Code, meta: &Meta, field: impl AsRef<str>, message: String) -> Diagnostic {
    at(code, meta, Position::default(), field, message)
}

/// As [`about`], with a place near the field. What happens and how to mend it are the code's, until said otherwise.
pub(super) fn at(
    code: &'static Code,
    meta: &Meta,
    position: Position,
    field: impl AsRef<str>,
    message: String,
) -> Diagnostic {
    let finding = meta.finding(code.level, position, field.as_ref(), message);
    Diagnostic { code: Some(code.id), effect: code.effect.into(), mend: code.mend.into(), ..finding }
}

/// Who is meant, with its place.
pub(super) fn named(meta: &Meta) -> String {
    format!("{} ({})", meta.key, meta.origin)
}
