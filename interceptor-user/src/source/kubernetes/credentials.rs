//! Secrets that resources name by credentialName, as files: `DIRECTORY/NAMESPACE/NAME/KEY`, which is where TLS looks
//! for them. A Secret is replaced as a whole: nobody sees a new certificate with an old key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use uuid::Uuid;

use super::object::Object;

/// A Secret as it is now.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credential {
    namespace: Arc<str>,
    name: Arc<str>,
    /// By key; `None` when it is gone.
    values: Option<BTreeMap<String, Vec<u8>>>,
}

/// Never what it holds.
impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.values.as_ref().map(|values| values.keys().collect::<Vec<_>>());
        write!(formatter, "Credential({}/{}, {keys:?})", self.namespace, self.name)
    }
}

impl Credential {
    pub(super) fn of(object: &Object) -> Self {
        let values = object.json.texts(&["data"]);
        let decoded = values.filter_map(|(key, text)| {
            let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
            // The server has encoded it.
            Some((key.to_owned(), ByteString::deserialize(text).ok()?.0))
        });
        Self {
            namespace: object.namespace().into(),
            name: object.name().into(),
            values: Some(decoded.collect()),
        }
    }

    pub(super) fn gone(namespace: &Arc<str>, name: &Arc<str>) -> Self {
        Self { namespace: Arc::clone(namespace), name: Arc::clone(name), values: None }
    }
}

/// Of a Secret, or of one of its keys: nothing that leads out of a directory, or that is ours.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(allowed)
}

/// The directory that holds them.
#[derive(Debug)]
pub(super) struct CredentialFiles {
    directory: PathBuf,
    /// In the names of our directories: an agent before us has others.
    token: String,
    /// Numbers the directories behind the names.
    written: u64,
    /// What others have left may still be there.
    has_leftovers: bool,
}

impl CredentialFiles {
    /// What is there stays: the agent before us may serve with it.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        private_directory(directory)?;
        let token = Uuid::new_v4().simple().to_string();
        Ok(Self { directory: directory.to_owned(), token, written: 0, has_leftovers: true })
    }

    /// Removes what an earlier process left there, but for Secrets of which it `is_unknown` yet whether they are there.
    pub(super) fn collect(&mut self, is_unknown: impl Fn(&str, &str) -> bool) -> io::Result<()> {
        if !self.has_leftovers {
            return Ok(());
        }
        let mut is_complete = true;
        for namespace in directories(&self.directory)? {
            let (mut links, mut kept) = (Vec::new(), BTreeSet::new());
            for entry in fs::read_dir(&namespace)? {
                let path = entry?.path();
                let Ok(target) = fs::read_link(&path) else { continue };
                match (file_name(&namespace), file_name(&path)) {
                    (Some(namespace), Some(name)) if is_unknown(namespace, name) => {
                        is_complete = false;
                        kept.insert(target);
                    }
                    _ if self.is_ours(&target) => drop(kept.insert(target)),
                    _ if begins_with_a_dot(&target) => links.push(path),
                    _ => {}
                }
            }
            links.iter().try_for_each(fs::remove_file)?;
            for directory in directories(&namespace)? {
                let is_kept = file_name(&directory).is_some_and(|name| kept.contains(Path::new(name)));
                if begins_with_a_dot(&directory) && !is_kept {
                    fs::remove_dir_all(directory)?;
                }
            }
        }
        self.has_leftovers = !is_complete;
        Ok(())
    }

    fn is_ours(&self, target: &Path) -> bool {
        file_name(target).is_some_and(|name| name.contains(&*self.token))
    }

    /// Writes a Secret, or removes it.
    pub(super) fn put(&mut self, credential: &Credential) -> io::Result<()> {
        let Credential { namespace, name, values } = credential;
        let home = self.directory.join(&**namespace);
        private_directory(&home)?;
        let shown = home.join(&**name);
        let before = fs::read_link(&shown).ok();
        match values {
            None if before.is_none() => {}
            None => fs::remove_file(&shown)?,
            Some(values) => {
                self.written += 1;
                let target = format!(".{name}.{}.{}", self.token, self.written);
                let own = home.join(&target);
                private_directory(&own)?;
                for (key, value) in values.iter().filter(|(key, _)| is_name(key)) {
                    let mut file =
                        OpenOptions::new().write(true).create_new(true).mode(0o600).open(own.join(key))?;
                    file.write_all(value)?;
                }
                let link = home.join(format!("{target}.link"));
                symlink(&target, &link)?;
                fs::rename(&link, &shown)?;
            }
        }
        match before.map(|before| fs::remove_dir_all(home.join(before))) {
            // Another agent has replaced it in the same moment.
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn directories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    let directories = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(directories.map(fs::DirEntry::path).collect())
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// As everything of an agent's does, or leads to what does.
fn begins_with_a_dot(path: &Path) -> bool {
    file_name(path).is_some_and(|name| name.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(values: &[(&str, &str)]) -> Credential {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        Credential { namespace: "shop".into(), name: "tls".into(), values: Some(values.collect()) }
    }

    fn entries(path: &Path) -> Vec<String> {
        let names =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    #[test]
    fn a_secret_is_replaced_as_a_whole_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        let mut files = CredentialFiles::open(&path).unwrap();
        let shown = path.join("shop/tls");
        files.put(&secret(&[("tls.crt", "one"), ("tls.key", "two"), ("../escape", "x")])).unwrap();
        assert_eq!(entries(&shown), ["tls.crt", "tls.key"]);
        assert!(!path.join("shop/escape").exists());
        files.put(&secret(&[("tls.crt", "three")])).unwrap();
        assert_eq!(fs::read_to_string(shown.join("tls.crt")).unwrap(), "three");
        assert_eq!(entries(&shown), ["tls.crt"]);
        // Nothing is left of the one before.
        assert_eq!(fs::read_dir(path.join("shop")).unwrap().count(), 2);
        // Another process removes what it did not write, and nothing that is not ours.
        fs::create_dir(path.join("shop/by-hand")).unwrap();
        let mut files = CredentialFiles::open(&path).unwrap();
        assert_eq!(entries(&path.join("shop")), ["by-hand", "tls"], "the process before may serve with it");
        files.collect(|namespace, name| (namespace, name) == ("shop", "tls")).unwrap();
        assert_eq!(fs::read_to_string(shown.join("tls.crt")).unwrap(), "three", "it may still come");
        files.collect(|_, _| false).unwrap();
        assert_eq!(fs::read_dir(path.join("shop")).unwrap().count(), 1);
        assert_eq!(entries(&path.join("shop")), ["by-hand"]);
        files.put(&secret(&[("ca.crt", "four")])).unwrap();
        files.put(&Credential::gone(&"shop".into(), &"tls".into())).unwrap();
        files.put(&Credential::gone(&"shop".into(), &"tls".into())).unwrap();
        assert_eq!(fs::read_dir(path.join("shop")).unwrap().count(), 1);
    }

    #[test]
    fn what_a_secret_holds_is_decoded_and_never_shown() {
        let object: Object = serde_json::from_str(
            r#"{"metadata": {"name": "tls", "namespace": "shop"}, "data": {"tls.key": "c2VjcmV0"}}"#,
        )
        .unwrap();
        let credential = Credential::of(&object);
        assert!(credential == secret(&[("tls.key", "secret")]));
        assert_eq!(format!("{credential:?}"), "Credential(shop/tls, Some([\"tls.key\"]))");
    }
}
