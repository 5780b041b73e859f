//! Steps of an HTTP request: its virtual host, and there the first route that takes it.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderValue, Request, Version};

use super::explanation::{Explanation, PassedOver, Step};
use super::{Context, RequestFacts, considered, destinations, outcome};
use crate::resource::virtual_service::{HttpMatch, SourceMatch, gateway_meant, is_for_mesh};
use crate::resource::{Resource, ResourceKey, VirtualService, host};
use crate::snapshot::route::host_of;
use crate::snapshot::{Refusal, Route, RouteAction, RouteTable, Rule, Source, VirtualHost, request};

pub(super) fn tell(
    context: Context<'_>,
    destination: SocketAddr,
    table: &Arc<RouteTable>,
    ended_tls: bool,
    explanation: &mut Explanation,
) {
    let Some(request) = request(context) else {
        explanation.outcomes.push(outcome::refused(Refusal::Ambiguous));
        return;
    };
    let checked = request::check(request.version(), request.method(), request.uri(), request.headers());
    let host = match checked {
        Ok(host) => host,
        Err(refusal) => {
            let mut step = Step::new("request", format!("refused: {}", refusal.details()));
            step.notes.push("before any route is looked at".into());
            explanation.steps.push(step);
            explanation.outcomes.push(outcome::refused(refusal));
            return;
        }
    };
    let facts = RequestFacts::new(request.method(), request.uri(), &host, request.headers());
    let facts = RequestFacts { scheme: if ended_tls { "https" } else { "http" }, ..facts };
    let virtual_host = table.virtual_host(facts.authority);
    explanation.steps.push(virtual_host_step(context, table, virtual_host, facts.authority));
    let route = virtual_host.route(&facts);
    explanation.steps.push(route_step(context, virtual_host, route, &facts));
    let Some(route) = route else {
        explanation.outcomes.push(outcome::refused(Refusal::NoRoute));
        return;
    };
    match &route.action {
        RouteAction::Forward(forward) => {
            destinations::forward(
                context,
                destination,
                route,
                forward,
                &request,
                facts.authority,
                explanation,
            );
        }
        RouteAction::Passthrough => {
            destinations::passthrough(context, destination, Some(route), explanation);
        }
        RouteAction::Refused(refusal) => explanation.outcomes.push(outcome::refused_by(route, *refusal)),
        RouteAction::DirectResponse(direct) => explanation.outcomes.push(outcome::direct(route, direct)),
        RouteAction::Redirect(redirect) => {
            let location = redirect.location(facts.authority, request.uri());
            explanation.outcomes.push(outcome::redirect(route, redirect, &location));
        }
    }
}

/// The request that is asked about, its path as routes see it.
fn request(context: Context<'_>) -> Option<Request<()>> {
    let question = context.question;
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_11;
    *request.method_mut() = question.method.clone();
    *request.uri_mut() = question.target.path_and_query.parse().ok()?;
    context.snapshot.mesh.path_normalization.apply(request.uri_mut());
    request.headers_mut().clone_from(&question.headers);
    if !question.headers.contains_key(HOST) {
        request.headers_mut().insert(HOST, HeaderValue::from_str(&question.target.authority()).ok()?);
    }
    Some(request)
}

fn virtual_host_step(
    context: Context<'_>,
    table: &RouteTable,
    virtual_host: &Arc<VirtualHost>,
    authority: &str,
) -> Step {
    let name = host_of(authority).to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let is_catch_all = Arc::ptr_eq(virtual_host, &table.catch_all);
    let why = match (is_catch_all, &virtual_host.source) {
        (true, None) if context.is_gateway() => {
            format!("no VirtualService for the servers of this port has {name}")
        }
        (true, None) => format!("no service on this port has {name}"),
        (true, Some(_)) => "whatever the Host: the address decided already".to_owned(),
        (false, _) => format!("it has {name}"),
    };
    let mut step = Step::new("virtual host", format!("{}: {why}", virtual_host.name));
    let host = virtual_host.name.rsplit_once(':').map_or(&*virtual_host.name, |(host, _)| host);
    match &virtual_host.source {
        Some(source) => {
            // At a gateway several may have given it routes.
            let acting = if context.is_gateway() { acting(virtual_host) } else { Vec::new() };
            let resources = if acting.is_empty() { vec![&source.resource] } else { acting };
            step.by.extend(resources.into_iter().map(|resource| context.place_of_host(resource, host)));
        }
        None if context.is_gateway() => {}
        None => context.tell_policy_source(&mut step),
    }
    let mut others: Vec<String> = table
        .hosts
        .iter()
        .filter(|(pattern, other)| !Arc::ptr_eq(other, virtual_host) && host::matches(pattern, name))
        .map(|(pattern, _)| pattern)
        .collect();
    others.sort();
    step.notes.extend(others.iter().map(|pattern| format!("{pattern} matches, too, and is less specific")));
    step
}

/// The VirtualServices that its routes are of.
fn acting(virtual_host: &VirtualHost) -> Vec<&ResourceKey> {
    let sources = virtual_host.routes.iter().filter_map(|route| route.source.as_deref());
    let mut acting: Vec<&ResourceKey> = Vec::new();
    for source in sources.filter(|source| source.rule.is_some()) {
        if !acting.contains(&&source.resource) {
            acting.push(&source.resource);
        }
    }
    acting
}

fn route_step(
    context: Context<'_>,
    virtual_host: &VirtualHost,
    route: Option<&Route>,
    facts: &RequestFacts<'_>,
) -> Step {
    let mut step = match route {
        Some(route) => {
            let name = if route.name.is_empty() { "-" } else { &*route.name };
            Step::new("route", format!("{name}: {}", action(route)))
        }
        None => Step::new("route", "none takes the request"),
    };
    let source = route.and_then(|route| route.source.as_deref());
    step.by.extend(source.map(|source| context.place_of_source(source)));
    let before = virtual_host
        .routes
        .iter()
        .take_while(|other| !route.is_some_and(|route| std::ptr::eq(*other, route)));
    step.passed_over.extend(before.filter_map(|other| mismatch(context, other, facts)));
    let acting = acting(virtual_host);
    for key in &acting {
        step.passed_over.extend(left_out(context, virtual_host, key));
    }
    let host = virtual_host.name.rsplit_once(':').map_or(&*virtual_host.name, |(host, _)| host);
    let name = if virtual_host.source.is_some() {
        host.to_owned()
    } else {
        host_of(facts.authority).to_ascii_lowercase()
    };
    step.passed_over.extend(considered::virtual_services(context, &name, &acting));
    step
}

fn action(route: &Route) -> String {
    match &route.action {
        RouteAction::Forward(forward) => match forward.clusters.as_slice() {
            [only] => format!("to {}", only.cluster.name),
            several => format!("to one of {} clusters by weight", several.len()),
        },
        RouteAction::Passthrough => "to the address that was asked for".into(),
        RouteAction::DirectResponse(direct) => format!("answered with {}", direct.status),
        RouteAction::Redirect(redirect) => format!("redirected with {}", redirect.status),
        RouteAction::Refused(refusal) => format!("refused: {}", refusal.details()),
    }
}

/// A route that does not take the request, and why.
fn mismatch(context: Context<'_>, route: &Route, facts: &RequestFacts<'_>) -> Option<PassedOver> {
    let source = route.source.as_deref()?;
    let why: Vec<String> = route
        .matches
        .iter()
        .filter_map(|wanted| wanted.mismatch(facts))
        .map(|part| part.to_string())
        .collect();
    let why = format!("wants {}", why.join(", or "));
    Some(PassedOver { place: context.place_of_source(source), why })
}

/// Rules of the VirtualService that are no routes for this client and port.
fn left_out(context: Context<'_>, virtual_host: &VirtualHost, key: &ResourceKey) -> Vec<PassedOver> {
    let Some(Resource::VirtualService(service)) = context.world.resources.get(key) else { return Vec::new() };
    let port = context.server_port();
    let rules = service.http.iter().enumerate().flat_map(|(route, rule)| {
        let conditions = rule.matches.iter().enumerate();
        conditions.map(move |(number, condition)| (Rule::Http { route, condition: Some(number) }, condition))
    });
    let is_route = |rule: Rule| {
        let is_it = |source: &Source| source.resource == *key && source.rule == Some(rule);
        virtual_host.routes.iter().any(|route| route.source.as_deref().is_some_and(is_it))
    };
    rules
        .filter(|(rule, _)| !is_route(*rule))
        .filter_map(|(rule, condition)| {
            let why = not_for(context, service, condition, port)?;
            let source = Source { resource: key.clone(), rule: Some(rule) };
            Some(PassedOver { place: context.place_of_source(&source), why })
        })
        .collect()
}

/// Why a match does not act for this client on this port.
fn not_for(
    context: Context<'_>,
    service: &VirtualService,
    condition: &HttpMatch,
    port: u16,
) -> Option<String> {
    let SourceMatch { gateways, labels, namespace, .. } = &condition.source;
    if let Some(wanted) = condition.port.filter(|wanted| *wanted != port) {
        return Some(format!("is for port {wanted}"));
    }
    if !gateways.is_empty() {
        let is_for_us = match context.entrance {
            None => is_for_mesh(gateways),
            Some(entrance) => {
                let home = service.meta.namespace();
                gateways.iter().any(|gateway| entrance.has_gateway(gateway_meant(gateway, home)))
            }
        };
        if !is_for_us {
            return Some(format!("is for gateways {}", gateways.join(", ")));
        }
        return after_catch_all(service);
    }
    let client = &context.settings.client;
    if !client.has_labels(labels) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        return Some(format!("is for clients with {}", labels.join(",")));
    }
    if let Some(wanted) = namespace.as_ref().filter(|wanted| **wanted != client.namespace) {
        return Some(format!("is for clients in namespace {wanted}"));
    }
    after_catch_all(service)
}

fn after_catch_all(service: &VirtualService) -> Option<String> {
    let index = service.http.iter().position(|rule| rule.matches.is_empty());
    index.map(|index| format!("comes after spec.http[{index}], which takes every request"))
}
