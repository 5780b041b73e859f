//! A hash map of which one version after another is kept: a copy shares all that neither side changes afterwards, and what
//! is different between two is found without looking at what they share. Keys are configured or our own, as in [`crate::hash`].

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::ops::Index;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::hash::HashMap;

/// A change copies about so many at most.
const PART_LEN_MAX: usize = 64;

/// The same for all maps, so that the parts of two can be compared. Not that of the parts' own hashing: the keys of one part
/// would collide there.
const PARTS: FixedState = FixedState::with_seed(0x7061_7274);

/// Each key is in the part that its hash says; their number is a power of two, or none.
pub struct SharedMap<K, V> {
    parts: Vec<Arc<HashMap<K, V>>>,
    len: usize,
}

impl<K, V> SharedMap<K, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In no order, as the others below.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Eq + Hash, V> SharedMap<K, V> {
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts.get(self.part_of(key))?.get(key)
    }

    pub fn contains_key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Calls `note` with each key whose value came, went or is another one now: what it was, and what it is.
    pub fn changes<'a>(&'a self, after: &'a Self, mut note: impl FnMut(&'a K, Option<&'a V>, Option<&'a V>))
    where
        V: PartialEq,
    {
        if self.parts.len() == after.parts.len() {
            for (old, new) in self.parts.iter().zip(&after.parts).filter(|(old, new)| !Arc::ptr_eq(old, new))
            {
                changes((old.iter(), |key| old.get(key)), (new.iter(), |key| new.get(key)), &mut note);
            }
        } else {
            changes((self.iter(), |key| self.get(key)), (after.iter(), |key| after.get(key)), &mut note);
        }
    }

    fn part_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        part_of(self.parts.len(), key)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
fn part_of<Q: Hash + ?Sized>(parts: usize, key: &Q) -> usize {
    if parts <= 1 { 0 } else { PARTS.hash_one(key) as usize & (parts - 1) }
}

fn changes<'a, K: 'a, V: PartialEq + 'a>(
    (old, before): (impl Iterator<Item = (&'a K, &'a V)>, impl Fn(&K) -> Option<&'a V>),
    (new, after): (impl Iterator<Item = (&'a K, &'a V)>, impl Fn(&K) -> Option<&'a V>),
    note: &mut impl FnMut(&'a K, Option<&'a V>, Option<&'a V>),
) {
    for (key, value) in old {
        let now = after(key);
        if now != Some(value) {
            note(key, Some(value), now);
        }
    }
    new.filter(|(key, _)| before(key).is_none()).for_each(|(key, value)| note(key, None, Some(value)));
}

impl<K: Eq + Hash + Clone, V: Clone> SharedMap<K, V> {
    /// With room for so many.
    pub fn with_capacity(len: usize) -> Self {
        let mut map = Self::default();
        map.grow(len);
        map
    }

    /// Puts a value in the place of the key's present one, which is given back.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.grow(self.len + 1);
        let part = self.part_of(&key);
        let before = Arc::make_mut(self.parts.get_mut(part)?).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// The same unless the key has a value already. Whether it had none.
    pub fn insert_new(&mut self, key: K, value: V) -> bool {
        let is_new = !self.contains_key(&key);
        if is_new {
            self.insert(key, value);
        }
        is_new
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // A part without the key stays shared.
        self.get(key)?;
        let part = self.part_of(key);
        let removed = Arc::make_mut(self.parts.get_mut(part)?).remove(key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// To `len` entries.
    fn grow(&mut self, len: usize) {
        let parts = len.div_ceil(PART_LEN_MAX).next_power_of_two();
        if parts <= self.parts.len() {
            return;
        }
        let mut grown: Vec<HashMap<K, V>> = Vec::new();
        grown.resize_with(parts, HashMap::default);
        for part in std::mem::take(&mut self.parts) {
            for (key, value) in Arc::unwrap_or_clone(part) {
                if let Some(part) = grown.get_mut(part_of(parts, &key)) {
                    part.insert(key, value);
                }
            }
        }
        self.parts = grown.into_iter().map(Arc::new).collect();
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone(), len: self.len }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { parts: Vec::new(), len: 0 }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Eq + Hash, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let mut same = self.len == other.len;
        if same {
            self.changes(other, |_, _, _| same = false);
        }
        same
    }
}

impl<K: Eq + Hash, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Eq + Hash + Borrow<Q>, Q: Eq + Hash + ?Sized, V> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    /// # Panics
    /// When there is no such key, as with any map.
    fn index(&self, key: &Q) -> &V {
        &self.parts[self.part_of(key)][key]
    }
}

impl<K: Eq + Hash + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        let entries = entries.into_iter();
        let mut map = Self::with_capacity(entries.size_hint().0);
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entries(map: &SharedMap<u16, u8>) -> BTreeMap<u16, u8> {
        map.iter().map(|(key, value)| (*key, *value)).collect()
    }

    proptest! {
        /// Keys come from so few that they meet, and are so many that parts are divided.
        #[test]
        fn it_is_a_map_and_copies_stay_as_they_were(
            first in proptest::collection::vec((0..400_u16, 0..3_u8), 0..400),
            then in proptest::collection::vec((0..400_u16, proptest::option::of(0..3_u8)), 0..400),
        ) {
            let mut map: SharedMap<u16, u8> = first.iter().copied().collect();
            let mut model: BTreeMap<u16, u8> = first.into_iter().collect();
            let (before, model_before) = (map.clone(), model.clone());
            for (key, value) in then {
                match value {
                    Some(value) => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    None => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
            }
            prop_assert_eq!((entries(&map), map.len()), (model.clone(), model.len()));
            prop_assert_eq!(entries(&before), model_before.clone());
            prop_assert_eq!(map == before, model == model_before);

            let mut now = model_before;
            before.changes(&map, |key, old, new| {
                assert_eq!((now.get(key), old != new), (old, true));
                match new {
                    Some(new) => now.insert(*key, *new),
                    None => now.remove(key),
                };
            });
            prop_assert_eq!(now, model);
        }
    }

    #[test]
    fn a_change_copies_one_part() {
        let map: SharedMap<usize, usize> = (0..10 * PART_LEN_MAX).map(|key| (key, key)).collect();
        let mut other = map.clone();
        other.insert(7, 8);
        assert!(!other.insert_new(7, 9));
        other.remove(&usize::MAX);
        let copied = map.parts.iter().zip(&other.parts).filter(|(old, new)| !Arc::ptr_eq(old, new)).count();
        assert_eq!((copied, other[&7], map[&7]), (1, 8, 7));
    }
}
