//! The resources of one run: read, compiled, and their mistakes told.

use std::io::{self, IsTerminal, Write};

use crate::compile::{CompileSettings, compile};
use crate::resource::{Diagnostic, World};
use crate::settings::ExecSettings;
use crate::snapshot::Snapshot;
use crate::source::FileSource;

/// What is configured, and where it comes from.
#[derive(Debug)]
pub(super) struct Configuration {
    source: FileSource,
    compile: CompileSettings,
    pub(super) snapshot: Snapshot,
}

impl Configuration {
    /// Fails when a path can't be read. A resource that can't be used is told of and left out.
    pub(super) fn open(settings: &ExecSettings) -> anyhow::Result<Self> {
        let (source, world, diagnostics) =
            FileSource::open(settings.config.clone(), settings.mesh_config.clone())?;
        let compile = CompileSettings {
            outbound_traffic_policy: settings.outbound_traffic_policy,
            ..CompileSettings::default()
        };
        let snapshot = compiled(&world, diagnostics, &compile);
        Ok(Self { source, compile, snapshot })
    }
}

fn compiled(world: &World, mut diagnostics: Vec<Diagnostic>, settings: &CompileSettings) -> Snapshot {
    let (snapshot, findings) = compile(world, settings);
    diagnostics.extend(findings);
    tell(&diagnostics);
    snapshot
}

/// With stderr gone there is nobody to tell.
fn tell(diagnostics: &[Diagnostic]) {
    let mut stderr = io::stderr().lock();
    let colours = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for diagnostic in diagnostics {
        drop(writeln!(stderr, "{}", diagnostic.render(None, colours)));
    }
}
