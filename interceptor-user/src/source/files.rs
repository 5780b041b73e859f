//! Resources from files, directories and standard input.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::resource::{Diagnostic, Level, MeshConfig, Origin, Resource, ResourceKey, World, mesh_config};

/// Why the configuration can't be read at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't read {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{path} is larger than {} MiB: split it into several files", FILE_BYTES_MAX >> 20)]
    TooLarge { path: String },
    #[error("{path} is not UTF-8 text")]
    NotText { path: String },
}

/// A file larger than this is not configuration.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Where the configuration comes from.
#[derive(Debug)]
pub struct FileSource {
    paths: Vec<PathBuf>,
    mesh_config: Option<PathBuf>,
}

impl FileSource {
    /// Reads everything once. Findings are not errors: what can't be used is left out. An error is a
    /// path that can't be read at all.
    pub fn open(
        paths: Vec<PathBuf>,
        mesh_config: Option<PathBuf>,
    ) -> Result<(Self, World, Vec<Diagnostic>), Error> {
        let source = Self { paths, mesh_config };
        let (world, diagnostics) = source.load()?;
        Ok((source, world, diagnostics))
    }

    fn load(&self) -> Result<(World, Vec<Diagnostic>), Error> {
        let mut diagnostics = Vec::new();
        let mut resources: BTreeMap<ResourceKey, Resource> = BTreeMap::new();
        for path in self.files()? {
            let file: Arc<str> = path.to_string_lossy().into();
            let parsed = crate::resource::parse(&file, &read(&path)?, &"default".into());
            diagnostics.extend(parsed.diagnostics);
            for resource in parsed.resources {
                let key = resource.meta().key.clone();
                if let Some(earlier) = resources.insert(key, resource.clone()) {
                    diagnostics.push(repeated(&earlier, &resource));
                }
            }
        }
        let mut mesh = MeshConfig::default();
        if let Some(path) = &self.mesh_config {
            let (config, findings) = mesh_config::parse(&path.to_string_lossy().into(), &read(path)?);
            diagnostics.extend(findings);
            mesh = config.unwrap_or_default();
        }
        Ok((World { mesh, resources }, diagnostics))
    }

    /// The files to read, in order.
    fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let mut files = Vec::new();
        for path in &self.paths {
            if path.as_os_str() == "-" || !path.is_dir() {
                files.push(path.clone());
            } else {
                walk(path, &mut files)?;
            }
        }
        Ok(files)
    }
}

/// As with `kubectl apply`, the later one stands.
fn repeated(earlier: &Resource, later: &Resource) -> Diagnostic {
    let message = format!("stands also at {}: the later one, here, is used", earlier.meta().origin);
    later.meta().finding(Level::Warning, later.meta().origin.position, "", message)
}

/// Every `.yaml`, `.yml` and `.json` below a directory, sorted; hidden files and editors' backups not.
fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let error = |source| Error::Read { path: directory.display().to_string(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(error)? {
        paths.push(entry.map_err(error)?.path());
    }
    paths.sort_unstable();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(['.', '#']) || name.ends_with('~') {
            continue;
        }
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| {
            ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
        }) {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Error> {
    let shown = || path.display().to_string();
    let error = |source| Error::Read { path: shown(), source };
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(error)?;
    } else {
        let file = fs::File::open(path).map_err(error)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(error)?;
    }
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(Error::TooLarge { path: shown() });
    }
    String::from_utf8(bytes).or(Err(Error::NotText { path: shown() }))
}

/// A finding about a file as a whole.
pub(crate) fn about_file(file: &Arc<str>, level: Level, message: String) -> Diagnostic {
    Diagnostic {
        level,
        code: None,
        origin: Some(Origin::of_file(file)),
        resource: "".into(),
        field: String::new(),
        message,
    }
}
