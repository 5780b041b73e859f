//! Secrets that DestinationRules name by credentialName, as files: `DIRECTORY/NAMESPACE/NAME/KEY`, which is where TLS looks
//! for them. A Secret is replaced as a whole: nobody sees a new certificate with an old key.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::object::Object;
use super::watches::Watch;
use crate::resource::DestinationRule;
use crate::resource::destination_rule::TrafficPolicy;

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

/// The Secrets that a rule needs: each named one of its namespace, and its `-cacert` sibling, where Istio lets the CA be
/// apart.
pub(super) fn named_by(rule: &DestinationRule) -> Vec<Watch> {
    let of_policy = |policy: &TrafficPolicy| -> Vec<Arc<str>> {
        let blocks = std::iter::once(&policy.blocks).chain(policy.ports.values().map(|blocks| &**blocks));
        blocks.filter_map(|blocks| blocks.tls.as_ref()?.credential_name.clone()).collect()
    };
    let policies = std::iter::once(&*rule.policy).chain(rule.subsets.iter().map(|subset| &subset.policy));
    let names = policies.flat_map(of_policy);
    let secrets = names.filter_map(|name| {
        let name = name.strip_prefix("kubernetes://").unwrap_or(&name);
        is_name(name).then(|| name.to_owned())
    });
    let with_sibling = secrets.flat_map(|name| {
        let sibling = (!name.ends_with("-cacert")).then(|| format!("{name}-cacert"));
        std::iter::once(name).chain(sibling)
    });
    let namespace = rule.meta.namespace();
    with_sibling.map(|name| Watch::Secret { namespace: Arc::clone(namespace), name: name.into() }).collect()
}

/// Of a Secret, or of one of its keys: nothing that leads out of a directory, or that is ours.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(allowed)
}

/// The directory that holds them.
#[derive(Debug)]
pub(super) struct CredentialFiles {
    directory: PathBuf,
    /// Numbers the directories behind the names.
    written: u64,
}

impl CredentialFiles {
    /// What an earlier process left there is removed: a Secret may have gone since.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        private_directory(directory)?;
        for namespace in fs::read_dir(directory)? {
            let namespace = namespace?;
            if namespace.file_type()?.is_dir() {
                for entry in fs::read_dir(namespace.path())? {
                    remove_own(&entry?.path())?;
                }
            }
        }
        Ok(Self { directory: directory.to_owned(), written: 0 })
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
                let target = format!(".{name}.{}.{}", std::process::id(), self.written);
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
        match before {
            Some(before) => fs::remove_dir_all(home.join(before)),
            None => Ok(()),
        }
    }
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a directory or a link of ours: both begin with a dot, or lead to what does.
fn remove_own(path: &Path) -> io::Result<()> {
    let begins_with_a_dot =
        |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    match fs::read_link(path) {
        Ok(target) if begins_with_a_dot(&target) => fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(_) if begins_with_a_dot(path) && path.is_dir() => fs::remove_dir_all(path),
        Err(_) => Ok(()),
    }
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
