//! What a VirtualService's route changes: `rewrite`, `headers`, `redirect` (Istio's core/route/route.go).

use std::sync::Arc;

use http::HeaderValue;

use crate::resource::headers::{HeaderOperations, Headers};
use crate::resource::string_match::StringMatch;
use crate::resource::virtual_service::{self, HttpAction, HttpMatch, HttpRoute, Rewrite};
use crate::snapshot::{Changes, HeaderChanges, PathRewrite, Redirect};

/// The changes of a route under one of its matches. A single destination's headers follow the route's.
pub(super) fn of(route: &HttpRoute, condition: Option<&HttpMatch>) -> Option<Arc<Changes>> {
    let only = match &route.action {
        HttpAction::Route(destinations) if destinations.len() == 1 => destinations.first(),
        HttpAction::Route(_)
        | HttpAction::Redirect(_)
        | HttpAction::DirectResponse { .. }
        | HttpAction::Delegate { .. } => None,
    };
    let mut changes = Changes::default();
    let rewrite = route.rewrite.as_deref();
    let mut authority = rewrite.and_then(|rewrite| rewrite.authority.clone());
    let of_destination = only.and_then(|destination| destination.headers.as_deref());
    for headers in [route.headers.as_deref(), of_destination].into_iter().flatten() {
        let Headers { request, response, authority: of_headers } = headers;
        add(&mut changes.request, request);
        add(&mut changes.response, response);
        authority = authority.or_else(|| of_headers.clone());
    }
    changes.authority = authority.and_then(|authority| HeaderValue::from_str(&authority).ok());
    changes.path = rewrite.and_then(|rewrite| path_rewrite(rewrite, condition));
    (changes != Changes::default()).then(|| Arc::new(changes))
}

/// What one destination of several changes.
pub(super) fn of_destination(headers: &Headers) -> Option<Arc<Changes>> {
    let mut changes = Changes::default();
    add(&mut changes.request, &headers.request);
    add(&mut changes.response, &headers.response);
    let authority = headers.authority.as_ref();
    changes.authority = authority.and_then(|authority| HeaderValue::from_str(authority).ok());
    (changes != Changes::default()).then(|| Arc::new(changes))
}

fn add(changes: &mut HeaderChanges, operations: &HeaderOperations) {
    changes.remove.extend(operations.remove.iter().cloned());
    changes.add.extend(operations.add.iter().cloned());
    changes.set.extend(operations.set.iter().cloned());
}

/// What was matched as a prefix is replaced as one; without a match that is the first `/`.
fn path_rewrite(rewrite: &Rewrite, condition: Option<&HttpMatch>) -> Option<PathRewrite> {
    if let Some((pattern, replacement)) = &rewrite.regex {
        return Some(PathRewrite::Regex { pattern: pattern.0.clone(), replacement: (&**replacement).into() });
    }
    Some(prefix_rewrite(rewrite.uri.as_ref()?, condition))
}

fn prefix_rewrite(replacement: &str, condition: Option<&HttpMatch>) -> PathRewrite {
    let replacement: Box<str> = replacement.into();
    match condition.and_then(|condition| condition.uri.as_ref()) {
        Some(StringMatch::Prefix(prefix)) => PathRewrite::Prefix { bytes: prefix.len(), replacement },
        None | Some(StringMatch::Present) => PathRewrite::Prefix { bytes: 1, replacement },
        Some(StringMatch::Exact(_) | StringMatch::Regex(_)) => PathRewrite::Whole(replacement),
    }
}

/// A redirect of requests that came in on `listener_port`.
pub(super) fn redirect(
    redirect: &virtual_service::Redirect,
    condition: Option<&HttpMatch>,
    listener_port: u16,
) -> Redirect {
    let whole = redirect.uri.as_ref().map(|uri| PathRewrite::Whole((&**uri).into()));
    let prefix = redirect.uri_prefix.as_ref().map(|prefix| prefix_rewrite(prefix, condition));
    let port = if redirect.port_of_request { Some(listener_port) } else { redirect.port };
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let own_port = |port: &u16| matches!((*port, scheme), (80, "http") | (443, "https"));
    Redirect {
        status: redirect.code,
        scheme: redirect.scheme.clone(),
        authority: redirect.authority.clone(),
        port: port.filter(|port| !own_port(port)),
        path: whole.or(prefix),
    }
}
