//! VirtualService: where requests and connections to a host go, and how.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::cors::CorsPolicy;
use super::decode::{Field, Spanned};
use super::diagnostic::Position;
use super::fault::Fault;
use super::headers::{self, Headers};
use super::meta::Meta;
use super::mirrors::Mirroring;
use super::object::Object;
use super::retries::Retries;
use super::service_entry::AddressRange;
use super::string_match::StringMatch;
use super::visibility::{self, ExportTo};
use super::{host, http_route, virtual_service_rules};

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
    /// The hosts that its http routes send requests and copies of them to.
    pub fn destination_hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        let destinations = self.http.iter().filter_map(|route| match &route.action {
            HttpAction::Route(destinations) => Some(destinations),
            HttpAction::Redirect(_) | HttpAction::DirectResponse { .. } | HttpAction::Delegate { .. } => None,
        });
        let mirrors = self.http.iter().flat_map(|route| route.mirroring.all()).map(|(mirror, _)| mirror);
        destinations.flatten().chain(mirrors).map(|destination| &destination.host)
    }

    /// Without hosts of its own it is there for others to delegate to.
    pub fn is_delegate(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Whether it acts on traffic through a gateway, of whatever name.
    pub fn binds_gateways(&self) -> bool {
        self.gateways.iter().any(|name| &**name != MESH)
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

/// The namespace and name of the Gateway that a VirtualService in `namespace` means: `namespace/name`, `./name`, `name`, or
/// `name.namespace.svc.cluster.local`.
pub fn gateway_meant<'a>(reference: &'a str, namespace: &'a str) -> (&'a str, &'a str) {
    match reference.split_once('/') {
        Some((".", name)) => (namespace, name),
        Some((of, name)) => (of, name),
        None => match reference.strip_suffix(".svc.cluster.local").and_then(|text| text.split_once('.')) {
            Some((name, of)) => (of, name),
            None => (namespace, reference),
        },
    }
}

/// What few routes have is boxed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRoute {
    pub name: Option<Arc<str>>,
    pub matches: Vec<HttpMatch>,
    pub action: HttpAction,
    /// Zero is none, where a delegate has it instead of its root's.
    pub timeout: Option<Duration>,
    pub retries: Option<Box<Retries>>,
    pub fault: Option<Box<Fault>>,
    pub mirroring: Mirroring,
    pub cors: Option<Box<CorsPolicy>>,
    pub rewrite: Option<Box<Rewrite>>,
    pub headers: Option<Box<Headers>>,
    pub position: Position,
    /// The resource that it is written in, and its number there, when that is not where it stands.
    pub written: Option<(Arc<Meta>, usize)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAction {
    Route(Vec<Destination>),
    Redirect(Box<Redirect>),
    DirectResponse {
        status: u16,
        body: Vec<u8>,
    },
    /// To the routes of another VirtualService, in the same namespace unless one is named.
    Delegate {
        name: Arc<str>,
        namespace: Option<Arc<str>>,
    },
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
    pub headers: Option<Box<Headers>>,
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub uri: Option<Arc<str>>,
    /// Instead of the part of the path that was matched.
    pub uri_prefix: Option<Arc<str>>,
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
    let is_delegate = hosts.is_empty();
    let service = VirtualService {
        hosts,
        gateways: spec.texts("gateways"),
        export_to: visibility::read(spec),
        http: spec.list("http", |item| http_route::read(&item, &namespace, is_delegate)),
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

pub(super) fn read_source(object: &Object<'_>) -> SourceMatch {
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
        port: object.get("port").and_then(|field| field.port_or_zero()),
        source: read_source(&object),
    })
}

pub(super) fn read_destinations(route: &Object<'_>, namespace: &Arc<str>) -> Vec<Destination> {
    route.list("route", |item| {
        let weighted = item.object()?;
        let weight = weighted.get("weight").map_or(Some(0), |field| field.integer(0..=i64::from(i32::MAX)));
        let headers = headers::read(&weighted);
        let destination = read_destination(&weighted.require("destination")?, namespace)?;
        let weight = weight.and_then(|weight| u32::try_from(weight).ok())?;
        Some(Destination { weight, headers, ..destination })
    })
}

/// A destination on its own: without weight and headers.
pub(super) fn read_destination(field: &Field<'_>, namespace: &Arc<str>) -> Option<Destination> {
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
        weight: 0,
        headers: None,
        position: field.position(),
    })
}

/// What helps where a destination's host is nobody's.
pub(crate) fn mend_of_unknown(host: &str) -> &'static str {
    if host.ends_with(".svc.cluster.local") {
        "if the cluster has this Service, give its YAML, too; else correct the name (a short one is completed with the \
         VirtualService's own namespace)"
    } else {
        "declare it with a ServiceEntry"
    }
}
