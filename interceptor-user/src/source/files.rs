//! Resources from files, directories and standard input. A resource that was good and is written wrongly
//! now keeps its last good form; one that is gone is gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::read::{self, Fingerprint, ReadError};
use crate::resource::{
    Diagnostic, Level, MeshConfig, Origin, ParsedFile, Refused, Resource, ResourceKey, World, mesh_config,
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
    /// Standard input is read once.
    standard_input: Option<String>,
    world: World,
    diagnostics: Vec<Diagnostic>,
    texts: Texts,
    /// The files as they were when reading began.
    pub(super) seen: Fingerprint,
}

/// The text of each file as it was read last, to show the lines that findings are about.
#[derive(Clone, Debug, Default)]
pub struct Texts(HashMap<Arc<str>, Arc<str>>);

impl Texts {
    /// The text that a finding points into, for [`Diagnostic::render`].
    pub fn of(&self, finding: &Diagnostic) -> Option<&str> {
        self.0.get(&finding.origin.as_ref()?.file).map(|text| &**text)
    }
}

impl FileSource {
    /// Reads everything once. Findings are not errors: what can't be used is left out. An error is a
    /// path that can't be read at all, or a MeshConfig that can't be used.
    pub fn open(
        paths: Vec<PathBuf>,
        mesh_config: Option<PathBuf>,
    ) -> Result<(Self, World, Vec<Diagnostic>), Error> {
        let mut source = Self {
            paths,
            mesh_config,
            standard_input: None,
            world: World::default(),
            diagnostics: Vec::new(),
            texts: Texts::default(),
            seen: Fingerprint::default(),
        };
        source.seen = read::fingerprint(&source.all_paths());
        for path in read::files(&source.paths)?.iter().chain(&source.mesh_config) {
            let text = read::text(path)?;
            if read::is_standard_input(path) {
                source.standard_input = Some(text);
            }
        }
        source.reload();
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

    /// Reads everything again. True when anything is different.
    pub(super) fn reload(&mut self) -> bool {
        let mut reading = Reading::default();
        match read::files(&self.paths) {
            Ok(files) => files.iter().for_each(|path| self.read_file(path, &mut reading)),
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
            let message = format!("no resource was found in {}: every host is unknown", paths.join(", "));
            reading.diagnostics.push(about(&"".into(), Level::Warning, message));
        }
        let world = World { mesh, resources: reading.resources };
        let changed = world != self.world || reading.diagnostics != self.diagnostics;
        self.world = world;
        self.diagnostics = reading.diagnostics;
        self.texts = reading.texts;
        changed
    }

    fn read_file(&self, path: &Path, reading: &mut Reading) {
        let file = read::name_of(path);
        let text = match &self.standard_input {
            Some(text) if read::is_standard_input(path) => Ok(text.clone()),
            Some(_) | None => read::text(path),
        };
        match text {
            // Most likely about to be written: whoever means it says so by removing the file.
            Ok(text) if text.trim().is_empty() && self.held_resources(&file) => {
                let message = "is empty: what it held goes on acting until the file is written or removed";
                reading.diagnostics.push(about(&file, Level::Warning, message.to_owned()));
                reading.unreadable.insert(file);
            }
            Ok(text) => {
                let parsed = crate::resource::parse(&file, &text, &DEFAULT_NAMESPACE.into());
                reading.texts.0.insert(Arc::clone(&file), text.into());
                reading.add(file, parsed);
            }
            // Gone between listing and reading, or named and removed: its resources are removed.
            Err(ReadError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let message = "is not there any more: its resources are removed".to_owned();
                reading.diagnostics.push(about(&file, Level::Warning, message));
            }
            Err(error) => {
                reading.diagnostics.push(about(
                    &file,
                    Level::Error,
                    format!("{error}; its resources stay as they were"),
                ));
                reading.unreadable.insert(file);
            }
        }
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
                Some(resource) => {
                    let message = "keeps acting in its last good form until the mistake is mended".to_owned();
                    let meta = resource.meta();
                    reading.diagnostics.push(meta.finding(Level::Warning, meta.origin.position, "", message));
                    reading.resources.insert(refused.key, resource.clone());
                }
                None => reading.resources.extend(refused.instead.map(|resource| (refused.key, resource))),
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
        let text = match &self.standard_input {
            Some(text) if read::is_standard_input(path) => Ok(text.clone()),
            Some(_) | None => read::text(path),
        };
        let config = match text {
            Ok(text) => {
                let (config, findings) = mesh_config::parse(&file, &text);
                reading.texts.0.insert(Arc::clone(&file), text.into());
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
    fn add(&mut self, file: Arc<str>, parsed: ParsedFile) {
        self.diagnostics.extend(parsed.diagnostics);
        self.refused.extend(parsed.refused);
        if parsed.unreadable {
            self.unreadable.insert(file);
        }
        for resource in parsed.resources {
            let key = resource.meta().key.clone();
            if let Some(earlier) = self.resources.insert(key, resource.clone()) {
                self.diagnostics.push(repeated(&earlier, &resource));
            }
        }
    }
}

/// As with `kubectl apply`, the later one stands.
fn repeated(earlier: &Resource, later: &Resource) -> Diagnostic {
    let message = format!("stands also at {}: the later one, here, is used", earlier.meta().origin);
    later.meta().finding(Level::Warning, later.meta().origin.position, "", message)
}

/// A finding about a file as a whole.
fn about(file: &Arc<str>, level: Level, message: String) -> Diagnostic {
    let origin = Some(Origin::of_file(file)).filter(|origin| !origin.file.is_empty());
    Diagnostic { level, code: None, origin, resource: "".into(), field: String::new(), message }
}
