//! The parameters behind the `?` of a request.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use super::refusal::Refusal;

/// Those that are left, and the names of those that were asked for.
#[derive(Debug)]
pub(super) struct Query {
    left: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Query {
    /// Of a parameter given twice the later one counts.
    pub(super) fn new(text: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Self { left: pairs.into_owned().collect(), known: Vec::new() }
    }

    pub(super) fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.left.remove(name)
    }

    /// `?name` and `?name=true` switch on, `?name=false` does not.
    pub(super) fn switch(&mut self, name: &'static str) -> Result<bool, Refusal> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => Err(Refusal::bad_request(format!("{name}={other}: expected true or false"))),
        }
    }

    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, Refusal> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let parsed = text.parse().map_err(|error| Refusal::bad_request(format!("{name}={text}: {error}")));
        parsed.map(Some)
    }

    /// Refuses parameters that nobody asked for: they were meant to do something.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        let Some(unknown) = self.left.keys().next() else { return Ok(()) };
        let expected = match self.known.as_slice() {
            [] => "none is expected here".to_owned(),
            known => format!("expected {}", known.join(", ")),
        };
        Err(Refusal::bad_request(format!("unknown parameter {unknown:?}: {expected}")))
    }
}
