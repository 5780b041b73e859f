//! Puts the plugin on a node: the executable where the runtime looks for plugins, an entry into the network configuration
//! that the runtime uses. Every file changes in one step, and a second time changes nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use serde_json::Value;

use super::conflist::{ConfList, PLUGIN, Unusable};
use super::network::Keys;

/// What a `.conf` is called while the `.conflist` made of it stands in for it; runtimes don't look at such names.
const SAVED: &str = "before-interceptor";

/// Where on the node, and what the plugin is told.
#[derive(Debug)]
pub struct Installation {
    /// Where the runtime looks for plugins, usually /opt/cni/bin.
    pub bin_dir: PathBuf,
    /// Where the runtime looks for network configurations, usually /etc/cni/net.d.
    pub conf_dir: PathBuf,
    pub keys: Keys,
}

/// What an installation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configured {
    /// This file was written.
    Changed(PathBuf),
    /// The plugin was there.
    Already,
    /// No network has been set up yet; these files are none that a runtime would use, and why.
    NoNetwork(Vec<String>),
}

impl Installation {
    /// # Errors
    /// When a key can't be used, or the plugin can't be put where it belongs.
    pub fn install(&self) -> anyhow::Result<Configured> {
        self.copy_executable()?;
        self.configure()
    }

    pub(super) fn copy_executable(&self) -> anyhow::Result<()> {
        let path = self.executable();
        let mut own = File::open("/proc/self/exe").context("can't open our own executable")?;
        fs::create_dir_all(&self.bin_dir)
            .and_then(|()| replace(&path, 0o755, |file| io::copy(&mut own, file).map(drop)))
            .with_context(|| {
                format!(
                    "can't write {}: is it the directory of CNI plugins, and writable? (--bin-dir)",
                    path.display()
                )
            })
    }

    pub(super) fn executable(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    /// Looks after the configuration alone.
    pub(super) fn configure(&self) -> anyhow::Result<Configured> {
        let plugin = self.plugin()?;
        let mut unusable = Vec::new();
        for file in configurations(&self.conf_dir)? {
            let shown = file.display();
            let mut list = match read(&file)? {
                Ok(list) => list,
                // The runtime uses it, and plugins can't be chained there.
                Err(error @ Unusable::Version { .. }) => bail!("{shown} can't have another plugin: {error}"),
                Err(error) => {
                    unusable.push(format!("{shown}: {error}"));
                    continue;
                }
            };
            let changed = list.add(&plugin).with_context(|| format!("can't change {shown}"))?;
            if !changed {
                return Ok(Configured::Already);
            }
            let target = file.with_extension("conflist");
            write_like(&target, &file, &list)?;
            if target != file {
                // Until now the runtime used the old file: without a gap, it has the new one from here on.
                fs::rename(&file, saved(&file)).with_context(|| format!("can't rename {shown}"))?;
            }
            return Ok(Configured::Changed(target));
        }
        Ok(Configured::NoNetwork(unusable))
    }

    fn plugin(&self) -> anyhow::Result<Value> {
        self.keys.check().map_err(|error| anyhow!(error))?;
        let mut plugin = serde_json::to_value(&self.keys).context("can't write the plugin's keys")?;
        plugin["type"] = PLUGIN.into();
        Ok(plugin)
    }
}

/// Whether runtimes would call the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// Of this configuration, which they use.
    In(PathBuf),
    /// They use this one, and it is not there.
    Not(PathBuf),
    NoNetwork,
}

/// # Errors
/// When the directory or a file in it can't be read.
pub fn installed(conf_dir: &Path) -> anyhow::Result<Installed> {
    for file in configurations(conf_dir)? {
        match read(&file)? {
            Ok(list) if list.has_plugin() => return Ok(Installed::In(file)),
            Ok(_) | Err(Unusable::Version { .. }) => return Ok(Installed::Not(file)),
            Err(_) => {}
        }
    }
    Ok(Installed::NoNetwork)
}

/// Takes the plugin out of every network configuration, and gives the files that were changed.
///
/// # Errors
/// When a file can't be read or written. The others are done nevertheless.
pub fn uninstall(conf_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    let mut failed = Vec::new();
    for file in configurations(conf_dir)? {
        match take_out(&file) {
            Ok(true) => changed.push(file),
            Ok(false) => {}
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    if failed.is_empty() { Ok(changed) } else { Err(anyhow!(failed.join("; "))) }
}

fn take_out(file: &Path) -> anyhow::Result<bool> {
    // What is no configuration has no plugin of ours.
    let Ok(mut list) = read(file)? else { return Ok(false) };
    if !list.remove() {
        return Ok(false);
    }
    for extension in ["conf", "json"] {
        let original = file.with_extension(extension);
        if saved(&original).exists() {
            // The runtime prefers the shorter name, so there is no gap.
            fs::rename(saved(&original), &original)
                .and_then(|()| fs::remove_file(file))
                .with_context(|| format!("can't put {} back in place", original.display()))?;
            return Ok(true);
        }
    }
    write_like(file, file, &list)?;
    Ok(true)
}

/// Removes the executable. True when it was there.
pub fn remove_executable(bin_dir: &Path) -> anyhow::Result<bool> {
    let path = bin_dir.join(PLUGIN);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("can't remove {}", path.display())),
    }
}

/// The files that runtimes look at, in their order: they use the first one that they can.
fn configurations(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed = || format!("can't list the network configurations in {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(listed)? {
        let path = entry.with_context(listed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("conf" | "conflist" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> anyhow::Result<Result<ConfList, Unusable>> {
    let text = match fs::read_to_string(file) {
        // It went away since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("can't read {}", file.display()))?,
    };
    let is_list = file.extension().is_some_and(|extension| extension == "conflist");
    Ok(if is_list { ConfList::parse(&text) } else { ConfList::of_one(&text) })
}

fn saved(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(SAVED);
    name.into()
}

/// Writes `target` with the permissions that `model` has.
fn write_like(target: &Path, model: &Path, list: &ConfList) -> anyhow::Result<()> {
    let written = fs::metadata(model).and_then(|metadata| {
        replace(target, metadata.permissions().mode(), |file| file.write_all(list.to_string().as_bytes()))
    });
    written.with_context(|| format!("can't write {}", target.display()))
}

/// Replaces a file in one step: readers see the old one or the new one, and so does whoever looks after a crash.
fn replace(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let new = directory.join(hidden);
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new).and_then(
        |mut file| {
            write(&mut file)?;
            // The process's umask may have taken something away.
            file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
            file.sync_all()
        },
    );
    let renamed = written.and_then(|()| fs::rename(&new, path));
    if let Err(error) = renamed {
        drop(fs::remove_file(&new));
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
