//! The last steps: the clusters that a route leads to, their endpoints, TLS and limits, and what comes of it.

use std::net::SocketAddr;

use http::Request;

use super::explanation::{Explanation, Lookup, Outcome, PassedOver, Step};
use super::target::Spoken;
use super::{
    Context, TcpRoute, considered, filters, intercepted, merged, outcome, places, settings, strict, tls,
    words,
};
use crate::compile::unix_endpoints;
use crate::proxy::upstream::UpstreamError;
use crate::resource::{ALLOW_FROM, Resource, ResourceKey};
use crate::snapshot::{Cluster, ClusterName, Discovery, EndpointAddress, Forward, Route, WeightedCluster};

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
    explanation.steps.push(original_address(explanation, destination.port(), destination));
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
    let spoken = context.spoken().0;
    each(context, destination, &route.clusters, explanation, |cluster, name| match cluster {
        Some(cluster)
            if spoken == Spoken::Tls
                && cluster.is_original_dst()
                && strict::refuses(context, destination, Some(cluster)) =>
        {
            outcome::mismatched(name, None, spoken)
        }
        None if context.snapshot.around_gateway.contains(&ClusterName(name.into())) => {
            outcome::around_gateway(name)
        }
        None => outcome::bytes_failed(name, None),
        Some(cluster) => match failure(context, cluster) {
            Some(error) => outcome::bytes_failed(name, Some(&error)),
            None => outcome::bytes_sent(name),
        },
    });
}

pub(super) fn forward(
    context: Context<'_>,
    destination: SocketAddr,
    route: &Route,
    forward: &Forward,
    request: &Request<()>,
    explanation: &mut Explanation,
) {
    explanation.steps.extend(filters::before(context, route, forward));
    explanation.outcomes = intercepted::outcomes(route, forward, request, || {
        sent(context, destination, route, forward, explanation);
        std::mem::take(&mut explanation.outcomes)
    });
}

/// What is not answered here.
fn sent(
    context: Context<'_>,
    destination: SocketAddr,
    route: &Route,
    forward: &Forward,
    explanation: &mut Explanation,
) {
    each(context, destination, &forward.clusters, explanation, |cluster, name| match cluster {
        Some(cluster)
            if cluster.is_original_dst() && strict::refuses(context, destination, Some(cluster)) =>
        {
            outcome::mismatched(name, Some(route), Spoken::Http)
        }
        None => outcome::refused_by(route, context.snapshot.refusal_without(&ClusterName(name.into()))),
        Some(cluster) => match failure(context, cluster) {
            Some(error) => outcome::request_failed(name, route, &error),
            None => outcome::request_sent(name, route),
        },
    });
    let mut step = Step::new(
        "limits",
        format!(
            "timeout {}; retries: {}",
            words::duration(forward.timeout),
            words::retries(forward.retries.as_ref())
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
    explanation: &mut Explanation,
    outcome: impl Fn(Option<&Cluster>, &str) -> Outcome,
) {
    let total: u64 = clusters.iter().map(|weighted| u64::from(weighted.weight)).sum();
    for weighted in clusters {
        let share = (clusters.len() > 1).then(|| format!("{}/{total}", weighted.weight));
        let name = &weighted.cluster.name;
        let cluster = weighted.cluster.cluster.as_deref();
        explanation.steps.push(cluster_step(context, name, cluster, share.as_deref()));
        if let Some(cluster) = cluster {
            let endpoints = endpoints_step(context, cluster, destination, explanation);
            explanation.steps.push(endpoints);
            explanation.steps.extend(tls::step(context, cluster));
        }
        explanation.outcomes.push(Outcome { share, ..outcome(cluster, &name.0) });
    }
}

/// What is known to fail before anything is sent.
fn failure(context: Context<'_>, cluster: &Cluster) -> Option<UpstreamError> {
    if let Discovery::Static(endpoints) = &cluster.discovery
        && endpoints.is_empty()
    {
        return Some(UpstreamError::NoHealthyUpstream(None));
    }
    let tls = cluster.tls.as_ref()?;
    let reason = tls.impossible.clone().or_else(|| {
        // The directory was given for this; files that a rule names may be there where the proxy runs.
        tls.credential.as_ref().and_then(|_| (context.question.look_at_files)(tls).err()).map(Into::into)
    })?;
    Some(UpstreamError::TlsUnavailable(reason))
}

fn cluster_step(
    context: Context<'_>,
    name: &ClusterName,
    cluster: Option<&Cluster>,
    share: Option<&str>,
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
    step.notes.extend(settings::told(cluster));
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

fn endpoints_step(
    context: Context<'_>,
    cluster: &Cluster,
    destination: SocketAddr,
    explanation: &mut Explanation,
) -> Step {
    let mut names = Vec::new();
    let mut step = match &cluster.discovery {
        Discovery::OriginalDst { port } => {
            original_address(explanation, port.unwrap_or(destination.port()), destination)
        }
        Discovery::Static(endpoints) if endpoints.is_empty() => {
            Step::new("endpoints", "none: there is nobody to send to")
        }
        Discovery::Static(endpoints) => {
            let weights = endpoints.iter().any(|endpoint| endpoint.weight != 1);
            let each = endpoints.iter().map(|endpoint| match weights {
                true => format!("{} (weight {})", endpoint.address.written(), endpoint.weight),
                false => endpoint.address.written(),
            });
            let mut step = Step::new("endpoints", words::few(each));
            if endpoints.iter().any(|endpoint| matches!(endpoint.address, EndpointAddress::Unix(_))) {
                step.notes.push(
                    "unix sockets are looked for in the mount namespace of the proxy, not in the workload's"
                        .into(),
                );
            }
            step
        }
        Discovery::StrictDns(targets) => {
            names.extend(targets.iter().map(|target| target.host.clone()));
            let each = targets.iter().map(|target| format!("{}:{}", target.host, target.port));
            Step::new("endpoints", format!("every address of {}", words::few(each)))
        }
        Discovery::LogicalDns(target) => {
            names.push(target.host.clone());
            Step::new("endpoints", format!("an address of {}:{}", target.host, target.port))
        }
        Discovery::DynamicDns { port } => {
            let name = context.server_name().unwrap_or_else(|| context.question.target.host.clone());
            names.push(name.as_str().into());
            let port = port.unwrap_or(destination.port());
            Step::new("endpoints", format!("an address of {name}:{port}: the name that is asked for"))
        }
    };
    names.retain(|name| name.parse::<std::net::IpAddr>().is_err());
    let position = explanation.steps.len();
    explanation.lookups.extend(names.into_iter().map(|host| Lookup { host, step: position }));
    if let Some(Resource::ServiceEntry(entry)) =
        cluster.source.as_ref().and_then(|source| context.world.resources.get(&source.service))
    {
        step.notes.push(format!("{} has resolution {}", entry.meta.key, entry.resolution));
        let refused = unix_endpoints::refused(&context.settings.unix_endpoints, entry, context.world);
        step.passed_over.extend(refused.into_iter().map(|refused| PassedOver {
            place: places::place(refused.meta, Some(refused.field), refused.endpoint.position),
            why: format!("{}: --allow-unix-endpoints does not allow it", refused.endpoint.address),
        }));
    }
    step
}

fn original_address(explanation: &Explanation, port: u16, destination: SocketAddr) -> Step {
    let whom = match explanation.destination.address {
        Some(_) => SocketAddr::new(destination.ip(), port).to_string(),
        None => format!("the address that was asked for, port {port}"),
    };
    Step::new("endpoints", whom)
}
