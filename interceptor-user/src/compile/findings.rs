//! Collects what compiling finds out. Sorted, each finding once, whatever the order of the work.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::resource::{Diagnostic, Level, Meta, Position};

#[derive(Debug, Default)]
pub(super) struct Findings(RefCell<BTreeSet<Diagnostic>>);

impl Findings {
    pub(super) fn push(&self, finding: Diagnostic) {
        self.0.borrow_mut().insert(finding);
    }

    /// A finding about a place in a resource, with the code that the analysis gives it.
    pub(super) fn coded(
        &self,
        code: &'static str,
        meta: &Meta,
        level: Level,
        position: Position,
        field: &str,
        message: String,
    ) {
        self.push(Diagnostic { code: Some(code), ..meta.finding(level, position, field, message) });
    }

    /// What `work` finds out, which is kept here, too.
    pub(super) fn capture<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<Diagnostic>) {
        let before = self.0.take();
        let done = work();
        let found = self.0.replace(before);
        self.0.borrow_mut().extend(found.iter().cloned());
        (done, found.into_iter().collect())
    }

    /// Takes over what was found elsewhere.
    pub(super) fn extend(&self, found: impl IntoIterator<Item = Diagnostic>) {
        self.0.borrow_mut().extend(found);
    }

    pub(super) fn into_sorted(self) -> Vec<Diagnostic> {
        let mut findings: Vec<Diagnostic> = self.0.into_inner().into_iter().collect();
        findings.sort_by(|a, b| (&a.origin, a.level, a).cmp(&(&b.origin, b.level, b)));
        findings
    }
}
