//! The last steps: the clusters that a route leads to, who may use them, their endpoints, TLS and limits, and what comes of
//! it.

use std::net::SocketAddr;

use http::Request;

use super::access::{self, Access};
use super::explanation::{Explanation, Outcome, Step};
use super::now::{self, Now};
use super::off_limits::Way;
use super::target::Spoken;
use super::{
    Context, TcpRoute, considered, endpoints, filters, intercepted, merged, off_limits, outcome, settings,
    strict, tls, words,
};
use crate::proxy::upstream::UpstreamError;
use crate::resource::{ALLOW_FROM, Resource, ResourceKey};
use crate::snapshot::route::host_of;
use crate::snapshot::{Cluster, ClusterName, Discovery, Forward, Refusal, Route, WeightedCluster};

/// To the address that was asked for.
pub(super) fn passthrough(
    context: Context<'_>,
    destination: SocketAddr,
    route: Option<&Route>,
    explanation: &mut Explanation,
) {
    let mut step = Step::new("cluster", ClusterName::PASSTHROUGH);
    if route.is_some() {
        // The virtual host told it.
        step.notes.push("the request keeps its address".into());
    }
    step.notes.extend(strict_note(context));
    explanation.steps.push(step);
    explanation.steps.push(endpoints::original_address(explanation, destination.port(), destination));
    let spoken = context.spoken().0;
    explanation.outcomes.push(match route {
        _ if strict::refuses(context, destination, None) => {
            outcome::mismatched(ClusterName::PASSTHROUGH, route, spoken)
        }
        Some(route) => outcome::request_sent(ClusterName::PASSTHROUGH, route),
        None => outcome::bytes_sent(ClusterName::PASSTHROUGH),
    });
}

pub(super) fn opaque(
    context: Context<'_>,
    destination: SocketAddr,
    route: &TcpRoute,
    explanation: &mut Explanation,
) {
    let sent = Sent::Bytes { client_chose: route.client_chose };
    each(context, destination, &route.clusters, sent, explanation);
}

/// What is sent to a cluster.
#[derive(Clone, Copy)]
enum Sent<'a> {
    /// By a route of which the client chose the cluster, or not.
    Bytes { client_chose: bool },
    /// By a route, with the Host as it came.
    Request(&'a Route, &'a str),
}

impl Sent<'_> {
    /// The name that goes on: by it rules are asked and names looked up.
    fn name(self, context: Context<'_>, weighted: &WeightedCluster) -> Option<String> {
        let Self::Request(route, host) = self else { return context.server_name() };
        let of_route = route.changes.as_deref().and_then(|changes| changes.authority.as_ref());
        let of_destination = || weighted.changes.as_deref()?.authority.as_ref();
        let written = of_route.or_else(of_destination).and_then(|host| host.to_str().ok());
        Some(host_of(written.unwrap_or(host)).to_ascii_lowercase())
    }

    fn client_chose(self) -> bool {
        matches!(self, Self::Bytes { client_chose: true })
    }

    fn route(&self) -> Option<&Route> {
        match self {
            Self::Bytes { .. } => None,
            Self::Request(route, _) => Some(route),
        }
    }

    /// With whoever sends it let through.
    fn outcome(
        self,
        context: Context<'_>,
        destination: SocketAddr,
        weighted: &WeightedCluster,
        now: &Now,
    ) -> Outcome {
        let name = &*weighted.cluster.name.0;
        let spoken = context.spoken().0;
        let Some(cluster) = weighted.cluster.cluster.as_deref() else {
            let refusal = context.snapshot.refusal_without(&weighted.cluster.name);
            return match self {
                Self::Request(route, _) => outcome::refused_by(route, refusal),
                Self::Bytes { .. } if refusal == Refusal::AroundGateway => outcome::around_gateway(name),
                Self::Bytes { .. } => outcome::bytes_failed(name, None),
            };
        };
        let is_named = self.route().is_some() || spoken == Spoken::Tls;
        if is_named && cluster.is_original_dst() && strict::refuses(context, destination, Some(cluster)) {
            return outcome::mismatched(name, self.route(), spoken);
        }
        let goes_on = self.name(context, weighted);
        let way = Way { cluster, destination, name: goes_on.as_deref(), client_chose: self.client_chose() };
        match (self, failure(context, way).or_else(|| now.failure.clone())) {
            (Self::Request(route, _), Some(error)) => outcome::request_failed(name, route, &error),
            (Self::Request(route, _), None) => outcome::request_sent(name, route),
            (Self::Bytes { .. }, Some(error)) => outcome::bytes_failed(name, Some(&error)),
            (Self::Bytes { .. }, None) => outcome::bytes_sent(name),
        }
    }
}

pub(super) fn forward(
    context: Context<'_>,
    destination: SocketAddr,
    route: &Route,
    forward: &Forward,
    request: &Request<()>,
    host: &str,
    explanation: &mut Explanation,
) {
    explanation.steps.extend(filters::before(context, route, forward));
    explanation.outcomes = intercepted::outcomes(route, forward, request, || {
        sent(context, destination, route, forward, host, explanation);
        std::mem::take(&mut explanation.outcomes)
    });
}

/// What is not answered here.
fn sent(
    context: Context<'_>,
    destination: SocketAddr,
    route: &Route,
    forward: &Forward,
    host: &str,
    explanation: &mut Explanation,
) {
    each(context, destination, &forward.clusters, Sent::Request(route, host), explanation);
    let mut step = Step::new(
        "limits",
        format!(
            "timeout {}; retries: {}",
            words::duration(forward.timeout),
            words::retries(forward.retries.as_deref())
        ),
    );
    step.by.extend(route.source.as_ref().map(|source| context.place_of_source(source)));
    step.notes.extend(route.changes.as_deref().map(words::changes));
    explanation.steps.push(step);
    explanation.steps.extend(filters::beside(context, route, forward));
}

/// Tells each cluster that has a share.
fn each(
    context: Context<'_>,
    destination: SocketAddr,
    clusters: &[WeightedCluster],
    sent: Sent<'_>,
    explanation: &mut Explanation,
) {
    let total: u64 = clusters.iter().map(|weighted| u64::from(weighted.weight)).sum();
    for weighted in clusters {
        let share = (clusters.len() > 1).then(|| format!("{}/{total}", weighted.weight));
        let name = &weighted.cluster.name;
        let cluster = weighted.cluster.cluster.as_deref();
        explanation.steps.push(cluster_step(context, (name, cluster), share.as_deref(), sent));
        let mut access = Access::Open;
        let mut now = Now::default();
        if let Some(cluster) = cluster {
            let goes_on = sent.name(context, weighted);
            access = access::access(context, cluster, goes_on.as_deref());
            explanation.steps.extend(access::step(context, cluster, goes_on.as_deref()));
            let way =
                Way { cluster, destination, name: goes_on.as_deref(), client_chose: sent.client_chose() };
            now = now::now(context, way);
            let endpoints = endpoints::step(context, way, &now, explanation);
            explanation.steps.push(endpoints);
            explanation.steps.extend(tls::step(context, cluster, way.client_chose));
        }
        let carried =
            || Outcome { share: share.clone(), ..sent.outcome(context, destination, weighted, &now) };
        let refused = || Outcome { share: share.clone(), ..outcome::not_allowed(&name.0, sent.route()) };
        match access {
            Access::Open | Access::Allowed => explanation.outcomes.push(carried()),
            Access::Refused => explanation.outcomes.push(refused()),
            Access::Depends => {
                explanation.outcomes.push(carried().of("those whom the rule names"));
                explanation.outcomes.push(refused().of("others"));
            }
        }
    }
}

/// What is known to fail before anything is sent.
fn failure(context: Context<'_>, way: Way<'_>) -> Option<UpstreamError> {
    let Way { cluster, client_chose, .. } = way;
    if let Discovery::Static(endpoints) = &cluster.discovery
        && endpoints.is_empty()
    {
        return Some(UpstreamError::NoHealthyUpstream(None));
    }
    let of_tls = cluster.tls.as_ref().filter(|_| !client_chose).and_then(|tls| {
        tls.impossible.clone().or_else(|| (context.question.look_at_files)(tls).err().map(Into::into))
    });
    let of_tls = of_tls.map(UpstreamError::TlsUnavailable);
    of_tls.or_else(|| off_limits::refusal(context, way))
}

fn cluster_step(
    context: Context<'_>,
    (name, cluster): (&ClusterName, Option<&Cluster>),
    share: Option<&str>,
    sent: Sent<'_>,
) -> Step {
    let share = share.map(|share| format!(" for {share} of all")).unwrap_or_default();
    let Some(cluster) = cluster else { return missing(context, name, &share) };
    let mut step = Step::new("cluster", format!("{name}{share}"));
    if let Some(source) = &cluster.source {
        step.notes.extend(allow_from_note(context, &source.service).filter(|_| !context.is_gateway()));
        step.by.push(context.place_of_host(&source.service, &cluster.host));
        let rules = merged::rules(context, &source.destination_rules, subset_of(name));
        step.by.extend(rules.by.iter().map(|key| context.place_of(key)));
        step.passed_over = rules.passed_over;
        step.passed_over.extend(considered::destination_rules(
            context,
            &cluster.host,
            &source.service,
            &source.destination_rules,
        ));
        step.passed_over.extend(considered::service_entries(context, &cluster.host, cluster.port));
    }
    step.notes.extend(settings::told(cluster, sent.route().is_some()));
    step.notes.extend(strict_note(context).filter(|_| cluster.is_original_dst()));
    step
}

/// Who reads an entry's rule may think that it acts here.
fn allow_from_note(context: Context<'_>, service: &ResourceKey) -> Option<String> {
    let Some(Resource::ServiceEntry(entry)) = context.world.resources.get(service) else { return None };
    let allowed = &entry.meta.annotations.get(ALLOW_FROM)?.value;
    Some(format!(
        "{ALLOW_FROM} ({allowed}) is not asked here: it acts at an egress gateway, and this way leads around it"
    ))
}

/// Where the original address is used, a strict policy wants the name to be one of it.
fn strict_note(context: Context<'_>) -> Option<String> {
    context.snapshot.strict.then(|| {
        "the policy is strict: unless DNS gives the name this address, HTTP gets 403 and anything else is reset (UAEX)".into()
    })
}

/// The subset that a cluster is of; empty for the whole service.
pub(super) fn subset_of(name: &ClusterName) -> &str {
    name.0.split('|').nth(2).unwrap_or_default()
}

/// A cluster that a route names and nothing declares.
fn missing(context: Context<'_>, name: &ClusterName, share: &str) -> Step {
    if context.snapshot.around_gateway.contains(name) {
        let mut step =
            Step::new("cluster", format!("{name}{share}: refused, it leads around the egress gateway"));
        step.notes.push(
            "the gateway is enforced (egress.interceptor.io/enforce), and this host is no Service of the cluster with a \
             selector and endpoints that Kubernetes finds by it: have a VirtualService lead it to the gateway's Service"
                .into(),
        );
        return step;
    }
    let mut step = Step::new("cluster", format!("{name}{share}: there is no such cluster"));
    let mut parts = name.0.split('|').skip(1);
    let port: Option<u16> = parts.next().and_then(|port| port.parse().ok());
    let (subset, host) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let ports = context.ports_of(host);
    let (true, Some(port)) = (!ports.is_empty(), port) else {
        step.notes.push(format!("no service that is seen from here has host {host}"));
        step.passed_over =
            port.map(|port| considered::service_entries(context, host, port)).unwrap_or_default();
        return step;
    };
    if !ports.contains(&port) {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        step.notes.push(format!("{host} has no port {port}, only {}", ports.join(", ")));
        return step;
    }
    let whole = context.snapshot.clusters.get(&ClusterName::outbound(port, "", host));
    let source = whole.and_then(|cluster| cluster.source.as_ref());
    let declared = source.and_then(|source| merged::subset(context, &source.destination_rules, subset));
    if let Some((found, place)) = declared {
        let labels: Vec<String> =
            found.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        step.notes.push(format!(
            "the labels of subset {subset} ({}) select no endpoint of {host}",
            labels.join(",")
        ));
        step.by.push(place);
        return step;
    }
    step.notes.push(match source {
        Some(source) if !source.destination_rules.is_empty() => {
            let rules: Vec<String> = source.destination_rules.iter().map(ToString::to_string).collect();
            format!("{} has no subset {subset}", rules.join(" and "))
        }
        Some(_) | None => {
            format!("no DestinationRule of {host} is seen from here that could have subset {subset}")
        }
    });
    if let Some(source) = source {
        step.by.extend(source.destination_rules.iter().map(|key| context.place_of(key)));
        step.passed_over =
            considered::destination_rules(context, host, &source.service, &source.destination_rules);
    }
    step
}
