//! Reads an HTTP route of a VirtualService: what it matches and what becomes of the request.

use std::sync::Arc;
use std::time::Duration;

use super::decode::{Field, Spanned};
use super::http_action::{read_direct_response, read_redirect, read_rewrite};
use super::object::Object;
use super::string_match::{self, StringMatch};
use super::virtual_service::{HttpAction, HttpMatch, HttpRoute, read_destinations, read_source};
use super::{cors, fault, headers, mirrors, retries, virtual_service_rules};

pub(super) fn read(item: &Field<'_>, namespace: &Arc<str>, is_delegate: bool) -> Option<HttpRoute> {
    let route = item.object()?;
    virtual_service_rules::check_combination(&route, is_delegate);
    // Websockets are always let through.
    route.ignore(&["websocketUpgrade"]);
    let rewrite = route.get("rewrite").and_then(|field| read_rewrite(&field));
    let headers = headers::read(&route);
    virtual_service_rules::check_authority(rewrite.as_ref(), headers.as_deref(), &route);
    Some(HttpRoute {
        name: route.text("name").filter(|name| !name.is_empty()),
        matches: route.list("match", |item| read_match(&item)),
        action: read_action(&route, namespace),
        timeout: route.get("timeout").and_then(|field| read_timeout(&field)),
        retries: route.get("retries").and_then(|field| retries::read(&field)).map(Box::new),
        fault: route.get("fault").and_then(|field| fault::read(&field)).map(Box::new),
        mirroring: mirrors::read(&route, namespace),
        cors: route.get("corsPolicy").and_then(|field| cors::read(&field)).map(Box::new),
        rewrite: rewrite.map(Box::new),
        headers,
        position: item.position(),
        written: None,
    })
}

fn read_action(route: &Object<'_>, namespace: &Arc<str>) -> HttpAction {
    let destinations = read_destinations(route, namespace);
    let redirect = route.get("redirect").and_then(|field| read_redirect(&field));
    let direct_response = route.get("directResponse").and_then(|field| read_direct_response(&field));
    if let Some(field) = route.get("delegate") {
        let delegate = field.object();
        let of_field = |name| delegate.as_ref().and_then(|delegate| delegate.text(name));
        let name = of_field("name").unwrap_or_default();
        if name.is_empty() && !field.is_wrong() {
            field.error("`name` is missing: which VirtualService is meant?");
        }
        let namespace = of_field("namespace").filter(|namespace| !namespace.is_empty());
        return HttpAction::Delegate { name, namespace };
    }
    match (redirect, direct_response) {
        (Some(redirect), _) => HttpAction::Redirect(Box::new(redirect)),
        (None, Some(response)) => response,
        (None, None) => HttpAction::Route(destinations),
    }
}

/// 0 turns it off, as the API says.
fn read_timeout(field: &Field<'_>) -> Option<Duration> {
    let timeout = field.duration()?;
    if timeout.is_zero() { Some(timeout) } else { retries::at_least_a_millisecond(field) }
}

fn read_match(item: &Field<'_>) -> Option<HttpMatch> {
    let object = item.object()?;
    object.ignore(&["statPrefix"]);
    let string = |name| object.get(name).and_then(|field| string_match::read(&field));
    let strings = |name: &'static str| -> Vec<(Arc<str>, StringMatch)> {
        let entries = object.get(name).map(|field| field.entries()).unwrap_or_default();
        let pair =
            |(key, value): (Spanned<&str>, Field<'_>)| Some((key.value.into(), string_match::read(&value)?));
        entries.into_iter().filter_map(pair).collect()
    };
    let source = read_source(&object);
    virtual_service_rules::check_source(&source, &object);
    Some(HttpMatch {
        name: object.text("name").filter(|name| !name.is_empty()),
        uri: string("uri"),
        scheme: string("scheme"),
        method: string("method"),
        authority: string("authority"),
        headers: headers::matched(&object, "headers", strings("headers")),
        without_headers: headers::matched(&object, "withoutHeaders", strings("withoutHeaders")),
        query_params: strings("queryParams"),
        ignore_uri_case: object.boolean("ignoreUriCase").unwrap_or(false),
        port: object.get("port").and_then(|field| field.port_or_zero()),
        source,
        position: item.position(),
    })
}
