//! Namespace: its labels and annotations.

use super::meta::Meta;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub meta: Meta,
}
