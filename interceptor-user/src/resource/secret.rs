//! Secret: which keys it has. Their values are never kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::meta::Meta;
use super::object::Object;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub meta: Meta,
    /// `tls.crt`, `ca.crt` …
    pub keys: BTreeSet<Arc<str>>,
}

pub(super) fn read(meta: Meta, root: &Object<'_>) -> Secret {
    let fields = ["data", "stringData"].into_iter().filter_map(|name| root.get(name));
    let entries = fields.flat_map(|field| field.entries());
    Secret { meta, keys: entries.map(|(key, _)| key.value.into()).collect() }
}
