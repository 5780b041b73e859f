//! VirtualService: where requests and connections to a host go, and how.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::decode::{Field, Spanned};
use super::diagnostic::Position;
use super::headers::{self, Headers};
use super::http_action::{read_direct_response, read_redirect, read_rewrite};
use super::meta::Meta;
use super::object::Object;
use super::retries::{self, Retries};
use super::service_entry::AddressRange;
use super::string_match::{self, StringMatch};
use super::visibility::{self, ExportTo};
use super::{host, virtual_service_rules};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    pub meta: Meta,
    /// Short names are completed.
    pub hosts: Vec<Spanned<Arc<str>>>,
    /// Empty means `mesh`.
    pub gateways: Vec<Arc<str>>,
    pub export_to: ExportTo,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<TlsRoute>,
    pub tcp: Vec<TcpRoute>,
}

/// A regular expression that compares by its text.
#[derive(Clone, Debug)]
pub struct Pattern(pub regex::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// The name that stands for every sidecar in `gateways`.
pub const MESH: &str = "mesh";

impl VirtualService {
    /// The hosts that its http routes send requests to.
    pub fn destination_hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        let destinations = self.http.iter().filter_map(|route| match &route.action {
            HttpAction::Route(destinations) => Some(destinations),
            HttpAction::Redirect(_) | HttpAction::DirectResponse { .. } | HttpAction::Delegate => None,
        });
        destinations.flatten().map(|destination| &destination.host)
    }

    /// Whether it takes routes from other VirtualServices.
    pub fn delegates(&self) -> bool {
        self.http.iter().any(|route| matches!(route.action, HttpAction::Delegate))
    }

    /// Whether it acts on traffic from applications.
    pub fn binds_mesh(&self) -> bool {
        is_for_mesh(&self.gateways)
    }
}

/// Whether a list of gateways, of a VirtualService or a match, lets applications' traffic in.
pub fn is_for_mesh(gateways: &[Arc<str>]) -> bool {
    gateways.is_empty() || gateways.iter().any(|name| &**name == MESH)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRoute {
    pub name: Option<Arc<str>>,
    pub matches: Vec<HttpMatch>,
    pub action: HttpAction,
    pub timeout: Option<Duration>,
    pub retries: Option<Retries>,
    pub rewrite: Option<Rewrite>,
    pub headers: Headers,
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAction {
    Route(Vec<Destination>),
    Redirect(Redirect),
    DirectResponse {
        status: u16,
        body: Vec<u8>,
    },
    /// Not read here; the route can't act.
    Delegate,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    pub name: Option<Arc<str>>,
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: Vec<(Arc<str>, StringMatch)>,
    pub without_headers: Vec<(Arc<str>, StringMatch)>,
    pub query_params: Vec<(Arc<str>, StringMatch)>,
    pub ignore_uri_case: bool,
    pub port: Option<u16>,
    pub source: SourceMatch,
    pub position: Position,
}

/// What a match says about where the traffic comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceMatch {
    pub gateways: Vec<Arc<str>>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub namespace: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Completed when it was a short name.
    pub host: Arc<str>,
    pub subset: Option<Arc<str>>,
    pub port: Option<u16>,
    pub weight: u32,
    pub headers: Headers,
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub uri: Option<Arc<str>>,
    pub authority: Option<Arc<str>>,
    pub scheme: Option<Arc<str>>,
    pub port: Option<u16>,
    /// derivePort FROM_REQUEST_PORT.
    pub port_of_request: bool,
    pub code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub uri: Option<Arc<str>>,
    pub authority: Option<Arc<str>>,
    /// uriRegexRewrite: pattern, and replacement with groups as `${1}`.
    pub regex: Option<(Pattern, Arc<str>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRoute {
    pub matches: Vec<L4Match>,
    pub destinations: Vec<Destination>,
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRoute {
    pub matches: Vec<L4Match>,
    pub destinations: Vec<Destination>,
    pub position: Position,
}

/// A match of a TLS or TCP route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L4Match {
    /// TLS only, and there never empty.
    pub sni_hosts: Vec<Arc<str>>,
    pub destination_subnets: Vec<AddressRange>,
    pub port: Option<u16>,
    pub source: SourceMatch,
}

pub(super) fn read(meta: Meta, spec: &Object<'_>) -> VirtualService {
    let namespace = Arc::clone(meta.namespace());
    let hosts = spec.list("hosts", |item| {
        let host = host::read(&item)?;
        Some(Spanned { value: host::complete(&host.value, &namespace), position: host.position })
    });
    let service = VirtualService {
        hosts,
        gateways: spec.texts("gateways"),
        export_to: visibility::read(spec),
        http: spec.list("http", |item| read_http(&item, &namespace)),
        tls: spec.list("tls", |item| {
            let route = item.object()?;
            let matches = route.list("match", |item| read_l4_match(&item, true));
            let destinations = read_destinations(&route, &namespace);
            Some(TlsRoute { matches, destinations, position: item.position() })
        }),
        tcp: spec.list("tcp", |item| {
            let route = item.object()?;
            let matches = route.list("match", |item| read_l4_match(&item, false));
            let destinations = read_destinations(&route, &namespace);
            Some(TcpRoute { matches, destinations, position: item.position() })
        }),
        meta,
    };
    virtual_service_rules::check(&service, spec);
    service
}

fn read_http(item: &Field<'_>, namespace: &Arc<str>) -> Option<HttpRoute> {
    let route = item.object()?;
    virtual_service_rules::check_combination(&route);
    let consequence = "requests are answered as if it were absent";
    let not_applied = [
        "mirror",
        "mirrors",
        "mirrorPercent",
        "mirrorPercentage",
        "mirror_percent",
        "corsPolicy",
        "websocketUpgrade",
    ];
    route.not_applied(&not_applied, consequence);
    route.not_applied(&["fault"], "no delay and no abort is injected, requests go to their destination");
    let action = read_action(&route, namespace);
    Some(HttpRoute {
        name: route.text("name"),
        matches: route.list("match", |item| read_http_match(&item)),
        action,
        timeout: route.get("timeout").and_then(|field| read_timeout(&field)),
        retries: route.get("retries").and_then(|field| retries::read(&field)),
        rewrite: route.get("rewrite").and_then(|field| read_rewrite(&field)),
        headers: headers::read(&route),
        position: item.position(),
    })
}

fn read_action(route: &Object<'_>, namespace: &Arc<str>) -> HttpAction {
    let destinations = read_destinations(route, namespace);
    let redirect = route.get("redirect").and_then(|field| read_redirect(&field));
    let direct_response = route.get("directResponse").and_then(|field| read_direct_response(&field));
    if let Some(delegate) = route.get("delegate") {
        delegate.warning("`delegate` is not applied yet: this route is left out");
        return HttpAction::Delegate;
    }
    match (redirect, direct_response) {
        (Some(redirect), _) => HttpAction::Redirect(redirect),
        (None, Some(response)) => response,
        (None, None) => HttpAction::Route(destinations),
    }
}

/// 0 turns it off, as the API says.
fn read_timeout(field: &Field<'_>) -> Option<Duration> {
    let timeout = field.duration()?;
    if timeout.is_zero() { None } else { retries::at_least_a_millisecond(field) }
}

fn read_http_match(item: &Field<'_>) -> Option<HttpMatch> {
    let object = item.object()?;
    object.ignore(&["statPrefix"]);
    let string = |name| object.get(name).and_then(|field| string_match::read(&field));
    let strings = |name: &'static str| -> Vec<(Arc<str>, StringMatch)> {
        let entries = object.get(name).map(|field| field.entries()).unwrap_or_default();
        let pair =
            |(key, value): (Spanned<&str>, Field<'_>)| Some((key.value.into(), string_match::read(&value)?));
        entries.into_iter().filter_map(pair).collect()
    };
    Some(HttpMatch {
        name: object.text("name"),
        uri: string("uri"),
        scheme: string("scheme"),
        method: string("method"),
        authority: string("authority"),
        headers: headers::matched(&object, "headers", strings("headers")),
        without_headers: headers::matched(&object, "withoutHeaders", strings("withoutHeaders")),
        query_params: strings("queryParams"),
        ignore_uri_case: object.boolean("ignoreUriCase").unwrap_or(false),
        port: object.get("port").and_then(|field| field.port()),
        source: read_source(&object),
        position: item.position(),
    })
}

fn read_source(object: &Object<'_>) -> SourceMatch {
    SourceMatch {
        gateways: object.texts("gateways"),
        labels: object.get("sourceLabels").map(|field| field.text_map()).unwrap_or_default(),
        namespace: object.text("sourceNamespace").filter(|namespace| !namespace.is_empty()),
    }
}

fn read_l4_match(item: &Field<'_>, tls: bool) -> Option<L4Match> {
    let object = item.object()?;
    let sni_hosts = if tls {
        let hosts = object.list("sniHosts", |item| host::read(&item).map(|host| host.value));
        if hosts.is_empty() {
            item.error("TLS match must have at least one SNI host");
        }
        hosts
    } else {
        object.ignore(&["sourceSubnet"]);
        Vec::new()
    };
    Some(L4Match {
        sni_hosts,
        destination_subnets: object.list("destinationSubnets", |item| {
            let text = item.text()?;
            let range = AddressRange::parse(&text);
            if range.is_none() {
                item.error(format!("`{text}` is not an IP address or a range such as 10.0.0.0/8"));
            }
            range
        }),
        port: object.get("port").and_then(|field| field.port()),
        source: read_source(&object),
    })
}

fn read_destinations(route: &Object<'_>, namespace: &Arc<str>) -> Vec<Destination> {
    route.list("route", |item| {
        let weighted = item.object()?;
        let weight = weighted.get("weight").map_or(Some(0), |field| field.integer(0..=i64::from(i32::MAX)));
        let headers = headers::read(&weighted);
        let field = weighted.require("destination")?;
        let destination = field.object()?;
        let subset = destination.text("subset").filter(|subset| !subset.is_empty());
        let port = destination.get("port").and_then(|field| field.object()?.require("number")?.port());
        let host = destination.require("host").and_then(|field| host::read(&field));
        let host = host?.value;
        if &*host == "*" {
            field.error("invalid destination host *: expected the host of a ServiceEntry");
        }
        Some(Destination {
            host: host::complete(&host, namespace),
            subset,
            port,
            weight: weight.and_then(|weight| u32::try_from(weight).ok())?,
            headers,
            position: field.position(),
        })
    })
}
