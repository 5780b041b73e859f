//! What Istio's webhook refuses in a VirtualService, in its words.

use super::headers::Headers;
use super::host;
use super::object::Object;
use super::virtual_service::{Destination, HttpAction, Rewrite, SourceMatch, VirtualService};

pub(super) fn check(service: &VirtualService, spec: &Object<'_>) {
    let field = spec.field();
    if service.is_delegate() && !field.is_wrong() {
        for (is_there, what) in [
            (!service.gateways.is_empty(), "gateways"),
            (!service.tls.is_empty(), "tls route"),
            (!service.tcp.is_empty(), "tcp route"),
        ] {
            if is_there {
                field.error(format!("delegate virtual service must have no {what} specified"));
            }
        }
    }
    if service.http.is_empty() && service.tls.is_empty() && service.tcp.is_empty() && !field.is_wrong() {
        field.error("http, tcp or tls must be provided in virtual service");
    }
    if service.binds_mesh() {
        for host in service.hosts.iter().filter(|host| &*host.value == "*") {
            let message = "wildcard host * is not allowed for virtual services bound to the mesh gateway";
            spec.error_at(host.position, "hosts", message.into());
        }
    }
    check_duplicate_hosts(service, spec);
    for (index, route) in service.http.iter().enumerate() {
        if let HttpAction::Route(destinations) = &route.action {
            check_weights(destinations, spec, &format!("http[{index}].route"));
        }
    }
    for (index, route) in service.tls.iter().enumerate() {
        let path = format!("tls[{index}]");
        if route.matches.is_empty() {
            spec.error_at(route.position, &path, "TLS route must have at least one match condition".into());
        }
        if route.destinations.is_empty() {
            spec.error_at(route.position, &path, "TLS route is required".into());
        }
        check_weights(&route.destinations, spec, &format!("{path}.route"));
        for sni in route.matches.iter().flat_map(|condition| &condition.sni_hosts) {
            if !service.hosts.iter().any(|host| host::matches(&host.value, sni)) {
                let message =
                    format!("SNI host {sni} is not a compatible subset of the virtual service hosts");
                spec.error_at(route.position, &path, message);
            }
        }
    }
    for (index, route) in service.tcp.iter().enumerate() {
        if route.destinations.is_empty() {
            spec.error_at(route.position, &format!("tcp[{index}]"), "TCP route is required".into());
        }
        check_weights(&route.destinations, spec, &format!("tcp[{index}].route"));
    }
}

fn check_duplicate_hosts(service: &VirtualService, spec: &Object<'_>) {
    const COMPARED_MAX: usize = 256;
    let hosts = &service.hosts[..service.hosts.len().min(COMPARED_MAX)];
    for (index, host) in hosts.iter().enumerate() {
        let covers = |other: &&super::Spanned<std::sync::Arc<str>>| {
            host::matches(&other.value, &host.value) || host::matches(&host.value, &other.value)
        };
        if let Some(other) = hosts[..index].iter().find(covers) {
            let message = format!("duplicate hosts in virtual service: {} & {}", other.value, host.value);
            spec.error_at(host.position, &format!("hosts[{index}]"), message);
        }
    }
}

fn check_weights(destinations: &[Destination], spec: &Object<'_>, path: &str) {
    let total = destinations.iter().fold(0_u64, |sum, destination| sum + u64::from(destination.weight));
    if destinations.len() > 1 && total == 0 {
        spec.error_at(destinations[0].position, path, "total destination weight = 0".into());
    }
}

/// Actions of an HTTP route that exclude each other.
pub(super) fn check_combination(route: &Object<'_>, is_delegate: bool) {
    let field = route.field();
    let has = |name: &str| route.has(name) && !(name == "route" && route.is_empty_list(name));
    if has("delegate") && !is_delegate {
        let name = route.peek("name").unwrap_or_default();
        for other in ["redirect", "route", "directResponse"] {
            if route.has(other) {
                field.error(format!("root HTTP route {name} must not specify {other}"));
            }
        }
        return;
    }
    if has("delegate") {
        field.error("delegate HTTP route cannot contain delegate");
    }
    if !["route", "redirect", "directResponse", "delegate"].iter().any(|name| has(name)) {
        field.error("HTTP route, redirect or direct_response is required");
    }
    for (one, other, message) in [
        ("route", "redirect", "HTTP route cannot contain both route and redirect"),
        ("fault", "redirect", "HTTP route cannot contain both fault and redirect"),
        ("rewrite", "redirect", "HTTP route rule cannot contain both rewrite and redirect"),
        ("route", "directResponse", "HTTP route cannot contain both route and direct_response"),
        ("fault", "directResponse", "HTTP route cannot contain both fault and direct_response"),
        ("rewrite", "directResponse", "HTTP route rule cannot contain both rewrite and direct_response"),
        ("redirect", "directResponse", "HTTP route cannot contain both redirect and direct_response"),
        ("mirror", "mirrors", "HTTP route cannot contain both mirror and mirrors"),
    ] {
        if has(one) && has(other) {
            field.error(message);
        }
    }
}

/// The authority is rewritten in one place.
pub(super) fn check_authority(rewrite: Option<&Rewrite>, headers: Option<&Headers>, route: &Object<'_>) {
    let of_rewrite = rewrite.and_then(|rewrite| rewrite.authority.as_ref());
    let of_headers = headers.and_then(|headers| headers.authority.as_ref());
    if let (Some(have), Some(set)) = (of_rewrite, of_headers) {
        route.field().error(format!(
            "authority header cannot be set multiple times: have {have:?}, attempting to set {set:?}"
        ));
    }
}

/// Namespaces and labels that no client can have.
pub(super) fn check_source(source: &SourceMatch, condition: &Object<'_>) {
    if let Some(namespace) = source.namespace.as_ref().filter(|namespace| !is_label_name(namespace)) {
        condition.field().error(format!("sourceNamespace match {namespace} is invalid"));
    }
}

/// DNS-1123: what a namespace can be called.
fn is_label_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 63
        && name.chars().all(|c| plain(c) || c == '-')
        && name.starts_with(plain)
        && name.ends_with(plain)
}
