//! Host names to values, with exact names before wildcards and longer wildcards before shorter ones.

use std::sync::Arc;

use crate::shared_map::SharedMap;

/// Values by host: `www.example.com`, `*.example.com` or `*`. Names are compared in lower case.
/// A lookup costs one hash for the whole name and one for each length that wildcards here have.
/// A copy shares what neither side changes afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMap<T> {
    exact: SharedMap<Arc<str>, T>,
    /// By suffix, without its `*` (`.example.com`; `` for `*`).
    suffixes: SharedMap<Arc<str>, T>,
    /// The lengths of the suffixes in bytes, longest first.
    suffix_lengths: Vec<usize>,
}

/// Of a name that matches; the greater, the more specific.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Specificity {
    /// By a suffix of so many bytes.
    Wildcard(usize),
    Exact,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: SharedMap::default(), suffixes: SharedMap::default(), suffix_lengths: Vec::new() }
    }
}

impl<T: Clone> HostMap<T> {
    /// Adds `value` under `host`. The first value of a name stays: returns false when there is one.
    pub fn insert(&mut self, host: impl Into<Arc<str>>, value: T) -> bool {
        let mut host: Arc<str> = host.into();
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            host = host.to_ascii_lowercase().into();
        }
        let suffix: Option<Arc<str>> = host.strip_prefix('*').map(Arc::from);
        let length = suffix.as_ref().map(|suffix| suffix.len());
        let (names, name) = match suffix {
            Some(suffix) => (&mut self.suffixes, suffix),
            None => (&mut self.exact, host),
        };
        if !names.insert_new(name, value) {
            return false;
        }
        if let Some(length) = length
            && let Err(position) = self.suffix_lengths.binary_search_by(|other| length.cmp(other))
        {
            self.suffix_lengths.insert(position, length);
        }
        true
    }

    /// Puts others in the place of values for which there is another.
    pub fn replace_values(&mut self, mut other: impl FnMut(&T) -> Option<T>) {
        for names in [&mut self.exact, &mut self.suffixes] {
            let replaced = names.iter().filter_map(|(name, value)| Some((Arc::clone(name), other(value)?)));
            for (name, value) in replaced.collect::<Vec<_>>() {
                names.insert(name, value);
            }
        }
    }

    /// Gives a name without wildcard, in lower case, this value, or none.
    pub fn set_exact(&mut self, host: &Arc<str>, value: Option<T>) {
        match value {
            Some(value) => self.exact.insert(Arc::clone(host), value),
            None => self.exact.remove(host),
        };
    }
}

impl<T> HostMap<T> {
    /// The value of this name itself, in lower case, and of no other that matches it.
    pub fn own(&self, name: &str) -> Option<&T> {
        match name.strip_prefix('*') {
            Some(suffix) => self.suffixes.get(suffix),
            None => self.exact.get(name),
        }
    }

    /// The value of the most specific name that matches. `host` has no port. `*.a.b` does not match
    /// `a.b`. One trailing dot is ignored.
    pub fn get(&self, host: &str) -> Option<&T> {
        self.find(host).map(|(value, _)| value)
    }

    /// The same with how specific that name is, to compare with names of other maps.
    pub fn find(&self, host: &str) -> Option<(&T, Specificity)> {
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            lower.as_str()
        } else {
            host
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let wildcard = |length: &usize| {
            let start = host.len().checked_sub(*length).filter(|start| *start > 0)?;
            Some((self.suffixes.get(host.get(start..)?)?, Specificity::Wildcard(*length)))
        };
        let exact = self.exact.get(host).map(|value| (value, Specificity::Exact));
        exact.or_else(|| self.suffix_lengths.iter().find_map(wildcard))
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty()
    }

    /// All names with their values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (String, &T)> {
        let exact = self.exact.iter().map(|(host, value)| (host.to_string(), value));
        exact.chain(self.suffixes.iter().map(|(suffix, value)| (format!("*{suffix}"), value)))
    }
}

#[cfg(test)]
mod tests {
    use super::HostMap;

    #[test]
    fn the_most_specific_name_wins() {
        let mut map = HostMap::default();
        for host in ["*", "*.example.com", "*.b.example.com", "a.example.com"] {
            assert!(map.insert(host, host));
        }
        assert!(!map.insert("A.example.com", "second"));
        for (host, expected) in [
            ("a.example.com", "a.example.com"),
            ("A.Example.com.", "a.example.com"),
            ("x.example.com", "*.example.com"),
            ("x.b.example.com", "*.b.example.com"),
            ("b.example.com", "*.example.com"),
            ("example.com", "*"),
        ] {
            assert_eq!(map.get(host), Some(&expected), "{host}");
        }
    }

    #[test]
    fn a_wildcard_does_not_match_its_parent() {
        let mut map = HostMap::default();
        map.insert("*.example.com", ());
        assert_eq!(map.get("example.com"), None);
        assert_eq!(map.get(".example.com"), None);
    }

    use proptest::prelude::*;

    /// What the map must do, said slowly: exact names first, then the longest suffix.
    fn model<'a>(names: &'a [String], host: &str) -> Option<&'a String> {
        let matching = |name: &&String| match name.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => **name == host,
        };
        names.iter().filter(matching).max_by_key(|name| (!name.starts_with('*'), name.len()))
    }

    proptest! {
        #[test]
        fn it_finds_what_the_model_finds(
            names in proptest::collection::vec("\\*?(\\.?[ab]){0,4}", 0..12),
            host in "[ab](\\.?[abé]){0,5}",
        ) {
            let mut map = HostMap::default();
            for name in &names {
                map.insert(&**name, name.clone());
            }
            prop_assert_eq!(map.get(&host), model(&names, &host));
            prop_assert_eq!(map.is_empty(), names.is_empty());

            let exact: std::sync::Arc<str> = host.as_str().into();
            map.set_exact(&exact, None);
            let without: Vec<String> = names.iter().filter(|name| **name != host).cloned().collect();
            prop_assert_eq!(map.get(&host), model(&without, &host));
            map.set_exact(&exact, Some(host.clone()));
            prop_assert_eq!((map.get(&host), map.own(&host)), (Some(&host), Some(&host)));
        }
    }
}
