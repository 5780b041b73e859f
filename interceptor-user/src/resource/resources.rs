//! Resources in the order of their keys, as one version of many: a copy shares all that neither side changes afterwards, and
//! what is different between two is found without looking at what they share. There are ten thousands of them, and a change
//! is mostly one.

use std::sync::Arc;

use super::meta::ResourceKey;
use super::world::Resource;

/// A change copies so many at most.
const CHUNK_MAX: usize = 64;

/// None of them empty; the keys of each before those of the next.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    chunks: Vec<Arc<Vec<Resource>>>,
    len: usize,
}

fn key(resource: &Resource) -> &ResourceKey {
    &resource.meta().key
}

impl Resources {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, wanted: &ResourceKey) -> Option<&Resource> {
        let (chunk, index) = self.find(wanted).ok()?;
        self.chunks.get(chunk)?.get(index)
    }

    pub fn contains_key(&self, wanted: &ResourceKey) -> bool {
        self.find(wanted).is_ok()
    }

    /// Puts it in the place of the one with its key, which is given back.
    pub fn insert(&mut self, resource: Resource) -> Option<Resource> {
        let (chunk, index) = match self.find(key(&resource)) {
            Ok((chunk, index)) => {
                let known = Arc::make_mut(&mut self.chunks[chunk]);
                return Some(std::mem::replace(&mut known[index], resource));
            }
            Err(place) => place,
        };
        self.len += 1;
        let Some(shared) = self.chunks.get_mut(chunk) else {
            self.chunks.push(Arc::new(vec![resource]));
            return None;
        };
        let known = Arc::make_mut(shared);
        known.insert(index, resource);
        if known.len() > CHUNK_MAX {
            let rest = known.split_off(CHUNK_MAX / 2);
            known.shrink_to_fit();
            self.chunks.insert(chunk + 1, Arc::new(rest));
        }
        None
    }

    pub fn remove(&mut self, unwanted: &ResourceKey) -> Option<Resource> {
        let (chunk, index) = self.find(unwanted).ok()?;
        self.len -= 1;
        let known = Arc::make_mut(&mut self.chunks[chunk]);
        let removed = known.remove(index);
        if known.is_empty() {
            self.chunks.remove(chunk);
        }
        Some(removed)
    }

    pub fn values(&self) -> impl Iterator<Item = &Resource> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    pub fn keys(&self) -> impl Iterator<Item = &ResourceKey> {
        self.values().map(key)
    }

    /// Those that do not come before a key.
    pub fn starting_at<'a>(&'a self, first: &ResourceKey) -> impl Iterator<Item = &'a Resource> + use<'a> {
        let (Ok((chunk, index)) | Err((chunk, index))) = self.find(first);
        let rest = self.chunks.get(chunk + 1..).unwrap_or_default();
        let partly = self.chunks.get(chunk).and_then(|chunk| chunk.get(index..)).unwrap_or_default();
        partly.iter().chain(rest.iter().flat_map(|chunk| chunk.iter()))
    }

    /// Calls `note` with each that came, went or is another one now: what it was, and what it is.
    pub fn changes<'a>(
        &'a self,
        after: &'a Self,
        mut note: impl FnMut(Option<&'a Resource>, Option<&'a Resource>),
    ) {
        let (mut old, mut new) = (Cursor::new(self), Cursor::new(after));
        loop {
            if old.skips_same(&mut new) {
                continue;
            }
            let order = match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) if old.is(new) => std::cmp::Ordering::Equal,
                (Some(old), Some(new)) => key(old).cmp(key(new)),
            };
            let gone = order.is_le().then(|| old.next()).flatten();
            let come = order.is_ge().then(|| new.next()).flatten();
            if gone.zip(come).is_none_or(|(gone, come)| gone != come) {
                note(gone, come);
            }
        }
    }

    /// Where a key is, or would be: the chunk, and the place in it.
    fn find(&self, wanted: &ResourceKey) -> Result<(usize, usize), (usize, usize)> {
        let starts_before =
            |chunk: &Arc<Vec<Resource>>| chunk.first().is_some_and(|first| key(first) <= wanted);
        let chunk = self.chunks.partition_point(starts_before).saturating_sub(1);
        let known = self.chunks.get(chunk).map_or(&[][..], |known| known);
        match known.binary_search_by(|resource| key(resource).cmp(wanted)) {
            Ok(index) => Ok((chunk, index)),
            Err(index) => Err((chunk, index)),
        }
    }
}

/// A place among resources.
struct Cursor<'a> {
    chunks: &'a [Arc<Vec<Resource>>],
    index: usize,
}

impl<'a> Cursor<'a> {
    fn new(resources: &'a Resources) -> Self {
        Self { chunks: &resources.chunks, index: 0 }
    }

    fn peek(&self) -> Option<&'a Resource> {
        self.chunks.first()?.get(self.index)
    }

    fn next(&mut self) -> Option<&'a Resource> {
        let next = self.peek()?;
        self.index += 1;
        if self.chunks.first().is_some_and(|chunk| chunk.len() == self.index) {
            self.chunks = &self.chunks[1..];
            self.index = 0;
        }
        Some(next)
    }

    /// Whether both stand before a chunk that they share, which both leave behind.
    fn skips_same(&mut self, other: &mut Self) -> bool {
        let ([one, rest @ ..], [same, other_rest @ ..]) = (self.chunks, other.chunks) else { return false };
        let is_same = self.index == 0 && other.index == 0 && Arc::ptr_eq(one, same);
        if is_same {
            (self.chunks, other.chunks) = (rest, other_rest);
        }
        is_same
    }
}

impl PartialEq for Resources {
    fn eq(&self, other: &Self) -> bool {
        let mut same = self.len == other.len;
        if same {
            self.changes(other, |_, _| same = false);
        }
        same
    }
}

impl Eq for Resources {}

impl Extend<Resource> for Resources {
    fn extend<T: IntoIterator<Item = Resource>>(&mut self, resources: T) {
        for resource in resources {
            self.insert(resource);
        }
    }
}

impl FromIterator<Resource> for Resources {
    fn from_iter<T: IntoIterator<Item = Resource>>(resources: T) -> Self {
        let mut all = Self::default();
        all.extend(resources);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::resource::{Kind, parse};

    const NAMES: usize = 150;

    /// A few hundred, so that they fill several chunks: each name of two kinds, one of which comes in two forms.
    static ALL: LazyLock<Vec<Resource>> = LazyLock::new(|| {
        let specs = [
            ("DestinationRule", "{host: a.example.com}"),
            ("ServiceEntry", "{hosts: ['*.example.com'], resolution: NONE}"),
            ("ServiceEntry", "{hosts: [a.example.com], resolution: NONE}"),
        ];
        let of_name = |name| specs.map(|(kind, spec)| resource(kind, name, spec));
        (0..NAMES).flat_map(of_name).collect()
    });

    fn resource(kind: &str, name: usize, spec: &str) -> Resource {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: n{name}}}\nspec: {spec}\n"
        );
        parse(&"f.yaml".into(), &text, &"default".into()).resources.remove(0)
    }

    proptest! {
        #[test]
        fn they_are_a_map(
            changes in proptest::collection::vec((0..3 * NAMES, 0..4u8), 0..600),
            kept_at in 0..600usize,
        ) {
            let (mut all, mut model) = (Resources::default(), BTreeMap::new());
            let mut before = (all.clone(), model.clone());
            for (number, (which, what)) in changes.into_iter().enumerate() {
                let resource = ALL[which].clone();
                let name = key(&resource).clone();
                if what == 0 {
                    prop_assert_eq!(all.remove(&name), model.remove(&name));
                } else {
                    prop_assert_eq!(all.insert(resource.clone()), model.insert(name.clone(), resource));
                }
                prop_assert_eq!(all.get(&name), model.get(&name));
                if number == kept_at {
                    before = (all.clone(), model.clone());
                }
            }
            prop_assert_eq!(all.len(), model.len());
            prop_assert!(all.values().eq(model.values()));
            let first = ResourceKey { kind: Kind::DestinationRule, namespace: "".into(), name: "".into() };
            prop_assert!(all.starting_at(&first).eq(model.range(first.clone()..).map(|(_, resource)| resource)));
            prop_assert!(before.0.values().eq(before.1.values()), "a copy stays as it was");

            let mut expected = BTreeMap::new();
            for (name, old) in &before.1 {
                expected.insert(name, (Some(old), model.get(name)));
            }
            for (name, new) in &model {
                expected.entry(name).or_insert((None, Some(new)));
            }
            expected.retain(|_, (old, new)| old != new);
            let mut told = Vec::new();
            before.0.changes(&all, |old, new| told.push((old, new)));
            prop_assert_eq!(told, expected.into_values().collect::<Vec<_>>());
            prop_assert_eq!(before.0 == all, before.1 == model);
        }
    }
}
