//! One object of the API server's as it is known: read, with its last good form where it can't be used.

use std::sync::Arc;

use super::object::Object;
use crate::resource::{Diagnostic, Refused, Resource, parse_json};

/// One object, read.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) uid: Arc<str>,
    pub(super) origin: Arc<str>,
    /// As it is written; `None` when it can't be used so.
    pub(super) good: Option<Resource>,
    /// What acts instead: its last good form, or a guard.
    pub(super) instead: Option<Resource>,
    pub(super) findings: Vec<Diagnostic>,
}

impl Held {
    pub(super) fn acting(&self) -> Option<&Resource> {
        self.good.as_ref().or(self.instead.as_ref())
    }
}

impl Held {
    /// One of which only the book-keeping is kept.
    pub(super) fn outside(object: &Object) -> Self {
        Self {
            uid: object.uid().into(),
            origin: object.origin().into(),
            good: None,
            instead: None,
            findings: Vec::new(),
        }
    }

    /// One that means what `before` meant is `before`.
    pub(super) fn read(object: &Object, before: Option<&Arc<Self>>) -> Arc<Self> {
        let read = |origin: &Arc<str>| {
            let mut parsed = parse_json(origin, &object.json);
            let guard = parsed.refused.pop().and_then(|Refused { instead, .. }| instead);
            (parsed.resources.pop(), guard, parsed.diagnostics)
        };
        // As if it were the version that is known: what differs then is what is written.
        if let Some(before) = before.filter(|before| *before.uid == *object.uid() && before.good.is_some()) {
            let (good, _, findings) = read(&before.origin);
            if good == before.good && findings == before.findings {
                return Arc::clone(before);
            }
        }
        let origin = object.origin().into();
        let (good, guard, findings) = read(&origin);
        let last_good = before.and_then(|before| before.acting()).filter(|resource| !resource.is_guard());
        let instead = if good.is_none() { last_good.cloned().or(guard) } else { None };
        Arc::new(Self { uid: object.uid().into(), origin, good, instead, findings })
    }
}
