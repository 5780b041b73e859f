//! Rules that are never reached, because earlier ones of the same VirtualService take all that they match.

use std::sync::Arc;

use super::findings::{Findings, at};
use crate::resource::string_match::StringMatch;
use crate::resource::virtual_service::{HttpMatch, L4Match, SourceMatch};
use crate::resource::{Position, VirtualService, code, host};

pub(super) fn check(mesh: &super::Mesh<'_>, findings: &mut Findings) {
    for service in mesh.world.virtual_services() {
        check_block(service, "http", &http(service), findings);
        check_block(
            service,
            "tls",
            &l4(service, service.tls.iter().map(|r| (&r.matches, r.position))),
            findings,
        );
        check_block(
            service,
            "tcp",
            &l4(service, service.tcp.iter().map(|r| (&r.matches, r.position))),
            findings,
        );
    }
}

/// Pairs of matches that are compared in one block.
const COMPARED_MAX: usize = 100_000;

/// One rule: its name, and what it takes; nothing for everything.
struct Rule<'a> {
    name: String,
    matches: Vec<Condition<'a>>,
    position: Position,
}

enum Condition<'a> {
    Http(&'a HttpMatch, &'a [Arc<str>]),
    L4(&'a L4Match, &'a [Arc<str>]),
}

fn http(service: &VirtualService) -> Vec<Rule<'_>> {
    let rule =
        |(index, route): (usize, &'_ crate::resource::virtual_service::HttpRoute)| -> (String, Position) {
            (
                route.name.as_deref().map_or_else(|| format!("#{index}"), |name| format!("{name:?}")),
                route.position,
            )
        };
    service
        .http
        .iter()
        .enumerate()
        .map(|(index, route)| {
            let (name, position) = rule((index, route));
            let matches = route
                .matches
                .iter()
                .map(|condition| Condition::Http(condition, gateways(service, &condition.source)));
            Rule { name, matches: matches.collect(), position }
        })
        .collect()
}

fn l4<'a>(
    service: &'a VirtualService,
    routes: impl Iterator<Item = (&'a Vec<L4Match>, Position)>,
) -> Vec<Rule<'a>> {
    routes
        .enumerate()
        .map(|(index, (matches, position))| {
            let matches = matches
                .iter()
                .map(|condition| Condition::L4(condition, gateways(service, &condition.source)));
            Rule { name: format!("#{index}"), matches: matches.collect(), position }
        })
        .collect()
}

/// The gateways that a match is for.
fn gateways<'a>(service: &'a VirtualService, source: &'a SourceMatch) -> &'a [Arc<str>] {
    if source.gateways.is_empty() { &service.gateways } else { &source.gateways }
}

fn check_block(service: &VirtualService, block: &str, rules: &[Rule<'_>], findings: &mut Findings) {
    let mut compared = 0;
    for (index, rule) in rules.iter().enumerate() {
        let earlier = &rules[..index];
        let field = format!("spec.{block}[{index}]");
        if let Some(first) = earlier.iter().find(|earlier| earlier.matches.is_empty()) {
            let message = format!(
                "VirtualService rule {} not used (route without matches defined before: rule {})",
                rule.name, first.name
            );
            let finding = at(&code::IST0130, &service.meta, rule.position, field, message);
            findings.push(finding.effect(format!("rule {} takes everything", first.name)));
            continue;
        }
        let mut taken = Vec::new();
        for (number, condition) in rule.matches.iter().enumerate() {
            compared += earlier.iter().map(|earlier| earlier.matches.len()).sum::<usize>();
            if compared > COMPARED_MAX {
                return;
            }
            let by =
                earlier.iter().find(|earlier| earlier.matches.iter().any(|other| other.covers(condition)));
            taken.extend(by.map(|by| (number, by)));
        }
        if let Some((_, by)) = taken.first().filter(|_| taken.len() == rule.matches.len()) {
            let message = format!(
                "VirtualService rule {} not used (all matches used by prior rules: rule {})",
                rule.name, by.name
            );
            findings.push(at(&code::IST0130, &service.meta, rule.position, field, message));
            continue;
        }
        for (number, by) in taken {
            let message = format!(
                "VirtualService rule {} match #{number} is not used (duplicate/overlapping match in rule {})",
                rule.name, by.name
            );
            let field = format!("{field}.match[{number}]");
            findings.push(at(&code::IST0131, &service.meta, rule.position, field, message));
        }
    }
}

impl Condition<'_> {
    /// Whether everything that `other` matches is matched by this.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(a, a_gateways), Self::Http(b, b_gateways)) => {
                covers_gateways(a_gateways, b_gateways) && covers_http(a, b)
            }
            (Self::L4(a, a_gateways), Self::L4(b, b_gateways)) => {
                covers_gateways(a_gateways, b_gateways) && covers_l4(a, b)
            }
            (Self::Http(..), Self::L4(..)) | (Self::L4(..), Self::Http(..)) => false,
        }
    }
}

/// None is `mesh`.
fn covers_gateways(a: &[Arc<str>], b: &[Arc<str>]) -> bool {
    let has = |name: &str| if a.is_empty() { name == "mesh" } else { a.iter().any(|known| **known == *name) };
    if b.is_empty() { has("mesh") } else { b.iter().all(|name| has(name)) }
}

fn covers_http(a: &HttpMatch, b: &HttpMatch) -> bool {
    let pairs = |a: &[(Arc<str>, StringMatch)], b: &[(Arc<str>, StringMatch)]| {
        a.iter().all(|(name, value)| {
            b.iter().any(|(other_name, other)| name == other_name && covers_string(Some(value), Some(other)))
        })
    };
    // What is given without a value of its own is the same or it is not: a pair too many forbids more.
    let forbidden = a.without_headers.iter().all(|pair| b.without_headers.contains(pair));
    let uri = if a.ignore_uri_case || b.ignore_uri_case {
        a.uri.is_none() || (a.ignore_uri_case && a.uri == b.uri)
    } else {
        covers_string(a.uri.as_ref(), b.uri.as_ref())
    };
    // Where a match names gateways, its labels and namespace count for nothing.
    let source = !a.source.gateways.is_empty()
        || (b.source.gateways.is_empty() && covers_source(&a.source, &b.source))
        || (a.source.labels.is_empty() && a.source.namespace.is_none());
    uri && forbidden
        && source
        && covers_string(a.scheme.as_ref(), b.scheme.as_ref())
        && covers_string(a.method.as_ref(), b.method.as_ref())
        && covers_string(a.authority.as_ref(), b.authority.as_ref())
        && pairs(&a.headers, &b.headers)
        && pairs(&a.query_params, &b.query_params)
        && a.port.is_none_or(|port| b.port == Some(port))
}

fn covers_source(a: &SourceMatch, b: &SourceMatch) -> bool {
    a.labels.iter().all(|(name, value)| b.labels.get(name) == Some(value))
        && a.namespace.as_ref().is_none_or(|namespace| b.namespace.as_ref() == Some(namespace))
}

fn covers_string(a: Option<&StringMatch>, b: Option<&StringMatch>) -> bool {
    match (a, b) {
        (None, _) | (Some(StringMatch::Present), Some(_)) => true,
        (Some(_), None) => false,
        (Some(StringMatch::Prefix(a)), Some(StringMatch::Prefix(b) | StringMatch::Exact(b))) => {
            b.starts_with(&**a)
        }
        (Some(StringMatch::Regex(a)), Some(StringMatch::Exact(b))) => a.is_match(b),
        (Some(a), Some(b)) => a == b,
    }
}

fn covers_l4(a: &L4Match, b: &L4Match) -> bool {
    let names = a.sni_hosts.is_empty()
        || b.sni_hosts.iter().all(|name| a.sni_hosts.iter().any(|known| host::matches(known, name)));
    let subnets = a.destination_subnets.is_empty()
        || (!b.destination_subnets.is_empty()
            && b.destination_subnets.iter().all(|subnet| a.destination_subnets.contains(subnet)));
    names && subnets && a.port.is_none_or(|port| b.port == Some(port)) && covers_source(&a.source, &b.source)
}
