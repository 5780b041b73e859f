//! What files hold after a change, in a time that the change decides and not all that is there.

use std::sync::Arc;

use super::files::FileSource;
use super::read::{self, Found, ReadError};
use super::texts::{Held, Texts};
use crate::resource::{Diagnostic, ParsedFile, World};

/// What was read, with a new world if it is another one.
pub(super) struct Taken {
    pub(super) world: Option<Arc<World>>,
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) texts: Texts,
}

impl Held {
    /// Whether the world has all that it holds, as it holds it, and nothing else because of it.
    fn is_plain(&self) -> bool {
        let ParsedFile { refused, unreadable, .. } = &self.parsed;
        refused.is_empty() && !unreadable && !self.is_blank
    }
}

impl Texts {
    /// How many resources all files hold.
    fn resources(&self) -> usize {
        self.0.values().map(|held| held.parsed.resources.len()).sum()
    }
}

impl FileSource {
    /// What the files hold now, made of what they held before by taking out and putting in what has changed. `None` where
    /// more than the files' own text decides that: a file came or went, or anything is refused, unreadable, written twice
    /// or kept from before.
    pub(super) fn patched(
        &self,
        found: &[Found],
        looked_at: &[Result<Arc<Held>, ReadError>],
    ) -> Option<Taken> {
        if self.mesh_config.is_some()
            || found.len() != self.texts.0.len()
            || self.texts.resources() != self.world.resources.len()
            || self.world.resources.is_empty()
        {
            return None;
        }
        let mut resources = None;
        let mut texts = Texts::default();
        let mut diagnostics = Vec::new();
        for ((path, _), held) in found.iter().zip(looked_at) {
            let (file, held) = (read::name_of(path), held.as_ref().ok()?);
            let before = self.texts.0.get(&file)?;
            if !(before.is_plain() && held.is_plain()) {
                return None;
            }
            diagnostics.extend(held.parsed.diagnostics.iter().cloned());
            if !Arc::ptr_eq(before, held) && before.parsed.resources != held.parsed.resources {
                let changed: &mut (Vec<_>, Vec<_>) = resources.get_or_insert_default();
                changed.0.extend(&before.parsed.resources);
                changed.1.extend(&held.parsed.resources);
            }
            texts.0.insert(file, Arc::clone(held));
        }
        let Some((gone, come)) = resources else { return Some(Taken { world: None, diagnostics, texts }) };
        let mut resources = self.world.resources.clone();
        for resource in gone {
            resources.remove(&resource.meta().key);
        }
        for resource in come {
            if resources.insert(resource.clone()).is_some() {
                return None;
            }
        }
        // Nothing at all is worth a warning.
        if resources.is_empty() {
            return None;
        }
        let world = World { mesh: self.world.mesh.clone(), resources };
        Some(Taken { world: Some(Arc::new(world)), diagnostics, texts })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::files::Touched;

    const FILES: [&str; 3] = ["a.yaml", "b.yaml", "c.yaml"];

    /// A file of resources out of so few that the same may stand in two; without any it holds a comment.
    fn text(entries: &[(u8, bool)]) -> String {
        let entry = |(name, is_wide): &(u8, bool)| {
            let host = if *is_wide { "'*.example.com'" } else { "a.example.com" };
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: n{name}}}\nspec: {{hosts: \
                 [{host}], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: NONE}}\n"
            )
        };
        "# resources\n".to_owned() + &entries.iter().map(entry).collect::<String>()
    }

    fn open(directory: &std::path::Path) -> FileSource {
        FileSource::open(vec![directory.to_owned()], None).unwrap().0
    }

    proptest! {
        #[test]
        fn a_change_comes_to_what_reading_everything_would(
            changes in proptest::collection::vec(
                (0..3usize, proptest::collection::vec((0..4u8, any::<bool>()), 0..3)),
                1..8,
            ),
        ) {
            let directory = tempfile::tempdir().unwrap();
            for file in FILES {
                std::fs::write(directory.path().join(file), text(&[])).unwrap();
            }
            let mut source = open(directory.path());
            for (file, entries) in changes {
                std::fs::write(directory.path().join(FILES[file]), text(&entries)).unwrap();
                let before = source.latest().0.clone();
                let changed = source.reload(&Touched::All);
                let afresh = open(directory.path());
                prop_assert_eq!(source.latest(), afresh.latest());
                prop_assert!(changed || before == *source.latest().0);
            }
        }
    }
}
