//! Identities of the mesh that expire while a command runs: no file changes then, and nobody would look.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::analysis::{self, Flags};
use crate::compile::CompileSettings;
use crate::proxy::upstream::identity_lasts;
use crate::resource::{Diagnostic, World};
use crate::source::Texts;

/// How long nobody looks, at most: an identity may be replaced by one that ends sooner.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Resources that ask for an identity.
pub(super) struct Expiring {
    world: Arc<World>,
    pub(super) texts: Texts,
    /// How long from the last look.
    pub(super) next_look: Duration,
}

impl Expiring {
    /// `None` where no identity is asked for: then the world need not be kept.
    pub(super) fn among(world: Arc<World>, texts: Texts, settings: &CompileSettings) -> Option<Self> {
        let (_, next_look) = expired(&world, settings);
        Some(Self { world, texts, next_look: next_look? })
    }

    /// What has expired.
    pub(super) fn look(&mut self, settings: &CompileSettings) -> Vec<Diagnostic> {
        let (found, next_look) = expired(&self.world, settings);
        self.next_look = next_look.unwrap_or(LOOK_INTERVAL);
        found
    }
}

/// Files that are gone or wrong are no reason to tell: what they held goes on acting until it expires.
fn expired(world: &World, settings: &CompileSettings) -> (Vec<Diagnostic>, Option<Duration>) {
    let next_look = Cell::new(None);
    let found = analysis::unusable_files(world, Flags::of(settings), |tls| {
        let lasts = identity_lasts(tls)?;
        let remaining = lasts.as_ref().map_or(LOOK_INTERVAL, |remaining| remaining.unwrap_or(LOOK_INTERVAL));
        next_look.set(Some(next_look.get().unwrap_or(LOOK_INTERVAL).min(remaining)));
        lasts.err()
    });
    (found, next_look.get())
}
