//! What every resource has: kind, name, namespace, age, and where it is written.

use std::fmt;
use std::sync::Arc;

use super::decode::Field;
use super::diagnostic::{Diagnostic, Level, Origin, Position};
use super::object::Object;

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    ServiceEntry,
    VirtualService,
    DestinationRule,
    Gateway,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ServiceEntry => "ServiceEntry",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
        })
    }
}

/// Which resource: there is one of each at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    pub kind: Kind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub key: ResourceKey,
    /// RFC 3339 in UTC, as the API server writes it; absent in most files. Sorts by time.
    pub creation_timestamp: Option<Arc<str>>,
    pub origin: Origin,
}

impl Meta {
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
        }
    }
}

/// Reads `metadata`; a resource without a usable name can't be used.
pub(super) fn read(kind: Kind, root: &Object<'_>, file: &Arc<str>, namespace: &Arc<str>) -> Option<Meta> {
    let metadata = root.require("metadata")?.object()?.open_quietly();
    let name = metadata.require("name").and_then(|field| name_of(&field));
    let namespace = match metadata.get("namespace") {
        Some(field) => name_of(&field),
        None => Some(Arc::clone(namespace)),
    };
    let creation_timestamp = metadata.get("creationTimestamp").and_then(|field| field.text());
    Some(Meta {
        key: ResourceKey { kind, namespace: namespace?, name: name? },
        creation_timestamp,
        origin: Origin { file: Arc::clone(file), position: root.position() },
    })
}

/// A DNS-1123 name, as Kubernetes wants them.
fn name_of(field: &Field<'_>) -> Option<Arc<str>> {
    let text = field.text()?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inside = text.chars().all(|c| plain(c) || matches!(c, '-' | '.'));
    if text.len() <= 253 && inside && text.starts_with(plain) && text.ends_with(plain) {
        return Some(text);
    }
    field.error(format!("`{text}` is not a name: expected lower case letters, digits, `-` and `.`"));
    None
}
