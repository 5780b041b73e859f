//! Puts the routes of delegates in the place of the routes that delegate to them (Istio's
//! pilot/pkg/model/virtualservice.go).
//!
//! A delegate's route stands under the conditions of both: each of its matches must be a special case of
//! one of the root's, else it could take what the root never meant for it, and it is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::findings::Findings;
use crate::resource::string_match::StringMatch;
use crate::resource::virtual_service::{HttpAction, HttpMatch, HttpRoute};
use crate::resource::{Kind, Level, Resource, ResourceKey, VirtualService, World};

#[derive(Clone, Copy, Debug)]
pub(super) struct Delegates<'a> {
    pub(super) world: &'a World,
    pub(super) findings: &'a Findings,
}

impl Delegates<'_> {
    /// The VirtualService with the routes of its delegates; itself when it has none.
    pub(super) fn resolve(self, root: &Arc<VirtualService>) -> Arc<VirtualService> {
        if !root.http.iter().any(|route| delegate_of(root, route).is_some()) {
            return Arc::clone(root);
        }
        let meta = Arc::new(root.meta.clone());
        let mut http = Vec::new();
        for (index, route) in root.http.iter().enumerate() {
            match delegate_of(root, route) {
                Some(key) => http.extend(self.routes_of(root, index, route, &key)),
                None => {
                    http.push(HttpRoute { written: Some((Arc::clone(&meta), index)), ..route.clone() });
                }
            }
        }
        Arc::new(VirtualService { http, ..VirtualService::clone(root) })
    }

    fn routes_of(
        self,
        root: &VirtualService,
        index: usize,
        route: &HttpRoute,
        key: &ResourceKey,
    ) -> Vec<HttpRoute> {
        let report = |message: String| {
            let field = format!("spec.http[{index}].delegate");
            self.findings.coded("IST0101", &root.meta, Level::Error, route.position, &field, message);
        };
        let Some(Resource::VirtualService(delegate)) = self.world.resources.get(key) else {
            report(format!(
                "delegate {key} not found: this route is left out; its name and namespace must be those of \
                            a VirtualService without hosts"
            ));
            return Vec::new();
        };
        if !delegate.is_delegate() {
            report(format!("{key} has hosts, so that it is no delegate: this route is left out"));
            return Vec::new();
        }
        let export_to = delegate.export_to.or(&self.world.mesh.default_virtual_service_export_to);
        if !export_to.reaches(delegate.meta.namespace(), root.meta.namespace()) {
            report(format!(
                "delegate {key} is not exported to namespace {}: this route is left out; add it to exportTo there",
                root.meta.namespace()
            ));
            return Vec::new();
        }
        let meta = Arc::new(delegate.meta.clone());
        let mut merged = Vec::new();
        for (number, of_delegate) in delegate.http.iter().enumerate() {
            match merge(route, of_delegate) {
                Some(mut both) => {
                    both.written = Some((Arc::clone(&meta), number));
                    merged.push(both);
                }
                None => self.findings.coded(
                    "EGR0123",
                    &delegate.meta,
                    Level::Warning,
                    of_delegate.position,
                    &format!("spec.http[{number}].match"),
                    format!(
                        "{}: there this route is left out; every match must be a special case of one of those",
                        conflict(root, index)
                    ),
                ),
            }
        }
        merged
    }
}

/// What is wrong with a delegate's route that [`is_conflict`].
pub(crate) fn conflict(root: &VirtualService, index: usize) -> String {
    format!("conflicts with the match of {} (http[{index}]), which delegates to it", root.meta.key)
}

/// Whether the delegate's route is left out under the root's.
pub(crate) fn is_conflict(root: &HttpRoute, delegate: &HttpRoute) -> bool {
    merge_matches(&root.matches, delegate.matches.clone()).is_none()
}

/// Those that somebody delegates to, whether they are there or not.
pub(super) fn used(world: &World) -> BTreeSet<ResourceKey> {
    let of_root = |root: &'_ Arc<VirtualService>| {
        root.http.iter().filter_map(|route| delegate_of(root, route)).collect()
    };
    world.virtual_services().flat_map::<Vec<_>, _>(of_root).collect()
}

/// Those without hosts that nobody delegates to.
pub(super) fn report_unused(world: &World, used: &BTreeSet<ResourceKey>, findings: &Findings) {
    let delegates = world.virtual_services().filter(|service| service.is_delegate());
    for meta in delegates.map(|service| &service.meta).filter(|meta| !used.contains(&meta.key)) {
        let message = "no hosts: only another VirtualService that delegates to this one could use it, and none does; \
                       give hosts if it is to act itself";
        findings.coded("EGR0121", meta, Level::Warning, meta.origin.position, "spec.hosts", message.into());
    }
}

fn delegate_of(root: &VirtualService, route: &HttpRoute) -> Option<ResourceKey> {
    match &route.action {
        HttpAction::Delegate { name, namespace } => Some(ResourceKey {
            kind: Kind::VirtualService,
            namespace: Arc::clone(namespace.as_ref().unwrap_or(root.meta.namespace())),
            name: Arc::clone(name),
        }),
        HttpAction::Route(_) | HttpAction::Redirect(_) | HttpAction::DirectResponse { .. } => None,
    }
}

/// What the delegate does not say is as the root says it. `None` when their matches conflict.
fn merge(root: &HttpRoute, delegate: &HttpRoute) -> Option<HttpRoute> {
    let delegate = delegate.clone();
    Some(HttpRoute {
        name: joined(root.name.as_ref(), delegate.name),
        matches: merge_matches(&root.matches, delegate.matches)?,
        action: delegate.action,
        timeout: delegate.timeout.or(root.timeout),
        retries: delegate.retries.or_else(|| root.retries.clone()),
        fault: delegate.fault.or_else(|| root.fault.clone()),
        mirroring: delegate.mirroring.or(&root.mirroring),
        cors: delegate.cors.or_else(|| root.cors.clone()),
        rewrite: delegate.rewrite.or_else(|| root.rewrite.clone()),
        headers: delegate.headers.or_else(|| root.headers.clone()),
        position: delegate.position,
        written: None,
    })
}

/// `root-delegate`.
fn joined(root: Option<&Arc<str>>, delegate: Option<Arc<str>>) -> Option<Arc<str>> {
    match (root, delegate) {
        (Some(root), Some(delegate)) => Some(format!("{root}-{delegate}").into()),
        (None, delegate) => delegate,
        (root, None) => root.cloned(),
    }
}

fn merge_matches(root: &[HttpMatch], delegate: Vec<HttpMatch>) -> Option<Vec<HttpMatch>> {
    if root.is_empty() {
        return Some(delegate);
    }
    if delegate.is_empty() {
        return Some(root.to_vec());
    }
    let mut merged = Vec::new();
    for leaf in &delegate {
        let before = merged.len();
        merged.extend(root.iter().filter(|root| !conflicts(root, leaf)).map(|root| both(root, leaf)));
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn both(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    let mut merged = leaf.clone();
    merged.name = joined(root.name.as_ref(), merged.name);
    merged.uri = merged.uri.or_else(|| root.uri.clone());
    merged.scheme = merged.scheme.or_else(|| root.scheme.clone());
    merged.method = merged.method.or_else(|| root.method.clone());
    merged.authority = merged.authority.or_else(|| root.authority.clone());
    add_missing(&mut merged.headers, &root.headers);
    add_missing(&mut merged.without_headers, &root.without_headers);
    add_missing(&mut merged.query_params, &root.query_params);
    merged.port = merged.port.or(root.port);
    let mut labels: BTreeMap<_, _> = root.source.labels.clone();
    labels.append(&mut merged.source.labels);
    merged.source.labels = labels;
    merged.source.namespace = merged.source.namespace.or_else(|| root.source.namespace.clone());
    if merged.source.gateways.is_empty() {
        merged.source.gateways.clone_from(&root.source.gateways);
    }
    merged
}

type Named = (Arc<str>, StringMatch);

fn add_missing(leaf: &mut Vec<Named>, root: &[Named]) {
    for (name, value) in root {
        if !leaf.iter().any(|(other, _)| other == name) {
            leaf.push((Arc::clone(name), value.clone()));
        }
    }
}

/// Whether a request may satisfy `leaf` that does not satisfy `root`, as Istio sees it.
fn conflicts(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let strings = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let lists = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    strings.into_iter().any(|(root, leaf)| match (root, leaf) {
        (Some(root), Some(leaf)) => strings_conflict(root, leaf),
        (None, _) | (_, None) => false,
    }) || lists.into_iter().any(|(root, leaf)| named_conflict(root, leaf))
        || root.ignore_uri_case != leaf.ignore_uri_case
        || differ(root.port.as_ref(), leaf.port.as_ref())
        || root.source.namespace.is_some() && root.source.namespace != leaf.source.namespace
        || leaf.source.labels.iter().any(|(name, value)| differ(root.source.labels.get(name), Some(value)))
        || !root.source.gateways.is_empty()
            && leaf.source.gateways.iter().any(|gateway| !root.source.gateways.contains(gateway))
}

fn differ<T: PartialEq>(root: Option<&T>, leaf: Option<&T>) -> bool {
    matches!((root, leaf), (Some(root), Some(leaf)) if root != leaf)
}

fn named_conflict(root: &[Named], leaf: &[Named]) -> bool {
    leaf.iter().any(|(name, value)| {
        let same_name = root.iter().find(|(other, _)| other == name);
        same_name.is_some_and(|(_, root)| strings_conflict(root, value))
    })
}

/// Regular expressions go with nothing; `Present` is one of `*`, or says nothing.
fn strings_conflict(root: &StringMatch, leaf: &StringMatch) -> bool {
    match (root, leaf) {
        (StringMatch::Exact(root), StringMatch::Exact(leaf)) => root != leaf,
        (StringMatch::Prefix(root), StringMatch::Prefix(leaf) | StringMatch::Exact(leaf)) => {
            !leaf.starts_with(&**root)
        }
        (StringMatch::Exact(_) | StringMatch::Prefix(_), _)
        | (StringMatch::Regex(_) | StringMatch::Present, _) => true,
    }
}
