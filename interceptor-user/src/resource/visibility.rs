//! exportTo: in which namespaces a resource is seen.

use std::sync::Arc;

use super::object::Object;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExportTo {
    /// Absent, empty or `*`.
    All,
    /// `.`, `~` and names.
    Only { own: bool, namespaces: Vec<Arc<str>> },
}

impl ExportTo {
    /// The names of an `exportTo` list; an empty one is everywhere.
    pub(super) fn of(names: Vec<Arc<str>>) -> Self {
        if names.is_empty() || names.iter().any(|name| &**name == "*") {
            return Self::All;
        }
        let own = names.iter().any(|name| &**name == ".");
        let mut namespaces: Vec<_> = names.into_iter().filter(|name| !matches!(&**name, "." | "~")).collect();
        namespaces.sort_unstable();
        Self::Only { own, namespaces }
    }

    /// Whether a client in `namespace` sees a resource that lives in `home`.
    pub fn reaches(&self, home: &str, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only { own, namespaces } => {
                (*own && home == namespace) || namespaces.iter().any(|name| **name == *namespace)
            }
        }
    }

    /// Exactly `.`.
    pub fn is_own_only(&self) -> bool {
        matches!(self, Self::Only { own: true, namespaces } if namespaces.is_empty())
    }
}

/// Reads `exportTo`.
pub(super) fn read(spec: &Object<'_>) -> ExportTo {
    let Some(field) = spec.get("exportTo") else { return ExportTo::All };
    let names = field.texts();
    let special = names.iter().any(|name| matches!(&**name, "*" | "~"));
    if special && names.len() > 1 {
        field.error("`*` and `~` may only stand alone in exportTo");
    }
    ExportTo::of(names)
}
