//! Which groups, versions and kinds there are.

use serde_json::{Value, json};

use super::objects::{BUILT_IN, ISTIO, ISTIO_KINDS, Objects};

/// What a discovery path answers; `None` when it is none, or there is nothing.
pub(super) fn answer(objects: &Objects, path: &str) -> Option<Value> {
    let steps: Vec<&str> = path.trim_matches('/').split('/').collect();
    match &steps[..] {
        ["version"] => Some(json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0"})),
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["apis"] => {
            let names = ["apps", "discovery.k8s.io", "events.k8s.io", ISTIO];
            let groups: Vec<Value> = names.iter().filter_map(|name| group(objects, name)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["api", "v1"] => resources(objects, "", "v1"),
        ["apis", name] => group(objects, name),
        ["apis", name, version] => resources(objects, name, version),
        _ => None,
    }
}

fn group(objects: &Objects, name: &str) -> Option<Value> {
    let versions: Vec<&str> = if name == ISTIO {
        let is_served = |version: &&str| {
            ISTIO_KINDS
                .iter()
                .any(|(plural, _)| objects.served(plural).is_some_and(|versions| versions.contains(*version)))
        };
        ["v1", "v1beta1", "v1alpha3"].into_iter().filter(is_served).collect()
    } else {
        let mut of_group = BUILT_IN.iter().filter(|(group, ..)| *group == name && !name.is_empty());
        of_group.next().map(|(_, version, ..)| vec![*version]).unwrap_or_default()
    };
    let version = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let preferred = version(versions.first()?);
    let versions: Vec<Value> = versions.iter().map(version).collect();
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": preferred,
    }))
}

fn resources(objects: &Objects, group: &str, version: &str) -> Option<Value> {
    let resource = |plural: &str, kind: &str, is_namespaced: bool| {
        json!({
            "name": plural, "singularName": kind.to_lowercase(), "namespaced": is_namespaced, "kind": kind,
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        })
    };
    let resources: Vec<Value> = if group == ISTIO {
        let served = ISTIO_KINDS
            .iter()
            .filter(|(plural, _)| objects.served(plural).is_some_and(|versions| versions.contains(version)));
        served.map(|(plural, kind)| resource(plural, kind, true)).collect()
    } else {
        let of_group = BUILT_IN.iter().filter(|(of, in_version, ..)| *of == group && *in_version == version);
        of_group.map(|(_, _, plural, kind, is_namespaced)| resource(plural, kind, *is_namespaced)).collect()
    };
    if resources.is_empty() {
        return None;
    }
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources}))
}
