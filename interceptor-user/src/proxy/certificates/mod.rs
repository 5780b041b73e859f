//! Certificates and keys as they are on disk and on the wire: for those who originate TLS and those who end it.

pub(super) mod credential;
mod distinguished_name;
pub(super) mod facts;
pub(super) mod files;
pub(super) mod hash;
pub(super) mod names;
pub(super) mod spiffe;
