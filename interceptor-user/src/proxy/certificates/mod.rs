//! Certificates and keys as they are on disk and on the wire: for those who originate TLS and those who end it.

pub(super) mod credential;
pub(crate) mod distinguished_name;
pub(super) mod expiry;
pub(super) mod facts;
pub(crate) mod files;
pub(crate) mod hash;
pub(super) mod names;
pub(super) mod pace;
pub(crate) mod spiffe;
