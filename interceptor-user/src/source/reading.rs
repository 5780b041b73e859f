//! What reading all files brings together: what they hold, and where one can't be read now, what it held before.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use super::files::FileSource;
use super::read::{self, ReadError};
use super::texts::{Held, Texts};
use crate::resource::{Diagnostic, Level, Origin, ParsedFile, Refused, Resource, Resources, code};

/// What reading everything brings together.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) resources: Resources,
    refused: Vec<Refused>,
    /// Files of which a part can't be read.
    unreadable: HashSet<Arc<str>>,
    /// Files of which nothing can be read, and directories that can't be listed.
    unknown: Vec<Arc<str>>,
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) texts: Texts,
}

impl Reading {
    fn add(&mut self, file: &Arc<str>, parsed: &ParsedFile) {
        self.diagnostics.extend(parsed.diagnostics.iter().cloned());
        self.refused.extend(parsed.refused.iter().cloned());
        if parsed.unreadable {
            self.unreadable.insert(Arc::clone(file));
        }
        for resource in &parsed.resources {
            if let Some(earlier) = self.resources.insert(resource.clone()) {
                self.diagnostics.push(repeated(&earlier, resource));
            }
        }
    }
}

impl FileSource {
    /// Adds what a file holds; what can't be read is told, and given back.
    pub(super) fn add(
        &self,
        file: Arc<str>,
        held: Result<Arc<Held>, ReadError>,
        reading: &mut Reading,
    ) -> Option<ReadError> {
        match held {
            // Most likely about to be written: whoever means it says so by removing the file.
            Ok(held) if held.is_blank && self.held_resources(&file) => {
                let until = if self.is_named(&file) { "written" } else { "written or removed" };
                let message = format!("is empty: what it held goes on acting until the file is {until}");
                reading.diagnostics.push(about(&file, Level::Warning, message));
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
            // Gone between listing and reading.
            Err(ReadError::Read { path, source })
                if source.kind() == io::ErrorKind::NotFound
                    && !self.is_named(&path)
                    && fs::symlink_metadata(&path).is_err() =>
            {
                Some(ReadError::Read { path, source })
            }
            // What was named is to be there: nobody has said that it holds nothing now.
            Err(error) => {
                let finding = about(&file, Level::Error, format!("{error}; its resources stay as they were"));
                reading.diagnostics.push(finding.mend(mend(&error)));
                reading.unknown.push(file);
                Some(error)
            }
        }
    }

    /// Whether a path was given by itself, not found in a directory.
    fn is_named(&self, path: &str) -> bool {
        self.paths.iter().any(|named| *read::name_of(named) == *path)
    }

    pub(super) fn held_resources(&self, file: &Arc<str>) -> bool {
        self.world.resources.values().any(|resource| resource.meta().origin.file == *file)
    }

    /// Adds what was good before and can't be read now.
    pub(super) fn keep_last_good(&self, reading: &mut Reading) {
        for refused in std::mem::take(&mut reading.refused) {
            if reading.resources.contains_key(&refused.key) {
                continue;
            }
            match self.world.resources.get(&refused.key) {
                Some(resource) if !resource.is_guard() => {
                    let message = "keeps acting in its last good form until the mistake is mended".to_owned();
                    let meta = resource.meta();
                    reading.diagnostics.push(meta.finding(Level::Warning, meta.origin.position, "", message));
                    reading.resources.insert(resource.clone());
                }
                Some(_) | None => {
                    reading.resources.extend(refused.instead);
                }
            }
        }
        for resource in self.world.resources.values() {
            let origin = &resource.meta().origin;
            if reading.resources.contains_key(&resource.meta().key) {
                continue;
            }
            if reading.unknown.iter().any(|unknown| Path::new(&*origin.file).starts_with(&**unknown)) {
                reading.resources.insert(resource.clone());
            } else if reading.unreadable.contains(&origin.file) {
                let message =
                    format!("a part of {} can't be read: this resource keeps acting as it was", origin.file);
                reading.diagnostics.push(resource.meta().finding(
                    Level::Warning,
                    origin.position,
                    "",
                    message,
                ));
                reading.resources.insert(resource.clone());
            }
        }
    }
}

fn mend(error: &ReadError) -> &'static str {
    match error {
        ReadError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            "put it back; an empty directory, or a file with only a comment, says that there are no resources"
        }
        ReadError::Unmounted { .. } => {
            "mount it again, or put a file there: one with only a comment removes the resources"
        }
        ReadError::NoDirectory { .. } | ReadError::NoFile { .. } => "put back what it was, or start again",
        ReadError::Read { .. }
        | ReadError::TooLarge { .. }
        | ReadError::NotText { .. }
        | ReadError::NotAFile { .. } => "mend it: it is read again at once",
    }
}

/// As with `kubectl apply`, the later one stands.
fn repeated(earlier: &Resource, later: &Resource) -> Diagnostic {
    let message = format!("stands also at {}: the later one, here, is used", earlier.meta().origin);
    let finding = later.meta().finding(Level::Warning, later.meta().origin.position, "", message);
    Diagnostic { code: Some(code::EGR0120.id), ..finding }
}

/// A finding about a file as a whole.
pub(super) fn about(file: &Arc<str>, level: Level, message: String) -> Diagnostic {
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
