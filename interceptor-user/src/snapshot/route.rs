//! HTTP routing: a request finds its virtual host by name, there the first route that matches.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Uri};

use super::catch_all::CatchAll;
use super::changes::{Changes, Redirect};
use super::cluster::{Cluster, ClusterName};
use super::cors::Cors;
use super::fault::{Fault, Share};
use super::host_map::HostMap;
use super::request::Refusal;
use super::source::Source;
use crate::resource::string_match::StringMatch;

/// A cluster that a route names. `cluster` is `None` when no such cluster exists: 503 NC.
#[derive(Clone, Debug)]
pub struct ClusterRef {
    pub name: ClusterName,
    pub cluster: Option<Arc<Cluster>>,
}

impl PartialEq for ClusterRef {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.cluster == other.cluster
    }
}

impl Eq for ClusterRef {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    pub cluster: ClusterRef,
    /// Relative; the sum over a route is never zero.
    pub weight: u32,
    /// What this destination changes, before the route's own changes.
    pub changes: Option<Arc<Changes>>,
}

impl WeightedCluster {
    pub fn new(cluster: ClusterRef, weight: u32) -> Self {
        Self { cluster, weight, changes: None }
    }
}

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub cluster: ClusterRef,
    pub share: Share,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: http::HeaderName,
    pub value: StringMatch,
    /// withoutHeaders: true when the header must not match.
    pub invert: bool,
}

/// One HTTPMatchRequest: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// On the path without its query.
    pub uri: Option<StringMatch>,
    pub ignore_uri_case: bool,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub headers: Vec<HeaderMatch>,
    /// Query parameters by name.
    pub query_params: Vec<(Arc<str>, StringMatch)>,
}

/// What of a request routing looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// As sent, port included.
    pub authority: &'a str,
    pub scheme: &'a str,
    pub headers: &'a HeaderMap,
}

/// The first part of a match that a request does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch<'a> {
    Uri(&'a StringMatch),
    Method(&'a StringMatch),
    Authority(&'a StringMatch),
    Scheme(&'a StringMatch),
    Header(&'a HeaderMatch),
    QueryParameter(&'a str, &'a StringMatch),
}

impl<'a> RequestFacts<'a> {
    /// Of a request in clear, with its host as sent.
    pub fn new(method: &'a Method, uri: &'a Uri, host: &'a HeaderValue, headers: &'a HeaderMap) -> Self {
        Self {
            method: method.as_str(),
            path: uri.path(),
            query: uri.query(),
            authority: host.to_str().unwrap_or_default(),
            scheme: "http",
            headers,
        }
    }
}

impl RouteMatch {
    pub fn matches(&self, request: &RequestFacts<'_>) -> bool {
        self.mismatch(request).is_none()
    }

    /// Why the request is not meant; `None` when it is.
    pub fn mismatch(&self, request: &RequestFacts<'_>) -> Option<Mismatch<'_>> {
        let unlike = |expected: &'_ Option<StringMatch>, value: &str, ignore_case: bool| {
            expected.as_ref().is_some_and(|expected| !expected.matches(value, ignore_case))
        };
        if unlike(&self.uri, request.path, self.ignore_uri_case) {
            return self.uri.as_ref().map(Mismatch::Uri);
        }
        if unlike(&self.method, request.method, false) {
            return self.method.as_ref().map(Mismatch::Method);
        }
        if unlike(&self.authority, request.authority, false) {
            return self.authority.as_ref().map(Mismatch::Authority);
        }
        if unlike(&self.scheme, request.scheme, false) {
            return self.scheme.as_ref().map(Mismatch::Scheme);
        }
        if let Some(header) = self.headers.iter().find(|header| !header.matches(request.headers)) {
            return Some(Mismatch::Header(header));
        }
        let parameter =
            self.query_params.iter().find(|(name, wanted)| !query_matches(request.query, name, wanted));
        parameter.map(|(name, wanted)| Mismatch::QueryParameter(name, wanted))
    }
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(wanted) => write!(formatter, "uri {wanted}"),
            Self::Method(wanted) => write!(formatter, "method {wanted}"),
            Self::Authority(wanted) => write!(formatter, "authority {wanted}"),
            Self::Scheme(wanted) => write!(formatter, "scheme {wanted}"),
            Self::Header(header) => write!(formatter, "{header}"),
            Self::QueryParameter(name, wanted) => write!(formatter, "queryParams {name} {wanted}"),
        }
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = if self.invert { "withoutHeaders" } else { "headers" };
        write!(formatter, "{list} {} {}", self.name, self.value)
    }
}

impl HeaderMatch {
    fn matches(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        let Some(first) = values.next() else { return self.invert };
        // Several headers of a name are one value to Envoy, with commas between.
        let mut whole = String::from_utf8_lossy(first.as_bytes());
        for value in values {
            let joined = whole.to_mut();
            joined.push(',');
            joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
        }
        self.value.matches(&whole, false) != self.invert
    }
}

fn query_matches(query: Option<&str>, name: &str, expected: &StringMatch) -> bool {
    query
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .is_some_and(|(_, value)| expected.matches(value, false))
}

/// Conditions under which a request is tried again (HTTPRetry.retryOn, Envoy's names).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RetryOn {
    pub connect_failure: bool,
    pub refused_stream: bool,
    /// 5xx, and no answer at all.
    pub server_error: bool,
    /// 502, 503, 504.
    pub gateway_error: bool,
    /// No answer at all: disconnect, reset, read timeout.
    pub reset: bool,
    pub reset_before_request: bool,
    /// 409.
    pub retriable_4xx: bool,
    /// Answers with `x-envoy-ratelimited`, which are else not tried again for whatever reason.
    pub rate_limited: bool,
    /// Statuses given by number, and `retriable-status-codes`.
    pub status_codes: Vec<u16>,
    /// grpc-status values: cancelled 1, deadline-exceeded 4, resource-exhausted 8, internal 13, unavailable 14.
    pub grpc_statuses: Vec<u8>,
}

impl RetryPolicy {
    /// Istio's defaults but for these.
    pub fn new(attempts: u32, retry_on: RetryOn) -> Self {
        Self {
            attempts,
            retry_on,
            per_try_timeout: None,
            avoid_previous_hosts: true,
            base_interval: Duration::from_millis(25),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RetryPolicy {
    /// Tries after the first.
    pub attempts: u32,
    pub retry_on: RetryOn,
    pub per_try_timeout: Option<Duration>,
    /// Another try goes to another endpoint, if there is one.
    pub avoid_previous_hosts: bool,
    /// First interval of the exponential back-off with full jitter; 25 ms, at most ten times that.
    pub base_interval: Duration,
}

/// Where a matching request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Never empty.
    pub clusters: Vec<WeightedCluster>,
    /// From the request's end of headers to the response's end; `None` is no limit.
    pub timeout: Option<Duration>,
    /// Most routes share it with others.
    pub retries: Option<Arc<RetryPolicy>>,
    /// `x-envoy-decorator-operation`: `host:port/*`.
    pub decorator_operation: Arc<str>,
    pub fault: Option<Fault>,
    pub cors: Option<Box<Cors>>,
    pub mirrors: Vec<Mirror>,
}

impl Forward {
    /// To `clusters`, without timeout and retries.
    pub fn to(clusters: Vec<WeightedCluster>, decorator_operation: Arc<str>) -> Self {
        Self {
            clusters,
            timeout: None,
            retries: None,
            decorator_operation,
            fault: None,
            cors: None,
            mirrors: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    pub status: u16,
    pub body: bytes::Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    Forward(Arc<Forward>),
    DirectResponse(Arc<DirectResponse>),
    Redirect(Arc<Redirect>),
    /// ALLOW_ANY's catch-all: to the original destination, no timeout, no retries.
    Passthrough,
    /// The catch-all where the egress gateway is enforced.
    Refused(Refusal),
}

/// The route that refuses what nobody declared (REGISTRY_ONLY).
pub const BLOCK_ALL: &str = "block_all";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// As logged: `default`, a name, `allow_any`, `block_all`; empty logs `-`.
    pub name: Arc<str>,
    /// Any of them; empty matches every request.
    pub matches: Vec<RouteMatch>,
    pub action: RouteAction,
    pub changes: Option<Arc<Changes>>,
    pub source: Option<Arc<Source>>,
}

impl Route {
    /// A route that takes every request and changes nothing.
    pub fn new(name: Arc<str>, action: RouteAction) -> Self {
        Self { name, matches: Vec::new(), action, changes: None, source: None }
    }

    pub fn accepts(&self, request: &RequestFacts<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|condition| condition.matches(request))
    }
}

/// The routes of one service's host. A request that none of them takes: 404 NR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualHost {
    /// `www.example.com:80`, `allow_any`, `block_all`.
    pub name: Arc<str>,
    pub routes: Arc<[Route]>,
    /// The service whose host it is, or the VirtualService when there is no such service.
    pub source: Option<Arc<Source>>,
}

impl VirtualHost {
    /// The first route that takes the request.
    pub fn route(&self, request: &RequestFacts<'_>) -> Option<&Route> {
        self.routes.iter().find(|route| route.accepts(request))
    }
}

/// All virtual hosts of a port (`80`) or of an address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTable {
    pub name: Arc<str>,
    pub hosts: HostMap<Arc<VirtualHost>>,
    /// For hosts that nobody declared.
    pub catch_all: Arc<VirtualHost>,
}

impl RouteTable {
    pub fn new(name: Arc<str>, catch_all: impl Into<CatchAll>) -> Self {
        Self { name, hosts: HostMap::default(), catch_all: catch_all.into().virtual_host }
    }

    /// `authority` as sent: its port is ignored.
    pub fn virtual_host(&self, authority: &str) -> &Arc<VirtualHost> {
        self.hosts.get(host_of(authority)).unwrap_or(&self.catch_all)
    }
}

/// The host of an authority: without its port, without the brackets of an IPv6 address.
pub fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(host, _)| host);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.contains(':') => host,
        Some(_) | None => authority,
    }
}
