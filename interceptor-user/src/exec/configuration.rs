//! The resources of one run: read, compiled, and their mistakes told; and again whenever the files change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;

use anyhow::Context;
use rustix::event::{EventfdFlags, eventfd};

use super::expiring::Expiring;
use super::findings::Findings;
use crate::analysis::{self, Audience, Flags};
use crate::compile::{CompileSettings, Compiler, NodePaths, Role};
use crate::datapath;
use crate::proxy::upstream::look_at_files;
use crate::resource::{Diagnostic, World};
use crate::settings::ExecSettings;
use crate::snapshot::Snapshot;
use crate::source::{FileSource, Texts, Watching};

/// What is configured, and where it comes from.
#[derive(Debug)]
pub(super) struct Configuration {
    source: FileSource,
    world: Arc<World>,
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
        // Both take long, and neither needs the other.
        let own = compiler.settings().clone();
        let (analysed, (snapshot, findings)) = thread::scope(|scope| {
            let analysing = scope.spawn(|| analyse(&world, &own));
            let compiled = compiler.compile(&world);
            (analysing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), compiled)
        });
        told.tell(diagnostics, [findings, analysed].concat(), source.texts());
        datapath::release_free_memory();
        Ok(Self { source, world, compiler, snapshot, told })
    }

    /// Compiles what the files hold whenever they change, until the answer is dropped.
    pub(super) fn follow(self) -> anyhow::Result<(Snapshot, Changes)> {
        let changed =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("can't make an event")?;
        let wake = changed.try_clone().context("can't duplicate an event")?;
        let (sender, compiled_ones) = channel();
        let mut compiler = self.compiler;
        let looked_at = (self.world, self.source.texts().clone());
        let telling = tell_apart(compiler.settings().clone(), self.told, looked_at)?;
        let watching = self.source.watch(move |world, diagnostics, texts| {
            let (snapshot, findings) = compiler.compile(world);
            // An error is the other side gone, or woken already.
            let _told =
                sender.send(snapshot).is_ok() && rustix::io::write(&wake, &1_u64.to_ne_bytes()).is_ok();
            compiler.let_go();
            // An error is that thread gone, which ends with this one.
            let _telling = telling.send((Arc::clone(world), [diagnostics, findings], texts.clone())).is_ok();
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

/// A world, what is known of its mistakes already, and the texts that they are in.
type Untold = (Arc<World>, [Vec<Diagnostic>; 2], Texts);

/// Tells what is wrong on a thread of its own, until the answer is dropped: the next change does not wait for the last
/// one's analysis, which takes longer than all the rest. Of several changes only the last is told of. Identities that
/// expire are told of without a change.
fn tell_apart(
    settings: CompileSettings,
    mut told: Findings,
    (world, texts): (Arc<World>, Texts),
) -> anyhow::Result<Sender<Untold>> {
    let (sender, untold) = channel::<Untold>();
    let tell_each = move || {
        let mut expiring = Expiring::among(world, texts, &settings);
        loop {
            let next = match &expiring {
                None => untold.recv().map_err(RecvTimeoutError::from),
                Some(expiring) => untold.recv_timeout(expiring.next_look),
            };
            match next {
                Ok(next) => {
                    let (world, known, texts) = untold.try_iter().last().unwrap_or(next);
                    tell(&world, &settings, known, &texts, &mut told);
                    expiring = Expiring::among(world, texts, &settings);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(expiring) = &mut expiring {
                        told.tell_also(expiring.look(&settings), &expiring.texts);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            datapath::release_free_memory();
        }
    };
    thread::Builder::new().name("findings".into()).spawn(tell_each).context("can't start a thread")?;
    Ok(sender)
}

/// What is wrong, once the snapshot is on its way: nothing waits for it.
fn tell(
    world: &World,
    settings: &CompileSettings,
    [read, mut found]: [Vec<Diagnostic>; 2],
    texts: &Texts,
    told: &mut Findings,
) {
    found.extend(analyse(world, settings));
    told.tell(read, found, texts);
}

/// What is wrong with resources and with the files that they name: the proxy is on this machine.
fn analyse(world: &World, settings: &CompileSettings) -> Vec<Diagnostic> {
    let mut found = analysis::find(world, Audience::Client(&settings.client));
    found.extend(analysis::unusable_files(world, Flags::of(settings), |tls| look_at_files(tls).err()));
    found
}
