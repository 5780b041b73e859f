//! The HTTP routes of one VirtualService on one port (Istio's core/route/route.go).

use std::sync::Arc;

use super::clusters::Clusters;
use super::findings::Findings;
use super::registry::Registry;
use super::shared::Shared;
use super::{Client, changes, http_filters, retries};
use crate::resource::string_match::as_written;
use crate::resource::virtual_service::{
    Destination, HttpAction, HttpMatch, HttpRoute, SourceMatch, gateway_meant, is_for_mesh, mend_of_unknown,
};
use crate::resource::{Level, Meta, ResourceKey, Retries, VirtualService};
use crate::snapshot::{
    ClusterRef, DirectResponse, Discovery, Forward, HeaderMatch, Mirror, RetryPolicy, Route, RouteAction,
    RouteMatch, Rule, Source, StringMatch, WeightedCluster,
};

/// What translating a VirtualService needs to know.
#[derive(Debug)]
pub(super) struct Translator<'a> {
    pub(super) registry: &'a Registry,
    pub(super) clusters: &'a Clusters,
    pub(super) findings: &'a Findings,
    /// MeshConfig.defaultHttpRetryPolicy.
    pub(super) default_retries: Option<&'a Retries>,
    pub(super) retries: &'a Shared<RetryPolicy>,
    pub(super) client: &'a Client,
    pub(super) entrance: Entrance<'a>,
}

/// Which traffic is translated for, as a match's `gateways` has it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entrance<'a> {
    /// What workloads send.
    Mesh,
    /// What comes in through this Gateway.
    Gateway(&'a ResourceKey),
}

impl Entrance<'_> {
    /// Whether a match in `namespace` with these gateways lets it in; none let in all.
    pub(super) fn is_named(self, gateways: &[Arc<str>], namespace: &str) -> bool {
        match self {
            Self::Mesh => is_for_mesh(gateways),
            Self::Gateway(key) => {
                let is_it = |reference: &Arc<str>| {
                    gateway_meant(reference, namespace) == (&*key.namespace, &*key.name)
                };
                gateways.is_empty() || gateways.iter().any(is_it)
            }
        }
    }
}

/// A VirtualService and the place in it that is being translated.
#[derive(Clone, Copy)]
struct Place<'a> {
    service: &'a VirtualService,
    route: &'a HttpRoute,
    index: usize,
    port: u16,
}

impl Place<'_> {
    /// Whose text the route is: its delegate's, if it came from one.
    fn meta(&self) -> &Meta {
        self.route.written.as_ref().map_or(&self.service.meta, |(meta, _)| meta)
    }

    fn index(&self) -> usize {
        self.route.written.as_ref().map_or(self.index, |(_, index)| *index)
    }

    fn field(&self, name: &str) -> String {
        format!("spec.http[{}].{name}", self.index())
    }
}

impl Translator<'_> {
    /// Its routes on `port`; empty when none can match there.
    pub(super) fn routes(&self, service: &VirtualService, port: u16) -> Vec<Route> {
        let mut routes = Vec::new();
        for (index, route) in service.http.iter().enumerate() {
            let place = Place { service, route, index, port };
            if route.matches.is_empty() {
                routes.extend(self.route(place, None));
                break;
            }
            for (number, condition) in route.matches.iter().enumerate() {
                let on_port = condition.port.is_none_or(|wanted| wanted == port);
                if on_port && self.source_matches(service, condition) {
                    routes.extend(self.route(place, Some((number, condition))));
                }
            }
        }
        routes
    }

    /// Where a match names gateways, its labels and namespace count for nothing.
    fn source_matches(&self, service: &VirtualService, condition: &HttpMatch) -> bool {
        if !condition.source.gateways.is_empty() {
            return self.entrance.is_named(&condition.source.gateways, service.meta.namespace());
        }
        self.client_matches(&condition.source)
    }

    /// Whether the client is one that a match means.
    pub(super) fn client_matches(&self, source: &SourceMatch) -> bool {
        self.client.has_labels(&source.labels)
            && source.namespace.as_ref().is_none_or(|namespace| *namespace == self.client.namespace)
    }

    fn route(&self, place: Place<'_>, condition: Option<(usize, &HttpMatch)>) -> Option<Route> {
        // A delegate's matches are merged with its root's: no single one is in the text.
        let number =
            condition.map(|(number, _)| number).filter(|_| place.meta().key == place.service.meta.key);
        let rule = Rule::Http { route: place.index(), condition: number };
        let condition = condition.map(|(_, condition)| condition);
        let mut name = place.route.name.as_deref().unwrap_or_default().to_owned();
        if let Some(of_match) = condition.and_then(|condition| condition.name.as_deref()) {
            name = format!("{name}.{of_match}");
        }
        Some(Route {
            name: name.into(),
            matches: condition.and_then(route_match).into_iter().collect(),
            action: self.action(place, condition)?,
            changes: changes::of(place.route, condition),
            source: Some(Source::rule(&place.meta().key, rule)),
        })
    }

    fn action(&self, place: Place<'_>, condition: Option<&HttpMatch>) -> Option<RouteAction> {
        match &place.route.action {
            // What could be found for it stands in its place already.
            HttpAction::Delegate { .. } => None,
            HttpAction::DirectResponse { status, body } => {
                let body = bytes::Bytes::copy_from_slice(body);
                Some(RouteAction::DirectResponse(Arc::new(DirectResponse { status: *status, body })))
            }
            HttpAction::Redirect(redirect) => {
                Some(RouteAction::Redirect(Arc::new(changes::redirect(redirect, condition, place.port))))
            }
            HttpAction::Route(destinations) => self.forward(place, condition, destinations),
        }
    }

    fn forward(
        &self,
        place: Place<'_>,
        condition: Option<&HttpMatch>,
        destinations: &[Destination],
    ) -> Option<RouteAction> {
        let clusters = self.weighted(place.meta(), destinations, place.port, &place.field("route"));
        let path = condition.map_or_else(|| "/*".to_owned(), operation_path);
        let operation = match &clusters[..] {
            [] => return None,
            [only] => {
                let (port, host) = port_and_host(&only.cluster);
                format!("{host}:{port}{path}")
            }
            _ => format!("{}:{}{path}", place.service.meta.name(), place.port),
        };
        let retries = place.route.retries.as_deref().or(self.default_retries);
        let timeout = place.route.timeout.filter(|timeout| !timeout.is_zero());
        Some(RouteAction::Forward(Arc::new(Forward {
            timeout,
            retries: retries::policy(retries, timeout).map(|policy| self.retries.get(policy)),
            fault: place.route.fault.as_deref().and_then(http_filters::fault),
            cors: place.route.cors.as_deref().map(|policy| Box::new(http_filters::cors(policy))),
            mirrors: self.mirrors(place),
            ..Forward::to(clusters, operation.into())
        })))
    }

    fn mirrors(&self, place: Place<'_>) -> Vec<Mirror> {
        let mirror = |(destination, percentage)| Mirror {
            cluster: self.destination(place.meta(), destination, place.port, &place.field("mirror")),
            share: http_filters::share(percentage),
        };
        place.route.mirroring.all().map(mirror).collect()
    }

    /// The clusters of a list of destinations. The weight of a single one counts for nothing; of several,
    /// those without weight get nothing.
    pub(super) fn weighted(
        &self,
        meta: &Meta,
        destinations: &[Destination],
        listener_port: u16,
        field: &str,
    ) -> Vec<WeightedCluster> {
        let single = destinations.len() == 1;
        let used = destinations.iter().filter(|destination| single || destination.weight > 0);
        let mut clusters = Vec::with_capacity(destinations.len());
        clusters.extend(used.map(|destination| WeightedCluster {
            cluster: self.destination(meta, destination, listener_port, &format!("{field}.destination")),
            weight: if single { 1 } else { destination.weight },
            // A single one's are among the route's own.
            changes: destination.headers.as_deref().filter(|_| !single).and_then(changes::of_destination),
        }));
        clusters
    }

    fn destination(
        &self,
        meta: &Meta,
        destination: &Destination,
        listener_port: u16,
        field: &str,
    ) -> ClusterRef {
        let host = &*destination.host;
        let port = destination.port.or_else(|| self.registry.only_port(host)).unwrap_or(listener_port);
        let subset = destination.subset.as_deref().unwrap_or_default();
        let cluster = self.clusters.named(port, subset, host);
        let report = |message: String| {
            self.findings.coded("IST0101", meta, Level::Error, destination.position, field, message);
        };
        match &cluster.cluster {
            Some(found) => {
                let keeps_port = found.discovery == Discovery::OriginalDst { port: None };
                if keeps_port && port != listener_port {
                    let message = format!(
                        "{host} has resolution NONE and no targetPort: connections to port {listener_port} keep that \
                         port and never reach {port}; use resolution DNS, or set targetPort: {port}"
                    );
                    self.findings.coded("EGR0109", meta, Level::Error, destination.position, field, message);
                }
            }
            None if self.clusters.around_gateway().contains(&cluster.name) => {}
            None if self.registry.of_host(host).next().is_none() => report(format!(
                "Referenced host not found: \"{host}\": requests get 503 (NC); {}",
                mend_of_unknown(host)
            )),
            None if !self.registry.of_host(host).any(|known| known.port(port).is_some()) => report(format!(
                "Referenced host:port not found: \"{host}:{port}\": requests get 503 (NC); declare the port in its \
                 ServiceEntry, or name one that is there"
            )),
            None => report(format!(
                "Referenced host+subset in destinationrule not found: \"{host}+{subset}\": requests get 503 (NC); \
                 add the subset to the DestinationRule of {host} that is seen from here"
            )),
        }
        cluster
    }
}

/// Port and host of a cluster name.
fn port_and_host(cluster: &ClusterRef) -> (&str, &str) {
    let mut parts = cluster.name.0.split('|').skip(1);
    let port = parts.next().unwrap_or_default();
    (port, parts.nth(1).unwrap_or_default())
}

/// The path part of `x-envoy-decorator-operation`.
fn operation_path(condition: &HttpMatch) -> String {
    match &condition.uri {
        None | Some(StringMatch::Present) => "/*".into(),
        Some(StringMatch::Exact(path)) => path.to_string(),
        Some(StringMatch::Prefix(prefix)) => format!("{prefix}*"),
        Some(StringMatch::Regex(regex)) => as_written(regex).to_owned(),
    }
}

/// `None` for a match that every request satisfies.
fn route_match(condition: &HttpMatch) -> Option<RouteMatch> {
    let header = |invert: bool| {
        move |(name, value): &(Arc<str>, StringMatch)| {
            let name = http::HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some(HeaderMatch { name, value: value.clone(), invert })
        }
    };
    let with = condition.headers.iter().filter_map(header(false));
    let without = condition.without_headers.iter().filter_map(header(true));
    let built = RouteMatch {
        uri: condition.uri.clone(),
        ignore_uri_case: condition.ignore_uri_case,
        method: condition.method.clone(),
        authority: condition.authority.clone(),
        scheme: condition.scheme.clone(),
        headers: with.chain(without).collect(),
        query_params: condition.query_params.clone(),
    };
    (built != RouteMatch::default()).then_some(built)
}
