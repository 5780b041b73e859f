//! Hash maps and sets for keys that are configured or our own, never chosen by who sends traffic: a fast hash does for
//! them, where std's would be a good part of a lookup.

use std::collections;

use foldhash::fast::RandomState;

pub type HashMap<K, V> = collections::HashMap<K, V, RandomState>;
pub type HashSet<T> = collections::HashSet<T, RandomState>;
