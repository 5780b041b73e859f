//! exportTo: in which namespaces a resource is seen.

use std::sync::Arc;

use super::decode::Field;
use super::object::Object;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExportTo {
    /// Absent or empty: what MeshConfig says for the kind, everywhere when it says nothing.
    Unset,
    /// `*`
    All,
    /// `.`, `~` and names.
    Only { own: bool, namespaces: Vec<Arc<str>> },
}

impl ExportTo {
    /// What holds, when `default` holds for those that say nothing.
    #[must_use]
    pub fn or<'a>(&'a self, default: &'a Self) -> &'a Self {
        if *self == Self::Unset { default } else { self }
    }

    /// The names of an `exportTo` list.
    pub(super) fn of(names: Vec<Arc<str>>) -> Self {
        if names.is_empty() {
            return Self::Unset;
        }
        if names.iter().any(|name| &**name == "*") {
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
            Self::Unset | Self::All => true,
            Self::Only { own, namespaces } => {
                (*own && home == namespace) || namespaces.iter().any(|name| **name == *namespace)
            }
        }
    }

    pub(crate) fn own_only() -> Self {
        Self::Only { own: true, namespaces: Vec::new() }
    }

    /// Exactly `.`.
    pub fn is_own_only(&self) -> bool {
        matches!(self, Self::Only { own: true, namespaces } if namespaces.is_empty())
    }
}

/// Reads `exportTo`.
pub(super) fn read(spec: &Object<'_>) -> ExportTo {
    spec.get("exportTo").map_or(ExportTo::Unset, |field| read_field(&field))
}

/// A list as `exportTo` and MeshConfig's defaults have them.
pub(super) fn read_field(field: &Field<'_>) -> ExportTo {
    let names = field.texts();
    let special = names.iter().any(|name| matches!(&**name, "*" | "~"));
    if special && names.len() > 1 {
        field.error("`*` and `~` may only stand alone in exportTo");
    }
    ExportTo::of(names)
}
