//! Host names to values, with exact names before wildcards and longer wildcards before shorter ones.

use std::collections::HashMap;

/// Values by host: `www.example.com`, `*.example.com` or `*`. Names are compared in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMap<T> {
    exact: HashMap<Box<str>, T>,
    /// Suffixes without their `*` (`.example.com`; `` for `*`), longest first.
    suffixes: Vec<(Box<str>, T)>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), suffixes: Vec::new() }
    }
}

impl<T> HostMap<T> {
    /// Adds `value` under `host`. The first value of a name stays: returns false when there is one.
    pub fn insert(&mut self, host: &str, value: T) -> bool {
        let host = host.to_ascii_lowercase();
        let Some(suffix) = host.strip_prefix('*') else {
            return match self.exact.entry(host.into_boxed_str()) {
                std::collections::hash_map::Entry::Occupied(_) => false,
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(value);
                    true
                }
            };
        };
        let position = self.suffixes.partition_point(|(other, _)| {
            other.len() > suffix.len() || (other.len() == suffix.len() && **other < *suffix)
        });
        if self.suffixes.get(position).is_some_and(|(other, _)| **other == *suffix) {
            return false;
        }
        self.suffixes.insert(position, (suffix.into(), value));
        true
    }

    /// The value of the most specific name that matches. `host` has no port. `*.a.b` does not match
    /// `a.b`. One trailing dot is ignored.
    pub fn get(&self, host: &str) -> Option<&T> {
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            lower.as_str()
        } else {
            host
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if let Some(value) = self.exact.get(host) {
            return Some(value);
        }
        self.suffixes
            .iter()
            .find(|(suffix, _)| host.len() > suffix.len() && host.ends_with(&**suffix))
            .map(|(_, value)| value)
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty()
    }

    /// All names with their values: exact ones in no order, then wildcards, longest first.
    pub fn iter(&self) -> impl Iterator<Item = (String, &T)> {
        self.exact
            .iter()
            .map(|(host, value)| (host.to_string(), value))
            .chain(self.suffixes.iter().map(|(suffix, value)| (format!("*{suffix}"), value)))
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
}
