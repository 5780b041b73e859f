//! The resources of one run: read, compiled, and their mistakes told; and again whenever the files change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};

use anyhow::Context;
use rustix::event::{EventfdFlags, eventfd};

use super::findings::Findings;
use crate::analysis::{self, Audience};
use crate::compile::{CompileSettings, Compiler, NodePaths, Role};
use crate::resource::{Diagnostic, World};
use crate::settings::ExecSettings;
use crate::snapshot::Snapshot;
use crate::source::{FileSource, Texts, Watching};

/// What is configured, and where it comes from.
#[derive(Debug)]
pub(super) struct Configuration {
    source: FileSource,
    compiler: Compiler,
    pub(super) snapshot: Snapshot,
    told: Findings,
}

impl Configuration {
    /// Fails when a path can't be read. A resource that can't be used is told of and left out.
    pub(super) fn open(settings: &ExecSettings) -> anyhow::Result<Self> {
        let (source, world, diagnostics) =
            FileSource::open(settings.config.clone(), settings.mesh_config.clone())?;
        let mut compiler = Compiler::new(CompileSettings {
            client: settings.client.clone(),
            role: Role::Workload,
            outbound_traffic_policy: settings.outbound_traffic_policy,
            unix_endpoints: NodePaths::Any,
            tls_files: NodePaths::Any,
        });
        let mut told = Findings::default();
        let (snapshot, findings) = compiler.compile(&world);
        tell(&world, compiler.settings(), [diagnostics, findings], source.texts(), &mut told);
        Ok(Self { source, compiler, snapshot, told })
    }

    /// Compiles what the files hold whenever they change, until the answer is dropped.
    pub(super) fn follow(self) -> anyhow::Result<(Snapshot, Changes)> {
        let changed =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("can't make an event")?;
        let wake = changed.try_clone().context("can't duplicate an event")?;
        let (sender, compiled_ones) = channel();
        let (mut compiler, mut told) = (self.compiler, self.told);
        let watching = self.source.watch(move |world, diagnostics, texts| {
            let (snapshot, findings) = compiler.compile(world);
            // An error is the other side gone, or woken already.
            let _told =
                sender.send(snapshot).is_ok() && rustix::io::write(&wake, &1_u64.to_ne_bytes()).is_ok();
            tell(world, compiler.settings(), [diagnostics, findings], texts, &mut told);
        })?;
        Ok((self.snapshot, Changes { changed, compiled: compiled_ones, _watching: watching }))
    }
}

/// Compiled configurations as they come; readable when there is one.
#[derive(Debug)]
pub(super) struct Changes {
    changed: OwnedFd,
    compiled: Receiver<Snapshot>,
    _watching: Watching,
}

impl Changes {
    /// What is configured now, if that changed.
    pub(super) fn latest(&self) -> Option<Snapshot> {
        let mut count = [0; 8];
        // Nothing to read is no change.
        let _reset = rustix::io::read(&self.changed, &mut count).is_ok();
        self.compiled.try_iter().last()
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changed.as_fd()
    }
}

/// What is wrong, once the snapshot is on its way: nothing waits for it.
fn tell(
    world: &World,
    settings: &CompileSettings,
    known: [Vec<Diagnostic>; 2],
    texts: &Texts,
    told: &mut Findings,
) {
    let client = Audience::Client(&settings.client);
    let mut diagnostics = known.concat();
    diagnostics.extend(analysis::find(world, client));
    told.tell(diagnostics, texts);
}
