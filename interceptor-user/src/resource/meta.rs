//! What every resource has: name, namespace, age, labels, annotations, and where it is written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::decode::Field;
use super::diagnostic::{Diagnostic, Level, Origin, Position};
use super::kind::Kind;
use super::object::Object;

/// Which resource: there is one of each at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    pub kind: Kind,
    /// Empty for what belongs to no namespace.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return write!(formatter, "{} {}", self.kind, self.name);
        }
        write!(formatter, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

pub type Labels = BTreeMap<Arc<str>, Arc<str>>;
pub type Annotations = BTreeMap<Arc<str>, Annotation>;

/// An annotation's value, and where it and its key stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    pub value: Arc<str>,
    pub key_position: Position,
    pub position: Position,
}

impl Annotation {
    /// Where its value stands, in the resource of `meta`.
    pub fn origin(&self, meta: &Meta) -> Origin {
        Origin { file: Arc::clone(&meta.origin.file), position: self.position }
    }
}

/// kubectl's copy of the whole resource: nobody here looks into it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub key: ResourceKey,
    /// RFC 3339 in UTC, as the API server writes it; absent in most files. Sorts by time.
    pub creation_timestamp: Option<Arc<str>>,
    pub labels: Labels,
    pub annotations: Annotations,
    pub origin: Origin,
}

impl Meta {
    /// Of a resource whose own can't be used: its place is its name.
    pub(super) fn nameless(kind: Kind, root: &Object<'_>, file: &Arc<str>, namespace: &Arc<str>) -> Self {
        let written = root.peek_in("metadata", "namespace").filter(|name| is_name(name));
        let namespace = written.map_or_else(|| Arc::clone(namespace), Into::into);
        Self {
            key: ResourceKey { kind, namespace, name: format!("line-{}", root.position().line).into() },
            creation_timestamp: None,
            labels: Labels::new(),
            annotations: Annotations::new(),
            origin: Origin { file: Arc::clone(file), position: root.position() },
        }
    }

    pub fn namespace(&self) -> &Arc<str> {
        &self.key.namespace
    }

    pub fn name(&self) -> &Arc<str> {
        &self.key.name
    }

    /// Istio's order where one of several must win: oldest first, then name, then namespace. Those
    /// without a time come first: they are equally old.
    pub fn age_order(&self) -> (Option<&str>, &str, &str) {
        (self.creation_timestamp.as_deref(), &self.key.name, &self.key.namespace)
    }

    /// A finding about this resource.
    pub fn finding(&self, level: Level, position: Position, field: &str, message: String) -> Diagnostic {
        let position = if position.line == 0 { self.origin.position } else { position };
        Diagnostic {
            level,
            code: None,
            origin: Some(Origin { file: Arc::clone(&self.origin.file), position }),
            resource: self.key.to_string().into(),
            field: field.to_owned(),
            message,
            effect: String::new(),
            mend: String::new(),
        }
    }
}

/// Reads `metadata`; a resource without a usable name can't be used.
pub(super) fn read(kind: Kind, root: &Object<'_>, file: &Arc<str>, namespace: &Arc<str>) -> Option<Meta> {
    let metadata = root.require("metadata")?.object()?.open_quietly();
    let name = metadata.require("name").and_then(|field| name_of(&field));
    let namespace = match metadata.get("namespace") {
        _ if !kind.is_namespaced() => Some("".into()),
        Some(field) => name_of(&field),
        None => Some(Arc::clone(namespace)),
    };
    let creation_timestamp = metadata.get("creationTimestamp").and_then(|field| field.text());
    Some(Meta {
        key: ResourceKey { kind, namespace: namespace?, name: name? },
        creation_timestamp,
        labels: labels(&metadata, "labels"),
        annotations: annotations(&metadata),
        origin: Origin { file: Arc::clone(file), position: root.position() },
    })
}

/// Labels as Kubernetes has them. What is no text is left out, with a warning.
pub(super) fn labels(metadata: &Object<'_>, name: &'static str) -> Labels {
    let entries = metadata.get(name).map(|field| field.entries()).unwrap_or_default();
    entries.into_iter().filter_map(|(key, value)| Some((key.value.into(), soft_text(&value)?))).collect()
}

pub(super) fn annotations(metadata: &Object<'_>) -> Annotations {
    let entries = metadata.get("annotations").map(|field| field.entries()).unwrap_or_default();
    let entries = entries.into_iter().filter(|(key, _)| key.value != LAST_APPLIED);
    entries
        .filter_map(|(key, field)| {
            let (key_position, position) = (key.position, field.position());
            let value = soft_text(&field)?;
            Some((key.value.into(), Annotation { value, key_position, position }))
        })
        .collect()
}

/// A text; anything else leaves out one entry, not the resource.
fn soft_text(field: &Field<'_>) -> Option<Arc<str>> {
    if field.is_text() {
        return field.text();
    }
    field.warning("expected text: write it in quotes; left out");
    None
}

fn name_of(field: &Field<'_>) -> Option<Arc<str>> {
    let text = field.text()?;
    if is_name(&text) {
        return Some(text);
    }
    field.error(format!("`{text}` is not a name: expected lower case letters, digits, `-` and `.`"));
    None
}

/// Whether Kubernetes lets a label have this name and value.
pub(super) fn is_label(name: &str, value: &str) -> bool {
    let (prefix, name) = name.split_once('/').map_or((None, name), |(prefix, name)| (Some(prefix), name));
    let is_word = |text: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric();
        let is_inside = text.chars().all(|c| is_plain(c) || matches!(c, '-' | '_' | '.'));
        text.len() <= 63 && is_inside && text.starts_with(is_plain) && text.ends_with(is_plain)
    };
    prefix.is_none_or(is_name) && is_word(name) && (value.is_empty() || is_word(value))
}

/// A DNS-1123 name, as Kubernetes wants them.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inside = text.chars().all(|c| plain(c) || matches!(c, '-' | '.'));
    text.len() <= 253 && inside && text.starts_with(plain) && text.ends_with(plain)
}
