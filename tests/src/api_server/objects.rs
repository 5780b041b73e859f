//! The objects, their versions, and what happened to them in order: what etcd holds.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Group and plural name of every kind that there is.
pub(super) const BUILT_IN: [(&str, &str, &str, &str, bool); 8] = [
    ("", "v1", "pods", "Pod", true),
    ("", "v1", "services", "Service", true),
    ("", "v1", "namespaces", "Namespace", false),
    ("", "v1", "configmaps", "ConfigMap", true),
    ("", "v1", "secrets", "Secret", true),
    ("apps", "v1", "daemonsets", "DaemonSet", true),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true),
    ("events.k8s.io", "v1", "events", "Event", true),
];

pub(super) const ISTIO: &str = "networking.istio.io";

pub(super) const ISTIO_KINDS: [(&str, &str); 7] = [
    ("serviceentries", "ServiceEntry"),
    ("virtualservices", "VirtualService"),
    ("destinationrules", "DestinationRule"),
    ("gateways", "Gateway"),
    ("sidecars", "Sidecar"),
    ("workloadentries", "WorkloadEntry"),
    ("workloadgroups", "WorkloadGroup"),
];

/// Plural, namespace, name.
type Key = (String, String, String);

/// What happened at a version.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) plural: String,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

#[derive(Debug)]
pub(super) struct Objects {
    objects: BTreeMap<Key, Value>,
    changes: Vec<Change>,
    version: u64,
    /// What happened until this version is not known any more.
    pub(super) compacted: u64,
    /// Served versions of Istio's kinds.
    served: BTreeMap<String, BTreeSet<String>>,
}

impl Default for Objects {
    fn default() -> Self {
        let versions = || ["v1", "v1beta1", "v1alpha3"].map(str::to_owned).into_iter().collect();
        let served = ISTIO_KINDS.iter().map(|(plural, _)| ((*plural).to_owned(), versions())).collect();
        Self { objects: BTreeMap::new(), changes: Vec::new(), version: 1000, compacted: 1000, served }
    }
}

impl Objects {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn served(&self, plural: &str) -> Option<&BTreeSet<String>> {
        self.served.get(plural).filter(|versions| !versions.is_empty())
    }

    /// Those of a kind, by namespace and name.
    pub(super) fn of_kind<'a>(&'a self, plural: &'a str) -> impl Iterator<Item = &'a Value> {
        let first = (plural.to_owned(), String::new(), String::new());
        let of_kind = self.objects.range(first..).take_while(move |((of, _, _), _)| *of == *plural);
        of_kind.map(|(_, object)| object)
    }

    pub(super) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(plural.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// What happened to a kind after a version.
    pub(super) fn since(&self, plural: &str, version: u64) -> Vec<Change> {
        let from = self.changes.partition_point(|change| change.version <= version);
        self.changes[from..].iter().filter(|change| change.plural == plural).cloned().collect()
    }

    /// Forgets what happened.
    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
        self.changes.clear();
    }

    pub(super) fn apply(&mut self, mut object: Value) -> anyhow::Result<Value> {
        let api_version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
        let kind = object["kind"].as_str().context("no kind")?.to_owned();
        let (group, _) = api_version.split_once('/').unwrap_or(("", &api_version));
        let (plural, is_namespaced) = if group == ISTIO {
            let known = ISTIO_KINDS.iter().find(|(_, of)| *of == kind);
            (known.with_context(|| format!("no kind {kind}"))?.0, true)
        } else {
            let known = BUILT_IN.iter().find(|(of, _, _, name, _)| *of == group && *name == kind);
            let (_, _, plural, _, is_namespaced) =
                known.with_context(|| format!("no kind {api_version} {kind}"))?;
            (*plural, *is_namespaced)
        };
        if group == ISTIO && self.served(plural).is_none() {
            bail!("no matches for kind {kind}: its CRD is not installed");
        }
        let metadata = object["metadata"].as_object_mut().context("no metadata")?;
        let name = metadata.get("name").and_then(Value::as_str).context("no name")?.to_owned();
        let namespace = match metadata.get("namespace").and_then(Value::as_str) {
            Some(namespace) => namespace.to_owned(),
            None if is_namespaced => "default".to_owned(),
            None => String::new(),
        };
        let key = (plural.to_owned(), namespace.clone(), name);
        self.version += 1;
        let before = self.objects.get(&key).cloned();
        if is_namespaced {
            metadata.insert("namespace".into(), namespace.into());
        }
        let kept = |field: &str| before.as_ref().map(|before| before["metadata"][field].clone());
        let uid =
            kept("uid").unwrap_or_else(|| format!("00000000-0000-4000-8000-{:012}", self.version).into());
        metadata.entry("uid").or_insert(uid);
        let created = kept("creationTimestamp").unwrap_or_else(|| "2026-01-01T00:00:00Z".into());
        metadata.entry("creationTimestamp").or_insert(created);
        metadata.insert("resourceVersion".into(), self.version.to_string().into());
        metadata.insert("managedFields".into(), json!([{"manager": "test", "operation": "Apply"}]));
        self.objects.insert(key, object.clone());
        let change =
            Change { version: self.version, plural: plural.to_owned(), before, after: Some(object.clone()) };
        self.changes.push(change);
        Ok(object)
    }

    pub(super) fn delete(&mut self, plural: &str, namespace: &str, name: &str) -> anyhow::Result<()> {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let Some(mut before) = self.objects.remove(&key) else { bail!("no {plural} {namespace}/{name}") };
        self.version += 1;
        // The event has the version of the deletion.
        before["metadata"]["resourceVersion"] = self.version.to_string().into();
        let change =
            Change { version: self.version, plural: plural.to_owned(), before: Some(before), after: None };
        self.changes.push(change);
        Ok(())
    }

    pub(super) fn serve_versions(&mut self, plural: &str, versions: &[&str]) {
        if versions.is_empty() {
            let gone: Vec<Key> = self.objects.keys().filter(|(of, _, _)| of == plural).cloned().collect();
            for (_, namespace, name) in gone {
                let _deleted = self.delete(plural, &namespace, &name).is_ok();
            }
        }
        let versions = versions.iter().map(|version| (*version).to_owned()).collect();
        self.served.insert(plural.to_owned(), versions);
    }
}
