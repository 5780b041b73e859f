//! Istio's excludeInterfaces: names of interfaces by which connections leave untouched, and which destinations that
//! means.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use serde::{Serialize, Serializer};

use super::{Cidr, ParseError};

/// IFNAMSIZ, with the byte that ends it.
const NAME_SIZE: usize = 16;

/// The name of a network interface, or, as iptables has it, the beginning of names with `+` behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName(String);

impl InterfaceName {
    pub fn is_of(&self, interface: &str) -> bool {
        match self.0.strip_suffix('+') {
            Some(start) => interface.starts_with(start),
            None => self.0 == interface,
        }
    }
}

/// As the kernel takes names: at most 15 bytes, no white space, `/` or `:`.
impl FromStr for InterfaceName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let is_valid = !text.is_empty()
            && text.len() < NAME_SIZE
            && text != "."
            && text != ".."
            && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        is_valid.then(|| Self(text.to_owned())).ok_or_else(|| ParseError::Interface { text: text.to_owned() })
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for InterfaceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Comma-separated names, or nothing. Empty items count for nothing, as in istio-iptables.
pub fn parse_interfaces(text: &str) -> Result<Vec<InterfaceName>, ParseError> {
    text.split(',').filter(|item| !item.is_empty()).map(str::parse).collect()
}

/// Which destinations leave by an excluded interface. The longest range that holds an address says whether it does; an
/// address that none holds does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceRanges(BTreeMap<Cidr, bool>);

impl InterfaceRanges {
    /// In order: a range comes after those that hold it.
    pub fn iter(&self) -> impl Iterator<Item = (Cidr, bool)> + '_ {
        self.0.iter().map(|(&range, &leaves)| (range, leaves))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The range that says it of an address.
    pub fn holding(&self, address: IpAddr) -> Option<(Cidr, bool)> {
        let holding = self.iter().filter(|(range, _)| range.contains(address));
        holding.max_by_key(|(range, _)| range.prefix_len())
    }
}

/// Ranges that say what the one around them says are left out.
impl FromIterator<(Cidr, bool)> for InterfaceRanges {
    fn from_iter<I: IntoIterator<Item = (Cidr, bool)>>(ranges: I) -> Self {
        let mut kept = BTreeMap::new();
        let mut holders: Vec<(Cidr, bool)> = Vec::new();
        for (range, leaves) in ranges.into_iter().collect::<BTreeMap<_, _>>() {
            while holders.last().is_some_and(|(holder, _)| !holder.contains(range.network())) {
                holders.pop();
            }
            if holders.last().map_or(leaves, |(_, of_holder)| *of_holder != leaves) {
                kept.insert(range, leaves);
                holders.push((range, leaves));
            }
        }
        Self(kept)
    }
}

/// `10.9.0.0/16`, and `!10.9.1.0/24` for a range in it that does not leave by an excluded interface.
impl InterfaceRanges {
    pub fn texts(&self) -> Vec<String> {
        self.iter().map(|(range, leaves)| format!("{}{range}", if leaves { "" } else { "!" })).collect()
    }
}

impl Serialize for InterfaceRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.texts().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        let names = |text: &str| {
            parse_interfaces(text).map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(names(""), Ok(vec![]));
        assert_eq!(names("net1,eth0.100,"), Ok(vec!["net1".into(), "eth0.100".into()]));
        assert_eq!(names("fifteen-bytes-x"), Ok(vec!["fifteen-bytes-x".into()]));
        for bad in ["sixteen-bytes-xx", "a/b", "eth0, net1", "a:1", "..", "net1\t", "*é/"] {
            let error = names(bad).unwrap_err().to_string();
            assert!(error.contains("is not the name of a network interface"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_plus_stands_for_any_end() {
        let name: InterfaceName = "net+".parse().unwrap();
        assert!(name.is_of("net1") && name.is_of("net") && !name.is_of("eth0"));
        assert!(!"net1".parse::<InterfaceName>().unwrap().is_of("net10"));
    }

    #[test]
    fn ranges_that_say_nothing_new_are_left_out() {
        let said =
            [("0.0.0.0/0", false), ("10.0.0.0/8", true), ("10.1.0.0/16", true), ("10.1.2.0/24", false)];
        let ranges: InterfaceRanges =
            said.iter().map(|(range, leaves)| (range.parse().unwrap(), *leaves)).collect();
        assert_eq!(ranges.texts(), ["10.0.0.0/8", "!10.1.2.0/24"]);
        assert_eq!(ranges.holding("10.1.2.3".parse().unwrap()).map(|(_, leaves)| leaves), Some(false));
        assert_eq!(ranges.holding("11.1.2.3".parse().unwrap()), None);
    }
}
