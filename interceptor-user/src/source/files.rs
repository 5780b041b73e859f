//! Resources from files, directories and standard input. Only what has changed is read again. A resource
//! that was good and is written wrongly now keeps its last good form; one that is gone is gone, unless nobody can tell.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::patch::Taken;
use super::read::{self, Found, Listing, ReadError};
use super::reading::{Reading, about};
use super::texts::{Held, Texts};
use super::unlisted::{Devices, Unreadable};
use crate::resource::{Diagnostic, Level, MeshConfig, ParsedFile, World, mesh_config, parallel, parse_again};

/// The namespace of resources that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// Fewer are not shared out; a large one's documents are then.
const FILES_PER_THREAD_MIN: usize = 16;

/// Why the configuration can't be used at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Running with other settings than the ones asked for could let through what they refuse.
    #[error("the mesh configuration can't be used: {0}")]
    MeshConfig(String),
    #[error("can't start a thread to watch the configuration: {0}")]
    Watch(io::Error),
}

/// Where the configuration comes from, and what it was last.
#[derive(Debug)]
pub struct FileSource {
    pub(super) paths: Vec<PathBuf>,
    pub(super) mesh_config: Option<PathBuf>,
    default_namespace: Arc<str>,
    /// Standard input and pipes, which are read once.
    streams: HashMap<PathBuf, String>,
    pub(super) world: Arc<World>,
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) texts: Texts,
    pub(super) devices: Devices,
    unreadable: Unreadable,
}

/// Which files may have changed though they look as before: two writes may leave the same times behind.
#[derive(Debug)]
pub(super) enum Touched {
    All,
    /// Those with these names.
    Named(HashSet<OsString>),
}

impl Touched {
    fn includes(&self, path: &Path) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => path.file_name().is_some_and(|name| names.contains(name)),
        }
    }
}

impl FileSource {
    /// Reads everything once. Findings are not errors: what can't be used is left out. An error is a
    /// path that can't be read at all, or a MeshConfig that can't be used.
    pub fn open(
        paths: Vec<PathBuf>,
        mesh_config: Option<PathBuf>,
    ) -> Result<(Self, Arc<World>, Vec<Diagnostic>), Error> {
        let (source, failed) = Self::read(paths, mesh_config, DEFAULT_NAMESPACE.into());
        if let Some(error) = failed.into_iter().next() {
            return Err(error.into());
        }
        if let Some(path) = &source.mesh_config {
            let file = read::name_of(path);
            let is_about_it = |finding: &&Diagnostic| {
                finding.level == Level::Error
                    && finding.origin.as_ref().is_some_and(|origin| origin.file == file)
            };
            if let Some(finding) = source.diagnostics.iter().find(is_about_it) {
                return Err(Error::MeshConfig(finding.to_string()));
            }
        }
        let (world, diagnostics) = (Arc::clone(&source.world), source.diagnostics.clone());
        Ok((source, world, diagnostics))
    }

    /// Reads everything once, whatever it holds; resources that name no namespace are in `default_namespace`. Also
    /// what can't be read, which is not among the findings.
    pub fn read(
        paths: Vec<PathBuf>,
        mesh_config: Option<PathBuf>,
        default_namespace: Arc<str>,
    ) -> (Self, Vec<ReadError>) {
        let mut source = Self {
            paths,
            mesh_config,
            default_namespace,
            streams: HashMap::new(),
            world: Arc::default(),
            diagnostics: Vec::new(),
            texts: Texts::default(),
            devices: Devices::default(),
            unreadable: Unreadable::default(),
        };
        let mut listing = read::list(&source.paths);
        let mut failed = Vec::new();
        for path in source.all_paths().into_iter().filter(|path| read::is_stream(path)) {
            if let Entry::Vacant(slot) = source.streams.entry(path) {
                match read::stream(slot.key()) {
                    Ok(text) => {
                        slot.insert(text);
                    }
                    Err(error) => {
                        failed.push(error);
                        listing.files.retain(|(path, _)| path != slot.key());
                    }
                }
            }
        }
        let (_, unreadable) = source.take_up(listing, &Touched::All);
        source.diagnostics.retain(|finding| {
            let file = finding.origin.as_ref().map(|origin| &origin.file);
            !unreadable.iter().any(|(unreadable, _)| Some(unreadable) == file)
        });
        failed.extend(unreadable.into_iter().map(|(_, error)| error));
        (source, failed)
    }

    /// What was read.
    pub fn into_parts(self) -> (Arc<World>, Vec<Diagnostic>, Texts) {
        (self.world, self.diagnostics, self.texts)
    }

    /// What can't be read, from now on.
    pub fn unreadable(&self) -> Unreadable {
        self.unreadable.clone()
    }

    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    pub(super) fn latest(&self) -> (&Arc<World>, &[Diagnostic]) {
        (&self.world, &self.diagnostics)
    }

    /// Every path that is watched.
    pub(super) fn all_paths(&self) -> Vec<PathBuf> {
        self.paths.iter().chain(&self.mesh_config).cloned().collect()
    }

    /// Reads again what has changed or was touched. True when anything is different.
    pub(super) fn reload(&mut self, touched: &Touched) -> bool {
        // What can't be read is among the findings.
        let (changed, _) = self.take_up(read::list(&self.paths), touched);
        changed
    }

    /// Takes up what the files hold now: whether that is anything new, and which could not be read.
    fn take_up(&mut self, mut listing: Listing, touched: &Touched) -> (bool, Vec<(Arc<str>, ReadError)>) {
        let mut reading = Reading::default();
        let unlisted = self.take_unlisted(&mut listing);
        let found = listing.files;
        let looked_at = self.look_at(&found, touched);
        if unlisted.is_empty()
            && let Some(patched) = self.patched(&found, &looked_at)
        {
            self.unreadable.set(None);
            return (self.set(patched), Vec::new());
        }
        let files = found.iter().map(|(path, _)| read::name_of(path)).zip(looked_at);
        let files = files.chain(unlisted.into_iter().map(|(path, error)| (read::name_of(&path), Err(error))));
        let mut failed = Vec::new();
        for (file, held) in files {
            let error = self.add(Arc::clone(&file), held, &mut reading);
            failed.extend(error.map(|error| (file, error)));
        }
        self.unreadable.set(failed.first().map(|(_, error): &(_, ReadError)| error.to_string()));
        self.keep_last_good(&mut reading);
        let mesh = self.read_mesh_config(&mut reading);
        if reading.resources.is_empty() && !self.paths.is_empty() && reading.diagnostics.is_empty() {
            let paths: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
            let message = format!("no resource was found in {}", paths.join(", "));
            let finding = about(&"".into(), Level::Warning, message);
            reading.diagnostics.push(finding.effect("every host is unknown").mend("check the path"));
        }
        let world = World { mesh, resources: reading.resources };
        let world = (world != *self.world).then(|| Arc::new(world));
        let Reading { diagnostics, texts, .. } = reading;
        (self.set(Taken { world, diagnostics, texts }), failed)
    }

    /// True when anything is different.
    fn set(&mut self, Taken { world, diagnostics, texts }: Taken) -> bool {
        let changed = world.is_some() || diagnostics != self.diagnostics;
        self.world = world.unwrap_or_else(|| Arc::clone(&self.world));
        self.diagnostics = diagnostics;
        self.texts = texts;
        changed
    }

    /// What each file holds now: what it held before, when it looks the same and was not touched.
    fn look_at(&self, found: &[Found], touched: &Touched) -> Vec<Result<Arc<Held>, ReadError>> {
        let as_before = |(path, facts): &Found| {
            let held = self.texts.0.get(&read::name_of(path))?;
            let is_same = held.facts.is_some() && held.facts == *facts && !touched.includes(path);
            is_same.then(|| Arc::clone(held))
        };
        let kept: Vec<Option<Arc<Held>>> = found.iter().map(as_before).collect();
        let others: Vec<&Found> =
            found.iter().zip(&kept).filter(|(_, kept)| kept.is_none()).map(|(file, _)| file).collect();
        let mut others =
            parallel::map(&others, FILES_PER_THREAD_MIN, |file| self.look_into(file)).into_iter();
        kept.into_iter().filter_map(|kept| kept.map(Ok).or_else(|| others.next())).collect()
    }

    fn look_into(&self, (path, facts): &Found) -> Result<Arc<Held>, ReadError> {
        let file = read::name_of(path);
        let text = self.text(path)?;
        let parsed = match self.texts.0.get(&file) {
            Some(held) => parse_again(&file, &text, &self.default_namespace, &held.parsed),
            None => crate::resource::parse(&file, &text, &self.default_namespace),
        };
        Ok(Arc::new(Held::new(*facts, text, parsed)))
    }

    fn text(&self, path: &Path) -> Result<String, ReadError> {
        self.streams.get(path).map_or_else(|| read::text(path), |text| Ok(text.clone()))
    }

    fn read_mesh_config(&self, reading: &mut Reading) -> MeshConfig {
        let Some(path) = &self.mesh_config else { return MeshConfig::default() };
        let file = read::name_of(path);
        let config = match self.text(path) {
            Ok(text) => {
                let (config, findings) = mesh_config::parse(&file, &text);
                let held = Held::new(None, text, ParsedFile::default());
                reading.texts.0.insert(Arc::clone(&file), Arc::new(held));
                reading.diagnostics.extend(findings);
                config
            }
            Err(error) => {
                reading.diagnostics.push(about(&file, Level::Error, error.to_string()));
                None
            }
        };
        config.unwrap_or_else(|| self.world.mesh.clone())
    }
}
