//! CorsPolicy: which web pages of other origins may use a route.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::decode::Field;
use super::object::Object;
use super::string_match::{self, StringMatch};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsPolicy {
    pub allow_origins: Vec<StringMatch>,
    pub allow_methods: Vec<Arc<str>>,
    pub allow_headers: Vec<Arc<str>>,
    pub expose_headers: Vec<Arc<str>>,
    pub max_age: Option<Duration>,
    pub allow_credentials: bool,
    /// unmatchedPreflights is not IGNORE.
    pub forward_unmatched_preflights: bool,
}

pub(super) fn read(field: &Field<'_>) -> Option<CorsPolicy> {
    let policy = field.object()?;
    let mut origins = policy.list("allowOrigins", |item| read_origin(&item));
    // The older field; it counts where the newer one is absent.
    let exact = policy.texts("allowOrigin");
    if !policy.has("allowOrigins") {
        origins.extend(exact.into_iter().map(StringMatch::Exact));
    }
    let max_age = policy.get("maxAge").and_then(|field| {
        let age = field.duration()?;
        if age.subsec_nanos() > 0 {
            field.error("max_age duration is accurate only to seconds precision");
        }
        Some(age)
    });
    let forward = policy
        .get("unmatchedPreflights")
        .and_then(|field| field.one_of(&[("UNSPECIFIED", true), ("FORWARD", true), ("IGNORE", false)]));
    Some(CorsPolicy {
        allow_origins: origins,
        allow_methods: policy.list("allowMethods", |item| read_method(&item)),
        allow_headers: read_header_names(&policy, "allowHeaders"),
        expose_headers: read_header_names(&policy, "exposeHeaders"),
        max_age,
        allow_credentials: policy.boolean("allowCredentials").unwrap_or(false),
        forward_unmatched_preflights: forward.unwrap_or(true),
    })
}

fn read_origin(item: &Field<'_>) -> Option<StringMatch> {
    let origin = string_match::read(item)?;
    let is_empty = match &origin {
        StringMatch::Exact(text) | StringMatch::Prefix(text) => text.is_empty(),
        StringMatch::Regex(_) => false,
        StringMatch::Present => true,
    };
    if is_empty {
        item.error("'' is not a valid match type for CORS allow origins");
        return None;
    }
    Some(origin)
}

fn read_method(item: &Field<'_>) -> Option<Arc<str>> {
    const METHODS: [&str; 10] =
        ["GET", "POST", "HEAD", "PUT", "DELETE", "TRACE", "PATCH", "CONNECT", "OPTIONS", "*"];
    let method = item.text()?;
    if !METHODS.contains(&&*method) {
        item.error(format!("{method:?} is not a supported HTTP method"));
        return None;
    }
    Some(method)
}

fn read_header_names(policy: &Object<'_>, name: &'static str) -> Vec<Arc<str>> {
    policy.list(name, |item| {
        let text = item.text()?;
        if &*text != "*" && HeaderName::from_bytes(text.as_bytes()).is_err() {
            item.error(format!("header name {text:?} is not a valid header name"));
            return None;
        }
        Some(text)
    })
}
