//! A mapping with known fields. Every field is asked for by name, so that those nobody asked for can be
//! reported.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use super::decode::Field;
use super::diagnostic::{Level, Position};
use super::words::{closest, did_you_mean, shortened};
use super::yaml::{Entry, Value};

/// What stands at the top of the specs of Istio's networking kinds.
const OF_SPECS: [&str; 25] = [
    "address",
    "addresses",
    "egress",
    "endpoints",
    "exportTo",
    "gateways",
    "host",
    "hosts",
    "http",
    "inboundConnectionPool",
    "ingress",
    "location",
    "outboundTrafficPolicy",
    "ports",
    "resolution",
    "selector",
    "servers",
    "subjectAltNames",
    "subsets",
    "tcp",
    "template",
    "tls",
    "trafficPolicy",
    "workloadSelector",
    "weight",
];

/// A mapping with known fields. Fields that were never asked for are reported when it goes.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) field: Field<'a>,
    pub(super) entries: &'a [Entry],
    pub(super) known: RefCell<Vec<&'static str>>,
    /// How unknown fields are reported, if at all.
    pub(super) unknown_level: Cell<Option<Level>>,
}

impl<'a> Object<'a> {
    /// Unknown fields are errors here: leaving them out would be unsafe.
    pub(super) fn strict(self) -> Self {
        self.unknown_level.set(Some(Level::Error));
        self
    }

    /// Unknown fields are noted, as not used here.
    pub(super) fn open(self) -> Self {
        self.unknown_level.set(Some(Level::Info));
        self
    }

    /// Unknown fields are none of our business.
    pub(super) fn open_quietly(self) -> Self {
        self.unknown_level.set(None);
        self
    }

    /// As [`Self::strict`], once it is known that one of them matters.
    pub(super) fn refuse_unknown(&self) {
        self.unknown_level.set(Some(Level::Error));
    }

    /// Reports fields of specs that stand beside `spec`: left out, a rule would not ask for TLS, and a Sidecar let everything
    /// through. Before `spec` is read, so that whoever reads it knows.
    pub(super) fn refuse_misplaced(&self) {
        self.ignore(&OF_SPECS);
        for Entry { key, position, .. } in self.entries.iter().filter(|entry| OF_SPECS.contains(&&*entry.key))
        {
            let message = format!("`{key}` does not belong here: indent it below `spec`");
            self.field.reader.report(Level::Error, *position, key, message);
        }
    }

    /// Undoes [`Self::open_quietly`].
    pub(super) fn report_unknown(&self) {
        self.unknown_level.set(Some(Level::Warning));
    }

    /// A field's text, if it is one; nothing is reported.
    pub(super) fn peek(&self, name: &str) -> Option<&'a str> {
        match &self.entries.iter().find(|entry| &*entry.key == name)?.value.value {
            Value::Plain(text) | Value::Text(text) => Some(text),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// ` name` of `metadata.name`, or nothing; nothing is reported.
    pub(super) fn peek_name(&self) -> String {
        self.peek_in("metadata", "name").map(|name| format!(" {}", shortened(name))).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The text of the field `inner` of the mapping `name`, if it is one; nothing is reported.
    pub(super) fn peek_in(&self, name: &str, inner: &str) -> Option<&'a str> {
        match self.value_in(name, inner)? {
            Value::Plain(text) | Value::Text(text) => Some(text),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// Whether the mapping `name` has a field `inner`; nothing is reported.
    pub(super) fn has_in(&self, name: &str, inner: &str) -> bool {
        self.value_in(name, inner).is_some()
    }

    fn value_in(&self, name: &str, inner: &str) -> Option<&'a Value> {
        let Value::Mapping(fields) = &self.entries.iter().find(|entry| &*entry.key == name)?.value.value
        else {
            return None;
        };
        Some(&fields.iter().find(|entry| &*entry.key == inner)?.value.value)
    }

    /// The object itself, to report on.
    pub(super) fn field(&self) -> &Field<'a> {
        &self.field
    }

    pub(super) fn position(&self) -> Position {
        self.field.position()
    }

    /// The field's value, unless absent or null.
    pub(super) fn get(&self, name: &'static str) -> Option<Field<'a>> {
        self.known.borrow_mut().push(name);
        let entry = self.entries.iter().find(|entry| &*entry.key == name)?;
        if matches!(entry.value.value, Value::Null) {
            return None;
        }
        Some(Field { reader: self.field.reader, node: &entry.value, path: self.path_of(name) })
    }

    fn path_of(&self, name: &str) -> String {
        if self.field.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.field.path) }
    }

    /// As [`Self::get`]; its absence is an error.
    pub(super) fn require(&self, name: &'static str) -> Option<Field<'a>> {
        let found = self.get(name);
        if found.is_none() {
            match self.written_empty(name) {
                Some((position, beside)) => self.field.reader.report(
                    Level::Error,
                    position,
                    &self.path_of(name),
                    format!("nothing is below `{name}`: indent `{beside}` and what else belongs to it"),
                ),
                None => self.field.error(format!("`{name}` is missing")),
            }
        }
        found
    }

    /// Where a name stands without a value, and what follows it as if it were no part of it.
    fn written_empty(&self, name: &str) -> Option<(Position, &'a str)> {
        let index = self.entries.iter().position(|entry| &*entry.key == name)?;
        let (written, next) = (self.entries.get(index)?, self.entries.get(index + 1)?);
        let is_of_its_own = ["apiVersion", "kind", "metadata", "spec", "status"].contains(&&*next.key);
        (!is_of_its_own).then_some((written.position, &*next.key))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.key == name && !matches!(entry.value.value, Value::Null))
    }

    /// Whether a field that does not exist is probably meant to be `name`: one of those asked for so far.
    pub(super) fn is_misspelt(&self, name: &'static str) -> bool {
        let known = self.known.borrow();
        self.unknown(&known).any(|entry| closest(&entry.key, &known) == Some(name))
    }

    /// Whether there is a field that was not asked for so far.
    pub(super) fn has_unknown(&self) -> bool {
        self.unknown(&self.known.borrow()).next().is_some()
    }

    fn unknown<'b>(&self, known: &'b [&'static str]) -> impl Iterator<Item = &'a Entry> + use<'a, 'b> {
        self.entries.iter().filter(|entry| !known.contains(&&*entry.key))
    }

    /// A list that is there and holds nothing.
    pub(super) fn is_empty_list(&self, name: &str) -> bool {
        let is_it = |entry: &Entry| matches!(&entry.value.value, Value::Sequence(items) if items.is_empty());
        self.entries.iter().any(|entry| &*entry.key == name && is_it(entry))
    }

    /// Fields that exist in Istio's API and change nothing here yet; `consequence` finishes the sentence.
    pub(super) fn not_applied(&self, names: &[&'static str], consequence: &str) {
        for name in names {
            if let Some(field) = self.get(name) {
                let message = format!("`{name}` is not applied yet: {consequence}");
                field.coded_warning(&super::code::EGR0119, message);
            }
        }
    }

    /// Fields that exist and that nobody needs to know about.
    pub(super) fn ignore(&self, names: &[&'static str]) {
        self.known.borrow_mut().extend(names);
    }

    /// An error at a place inside this object.
    pub(super) fn error_at(&self, position: Position, path: &str, message: String) {
        let path = format!("{}.{path}", self.field.path);
        self.field.reader.report_coded(&super::code::IST0106, Level::Error, position, &path, message);
    }

    pub(super) fn text(&self, name: &'static str) -> Option<Arc<str>> {
        self.get(name)?.text()
    }

    pub(super) fn texts(&self, name: &'static str) -> Vec<Arc<str>> {
        self.get(name).map(|field| field.texts()).unwrap_or_default()
    }

    pub(super) fn boolean(&self, name: &'static str) -> Option<bool> {
        self.get(name)?.boolean()
    }

    pub(super) fn duration(&self, name: &'static str) -> Option<Duration> {
        self.get(name)?.duration()
    }

    pub(super) fn list<T>(&self, name: &'static str, decode: impl FnMut(Field<'a>) -> Option<T>) -> Vec<T> {
        self.get(name).map(|field| field.list(decode)).unwrap_or_default()
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        let Some(level) = self.unknown_level.get() else { return };
        let known = self.known.borrow();
        for entry in self.unknown(&known) {
            let path = match self.field.path.as_str() {
                "" => entry.key.to_string(),
                path => format!("{path}.{}", entry.key),
            };
            let message = match level {
                // Nobody will read it.
                _ if self.field.reader.is_full() => String::new(),
                Level::Error => format!("unknown field `{}`{}", entry.key, did_you_mean(&entry.key, &known)),
                Level::Warning => {
                    format!("unknown field `{}`, left out{}", entry.key, did_you_mean(&entry.key, &known))
                }
                Level::Info => format!("`{}` is not used here", entry.key),
            };
            self.field.reader.report(level, entry.position, &path, message);
        }
    }
}
