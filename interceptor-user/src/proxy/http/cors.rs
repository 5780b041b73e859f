//! Requests of web pages to other origins (Envoy's CORS filter): preflights are answered here, and answers
//! to a page that is allowed to read them say so.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN,
};
use http::{HeaderMap, Method, Request};

use crate::snapshot::Cors;

/// What a policy makes of a request.
#[derive(Debug)]
pub(crate) enum Verdict<'a> {
    /// Not from a page of another origin, or from one that may not read the answer.
    Nothing,
    /// The answer is for this origin to read.
    Allowed { policy: &'a Cors, origin: HeaderValue },
    /// A preflight: this is its answer.
    Preflight(HeaderMap),
}

pub(crate) fn verdict<'a, B>(policy: &'a Cors, request: &Request<B>) -> Verdict<'a> {
    let headers = request.headers();
    let Some(origin) = headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
        return Verdict::Nothing;
    };
    let is_allowed = origin.to_str().is_ok_and(|origin| policy.allows(origin));
    let wanted_method = headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|method| !method.is_empty());
    match wanted_method.filter(|_| request.method() == Method::OPTIONS) {
        Some(method) if is_allowed || !policy.forward_unmatched_preflights => {
            Verdict::Preflight(preflight(policy, is_allowed.then_some(origin), method, headers))
        }
        Some(_) | None if is_allowed => Verdict::Allowed { policy, origin: origin.clone() },
        Some(_) | None => Verdict::Nothing,
    }
}

fn preflight(
    policy: &Cors,
    allowed: Option<&HeaderValue>,
    method: &HeaderValue,
    request: &HeaderMap,
) -> HeaderMap {
    let mut answer = HeaderMap::new();
    let mut set = |name: HeaderName, value: Option<&HeaderValue>| {
        if let Some(value) = value {
            answer.insert(name, value.clone());
        }
    };
    set(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    set(ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials(policy).as_ref());
    set(ACCESS_CONTROL_ALLOW_METHODS, listed_or(policy.allow_methods.as_ref(), Some(method)));
    let wanted_headers = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
    set(ACCESS_CONTROL_ALLOW_HEADERS, listed_or(policy.allow_headers.as_ref(), wanted_headers));
    set(ACCESS_CONTROL_MAX_AGE, policy.max_age.as_ref());
    answer
}

/// `*` allows what is wanted.
fn listed_or<'a>(
    listed: Option<&'a HeaderValue>,
    wanted: Option<&'a HeaderValue>,
) -> Option<&'a HeaderValue> {
    if listed? == "*" { wanted } else { listed }
}

fn credentials(policy: &Cors) -> Option<HeaderValue> {
    policy.allow_credentials.then_some(HeaderValue::from_static("true"))
}

impl Verdict<'_> {
    /// What the answer says to the page's browser, instead of what its server says.
    pub(super) fn apply(self, headers: &mut HeaderMap) {
        let Self::Allowed { policy, origin } = self else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if let Some(credentials) = credentials(policy) {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
        }
        if let Some(exposed) = &policy.expose_headers {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }
}
