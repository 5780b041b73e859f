//! Resources from files, directories and standard input. Only what has changed is read again. A resource
//! that was good and is written wrongly now keeps its last good form; one that is gone is gone.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::read::{self, Facts, Found, ReadError};
use crate::resource::{
    Diagnostic, Level, MeshConfig, Origin, ParsedFile, Refused, Resource, ResourceKey, World, code,
    mesh_config, parallel, parse_again,
};

/// The namespace of resources that name none.
const DEFAULT_NAMESPACE: &str = "default";

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
    world: World,
    diagnostics: Vec<Diagnostic>,
    texts: Texts,
}

/// Each file as it was read last, also to show the lines that findings are about.
#[derive(Clone, Debug, Default)]
pub struct Texts(HashMap<Arc<str>, Arc<Held>>);

/// A file as it was read last.
#[derive(Debug)]
struct Held {
    facts: Option<Facts>,
    text: String,
    parsed: ParsedFile,
}

impl Texts {
    /// The text that a finding points into, for [`Diagnostic::render`].
    pub fn of(&self, finding: &Diagnostic) -> Option<&str> {
        self.0.get(&finding.origin.as_ref()?.file).map(|held| &*held.text)
    }
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
    ) -> Result<(Self, World, Vec<Diagnostic>), Error> {
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
        let (world, diagnostics) = (source.world.clone(), source.diagnostics.clone());
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
            world: World::default(),
            diagnostics: Vec::new(),
            texts: Texts::default(),
        };
        let (mut found, mut failed) = read::files_and_failures(&source.paths);
        for path in source.all_paths().into_iter().filter(|path| read::is_stream(path)) {
            if let Entry::Vacant(slot) = source.streams.entry(path) {
                match read::stream(slot.key()) {
                    Ok(text) => {
                        slot.insert(text);
                    }
                    Err(error) => {
                        failed.push(error);
                        found.retain(|(path, _)| path != slot.key());
                    }
                }
            }
        }
        let (_, unreadable) = source.take_up(Ok(found), &Touched::All);
        source.diagnostics.retain(|finding| {
            let file = finding.origin.as_ref().map(|origin| &origin.file);
            !unreadable.iter().any(|(unreadable, _)| Some(unreadable) == file)
        });
        failed.extend(unreadable.into_iter().map(|(_, error)| error));
        (source, failed)
    }

    /// What was read.
    pub fn into_parts(self) -> (World, Vec<Diagnostic>, Texts) {
        (self.world, self.diagnostics, self.texts)
    }

    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    pub(super) fn latest(&self) -> (&World, &[Diagnostic]) {
        (&self.world, &self.diagnostics)
    }

    /// Every path that is watched.
    pub(super) fn all_paths(&self) -> Vec<PathBuf> {
        self.paths.iter().chain(&self.mesh_config).cloned().collect()
    }

    /// Reads again what has changed or was touched. True when anything is different.
    pub(super) fn reload(&mut self, touched: &Touched) -> bool {
        // What can't be read is among the findings.
        let (changed, _) = self.take_up(read::files(&self.paths), touched);
        changed
    }

    /// Takes up what the files hold now: whether that is anything new, and which could not be read.
    fn take_up(
        &mut self,
        found: Result<Vec<Found>, ReadError>,
        touched: &Touched,
    ) -> (bool, Vec<(Arc<str>, ReadError)>) {
        let mut reading = Reading::default();
        let mut failed = Vec::new();
        match found {
            Ok(found) => {
                let looked_at = parallel::map(&found, |file| self.look_at(file, touched));
                for ((path, _), held) in found.iter().zip(looked_at) {
                    let file = read::name_of(path);
                    let error = self.add(Arc::clone(&file), held, &mut reading);
                    failed.extend(error.map(|error| (file, error)));
                }
            }
            // The directory can't be listed: nobody knows what it holds now.
            Err(error) => {
                reading.diagnostics.push(about(
                    &"".into(),
                    Level::Error,
                    format!("{error}; its resources stay as they were"),
                ));
                reading.all_unreadable = true;
            }
        }
        self.keep_last_good(&mut reading);
        let mesh = self.read_mesh_config(&mut reading);
        if reading.resources.is_empty() && !self.paths.is_empty() && reading.diagnostics.is_empty() {
            let paths: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
            let message = format!("no resource was found in {}", paths.join(", "));
            let finding = about(&"".into(), Level::Warning, message);
            reading.diagnostics.push(finding.effect("every host is unknown").mend("check the path"));
        }
        let world = World { mesh, resources: reading.resources };
        let changed = world != self.world || reading.diagnostics != self.diagnostics;
        self.world = world;
        self.diagnostics = reading.diagnostics;
        self.texts = reading.texts;
        (changed, failed)
    }

    /// What a file holds now: what it held before, when it looks the same and was not touched.
    fn look_at(&self, (path, facts): &Found, touched: &Touched) -> Result<Arc<Held>, ReadError> {
        let file = read::name_of(path);
        let before = self.texts.0.get(&file);
        if let Some(held) = before.filter(|held| held.facts.is_some() && held.facts == *facts)
            && !touched.includes(path)
        {
            return Ok(Arc::clone(held));
        }
        let text = self.text(path)?;
        let parsed = match before {
            Some(held) => parse_again(&file, &text, &self.default_namespace, &held.parsed),
            None => crate::resource::parse(&file, &text, &self.default_namespace),
        };
        Ok(Arc::new(Held { facts: *facts, text, parsed }))
    }

    fn text(&self, path: &Path) -> Result<String, ReadError> {
        self.streams.get(path).map_or_else(|| read::text(path), |text| Ok(text.clone()))
    }

    /// Adds what a file holds; what can't be read is told, and given back.
    fn add(
        &self,
        file: Arc<str>,
        held: Result<Arc<Held>, ReadError>,
        reading: &mut Reading,
    ) -> Option<ReadError> {
        match held {
            // Most likely about to be written: whoever means it says so by removing the file.
            Ok(held) if held.text.trim().is_empty() && self.held_resources(&file) => {
                let message = "is empty: what it held goes on acting until the file is written or removed";
                reading.diagnostics.push(about(&file, Level::Warning, message.to_owned()));
                reading.unreadable.insert(file);
                None
            }
            Ok(held) => {
                reading.add(&file, &held.parsed);
                reading.texts.0.insert(file, held);
                None
            }
            Err(ReadError::NotAFile { path }) if !self.is_named(&path) && !self.held_resources(&file) => {
                let message = "is a pipe, a socket or a device: skipped, as nobody has named it".to_owned();
                reading.diagnostics.push(about(&file, Level::Warning, message));
                None
            }
            // Gone between listing and reading, or named and removed: its resources are removed.
            Err(ReadError::Read { path, source }) if source.kind() == io::ErrorKind::NotFound => {
                let message = "is not there any more: its resources are removed".to_owned();
                reading.diagnostics.push(about(&file, Level::Warning, message));
                Some(ReadError::Read { path, source })
            }
            Err(error) => {
                reading.diagnostics.push(about(
                    &file,
                    Level::Error,
                    format!("{error}; its resources stay as they were"),
                ));
                reading.unreadable.insert(file);
                Some(error)
            }
        }
    }

    /// Whether a path was given by itself, not found in a directory.
    fn is_named(&self, path: &str) -> bool {
        self.paths.iter().any(|named| *read::name_of(named) == *path)
    }

    fn held_resources(&self, file: &Arc<str>) -> bool {
        self.world.resources.values().any(|resource| resource.meta().origin.file == *file)
    }

    /// Adds what was good before and can't be read now.
    fn keep_last_good(&self, reading: &mut Reading) {
        for refused in std::mem::take(&mut reading.refused) {
            if reading.resources.contains_key(&refused.key) {
                continue;
            }
            match self.world.resources.get(&refused.key) {
                Some(resource) if !resource.is_guard() => {
                    let message = "keeps acting in its last good form until the mistake is mended".to_owned();
                    let meta = resource.meta();
                    reading.diagnostics.push(meta.finding(Level::Warning, meta.origin.position, "", message));
                    reading.resources.insert(refused.key, resource.clone());
                }
                Some(_) | None => {
                    reading.resources.extend(refused.instead.map(|resource| (refused.key, resource)));
                }
            }
        }
        for (key, resource) in &self.world.resources {
            let origin = &resource.meta().origin;
            let unreadable = reading.all_unreadable || reading.unreadable.contains(&origin.file);
            if unreadable && !reading.resources.contains_key(key) {
                let message =
                    format!("a part of {} can't be read: this resource keeps acting as it was", origin.file);
                reading.diagnostics.push(resource.meta().finding(
                    Level::Warning,
                    origin.position,
                    "",
                    message,
                ));
                reading.resources.insert(key.clone(), resource.clone());
            }
        }
    }

    fn read_mesh_config(&self, reading: &mut Reading) -> MeshConfig {
        let Some(path) = &self.mesh_config else { return MeshConfig::default() };
        let file = read::name_of(path);
        let config = match self.text(path) {
            Ok(text) => {
                let (config, findings) = mesh_config::parse(&file, &text);
                let held = Held { facts: None, text, parsed: ParsedFile::default() };
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

/// What reading everything brings together.
#[derive(Default)]
struct Reading {
    resources: BTreeMap<ResourceKey, Resource>,
    refused: Vec<Refused>,
    /// Files of which a part can't be read.
    unreadable: HashSet<Arc<str>>,
    all_unreadable: bool,
    diagnostics: Vec<Diagnostic>,
    texts: Texts,
}

impl Reading {
    fn add(&mut self, file: &Arc<str>, parsed: &ParsedFile) {
        self.diagnostics.extend(parsed.diagnostics.iter().cloned());
        self.refused.extend(parsed.refused.iter().cloned());
        if parsed.unreadable {
            self.unreadable.insert(Arc::clone(file));
        }
        for resource in &parsed.resources {
            let key = resource.meta().key.clone();
            if let Some(earlier) = self.resources.insert(key, resource.clone()) {
                self.diagnostics.push(repeated(&earlier, resource));
            }
        }
    }
}

/// As with `kubectl apply`, the later one stands.
fn repeated(earlier: &Resource, later: &Resource) -> Diagnostic {
    let message = format!("stands also at {}: the later one, here, is used", earlier.meta().origin);
    let finding = later.meta().finding(Level::Warning, later.meta().origin.position, "", message);
    Diagnostic { code: Some(code::EGR0120.id), ..finding }
}

/// A finding about a file as a whole.
fn about(file: &Arc<str>, level: Level, message: String) -> Diagnostic {
    let origin = Some(Origin::of_file(file)).filter(|origin| !origin.file.is_empty());
    Diagnostic {
        level,
        code: Some(code::EGR0118.id),
        origin,
        resource: "".into(),
        field: String::new(),
        message,
        effect: String::new(),
        mend: String::new(),
    }
}
