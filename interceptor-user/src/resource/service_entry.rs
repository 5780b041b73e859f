//! ServiceEntry: which outside hosts are known, on which ports, and where they are.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::decode::{Field, Spanned};
use super::diagnostic::Position;
use super::host;
use super::meta::{Labels, Meta};
use super::object::Object;
use super::visibility::{self, ExportTo};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    pub meta: Meta,
    pub hosts: Vec<Spanned<Arc<str>>>,
    pub addresses: Vec<Spanned<AddressRange>>,
    pub ports: Vec<ServicePort>,
    pub resolution: Resolution,
    pub endpoints: Vec<WorkloadEntry>,
    /// Labels of the workloads of its namespace that are its endpoints.
    pub workload_selector: Option<Labels>,
    pub export_to: ExportTo,
    pub subject_alt_names: Vec<Arc<str>>,
    pub location: Location,
    /// status.addresses: what a controller has given it, as addresses count where `addresses` are none.
    pub allocated_addresses: Vec<AllocatedAddress>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Location {
    #[default]
    External,
    Internal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocatedAddress {
    pub address: IpAddr,
    /// The one of `hosts` that it is for; all of them without.
    pub host: Option<Arc<str>>,
}

/// An address, or a range when it is written as one that holds more than one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressRange {
    pub address: IpAddr,
    pub prefix_len: u8,
}

impl AddressRange {
    /// Whether it holds exactly one address.
    pub fn is_single(&self) -> bool {
        self.prefix_len == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// Whether it is an address that something can be reached at.
    pub fn is_single_host(&self) -> bool {
        self.is_single() && !self.address.is_unspecified()
    }

    /// Its first address.
    pub fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0);
                IpAddr::V4((u32::from(address) & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len)).unwrap_or(0);
                IpAddr::V6((u128::from(address) & mask).into())
            }
        }
    }

    /// `10.0.0.0/8` or `10.0.0.1`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, prefix_len)) => (address.parse().ok()?, Some(prefix_len.parse::<u8>().ok()?)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = prefix_len.unwrap_or(whole);
        (prefix_len <= whole).then_some(Self { address, prefix_len })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            return write!(formatter, "{}", self.address);
        }
        write!(formatter, "{}/{}", self.address, self.prefix_len)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub number: u16,
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub target_port: Option<u16>,
    pub position: Position,
}

/// The protocol that a port declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// None declared: found out by the first bytes.
    Auto,
    Http,
    Http2,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    Tcp,
    Mongo,
    Mysql,
    Redis,
    Udp,
}

impl Protocol {
    /// As Istio reads them: in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "" => Self::Auto,
            "http" => Self::Http,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mongo" => Self::Mongo,
            "mysql" => Self::Mysql,
            "redis" => Self::Redis,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "(none)",
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-WEB",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Mongo => "MONGO",
            Self::Mysql => "MYSQL",
            Self::Redis => "REDIS",
            Self::Udp => "UDP",
        }
    }

    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// HTTP/2 towards the endpoints.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// TLS that the application speaks, routed by SNI.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// The server may speak first; Istio never looks into these.
    pub fn is_server_first(self) -> bool {
        matches!(self, Self::Mongo | Self::Mysql)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

impl fmt::Display for Resolution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "NONE",
            Self::Static => "STATIC",
            Self::Dns => "DNS",
            Self::DnsRoundRobin => "DNS_ROUND_ROBIN",
            Self::DynamicDns => "DYNAMIC_DNS",
        })
    }
}

/// One of `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// An address, or a name with DNS resolutions.
    pub address: Arc<str>,
    /// Port numbers by the service's port name.
    pub ports: BTreeMap<Arc<str>, u16>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// `region/zone/subzone`, as much of it as is known.
    pub locality: Arc<str>,
    pub weight: u32,
    pub position: Position,
}

const HOSTS_MAX: usize = 256;

pub(super) fn read(meta: Meta, spec: &Object<'_>, status: Option<Field<'_>>) -> ServiceEntry {
    let hosts = spec.list("hosts", |item| read_host(&item));
    if !spec.has("hosts") {
        spec.field().error("service entry must have at least one host");
    }
    if hosts.len() > HOSTS_MAX {
        spec.field().error(format!("more than {HOSTS_MAX} hosts: split it into several entries"));
    }
    let addresses = spec.list("addresses", |item| {
        let text = item.text()?;
        let range = AddressRange::parse(&text);
        if range.is_none() {
            item.error(format!("`{text}` is not an IP address or a range such as 10.0.0.0/8"));
        }
        Some(Spanned { value: range?, position: item.position() })
    });
    let ports = spec.list("ports", |item| read_port(&item));
    let location = spec.get("location").and_then(|field| {
        field.one_of(&[("MESH_EXTERNAL", Location::External), ("MESH_INTERNAL", Location::Internal)])
    });
    let resolution = spec.get("resolution").and_then(|field| {
        field.one_of(&[
            ("NONE", Resolution::None),
            ("STATIC", Resolution::Static),
            ("DNS", Resolution::Dns),
            ("DNS_ROUND_ROBIN", Resolution::DnsRoundRobin),
            ("DYNAMIC_DNS", Resolution::DynamicDns),
        ])
    });
    let endpoints = spec.list("endpoints", |item| read_workload(&item.object()?));
    let selector = spec.get("workloadSelector").and_then(|field| field.object());
    let selector =
        selector.map(|selector| selector.get("labels").map(|field| field.text_map()).unwrap_or_default());
    let entry = ServiceEntry {
        meta,
        hosts,
        addresses,
        ports,
        resolution: resolution.unwrap_or(Resolution::None),
        endpoints,
        workload_selector: selector,
        export_to: visibility::read(spec),
        subject_alt_names: spec.texts("subjectAltNames"),
        location: location.unwrap_or_default(),
        allocated_addresses: status.map(|field| read_allocated(&field)).unwrap_or_default(),
    };
    validate(&entry, spec);
    entry
}

/// Written by a controller: what can't be used is left out without a word.
fn read_allocated(status: &Field<'_>) -> Vec<AllocatedAddress> {
    let Some(status) = status.object().map(Object::open_quietly) else { return Vec::new() };
    status.list("addresses", |item| {
        let item = item.object()?.open_quietly();
        let host = item.peek("host").map(|host| host.to_ascii_lowercase().into());
        Some(AllocatedAddress { address: item.peek("value")?.parse().ok()?, host })
    })
}

fn read_host(item: &Field<'_>) -> Option<Spanned<Arc<str>>> {
    let host = host::read(item)?;
    if &*host.value == "*" {
        item.error("hostname cannot be wildcard: name a suffix, as in *.example.com");
        return None;
    }
    Some(host)
}

fn read_port(item: &Field<'_>) -> Option<ServicePort> {
    let port = item.object()?;
    let protocol = match port.get("protocol") {
        None => Some(Protocol::Auto),
        Some(field) => read_protocol(&field),
    };
    let name = port.require("name").and_then(|field| field.text());
    let target_port = port.get("targetPort").and_then(|field| field.port());
    let number = port.require("number").and_then(|field| field.port());
    Some(ServicePort {
        number: number?,
        name: name?,
        protocol: protocol?,
        target_port,
        position: item.position(),
    })
}

pub(super) fn read_protocol(field: &Field<'_>) -> Option<Protocol> {
    let text = field.text()?;
    let protocol = Protocol::parse(&text);
    if protocol.is_none() {
        field.error(format!(
            "unsupported protocol: {text}; expected one of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, \
             REDIS, MYSQL, TCP, TLS, or none to find out by the first bytes"
        ));
    }
    protocol
}

/// A WorkloadEntry's fields. `None` without an address.
pub(super) fn read_workload(endpoint: &Object<'_>) -> Option<WorkloadEntry> {
    let address = endpoint.require("address").and_then(|field| field.text());
    let fields = read_workload_fields(endpoint);
    Some(WorkloadEntry { address: address?, ..fields })
}

/// All but the address.
pub(super) fn read_workload_fields(endpoint: &Object<'_>) -> WorkloadEntry {
    endpoint.ignore(&["network", "serviceAccount"]);
    let ports = endpoint.get("ports").map(|field| field.entries()).unwrap_or_default();
    let ports =
        ports.into_iter().filter_map(|(name, port)| Some((name.value.into(), port.port()?))).collect();
    let labels = endpoint.get("labels").map(|field| field.text_map()).unwrap_or_default();
    let weight = endpoint.get("weight").and_then(|field| field.unsigned()).filter(|weight| *weight > 0);
    let locality = endpoint.text("locality").unwrap_or_default();
    let position = endpoint.position();
    WorkloadEntry { address: "".into(), ports, labels, locality, weight: weight.unwrap_or(1), position }
}

/// What is wrong with an endpoint's address, whatever the resolution.
pub(super) fn address_problem(address: &str) -> Option<String> {
    if address.starts_with("unix:") {
        return Some(format!("endpoint {address}: unix sockets are not supported yet"));
    }
    host::is_not_a_name(address)
        .then(|| format!("endpoint address `{address}` is neither a host name nor an IP address"))
}

/// What Istio's webhook refuses, in its words.
fn validate(entry: &ServiceEntry, spec: &Object<'_>) {
    let mut names = HashSet::new();
    let mut numbers = HashSet::new();
    for (index, port) in entry.ports.iter().enumerate() {
        let error = |message| spec.error_at(port.position, &format!("ports[{index}]"), message);
        if !names.insert(&*port.name) {
            error(format!("service entry port name {:?} already defined", port.name));
        }
        if !numbers.insert(port.number) {
            error(format!("service entry port {} already defined", port.number));
        }
    }
    let ranges_allowed = matches!(entry.resolution, Resolution::None | Resolution::Static);
    for (index, range) in entry.addresses.iter().enumerate() {
        if !range.value.is_single() && !ranges_allowed {
            let message = "CIDR addresses are allowed only for NONE/STATIC resolution types";
            spec.error_at(range.position, &format!("addresses[{index}]"), message.into());
        }
    }
    validate_endpoints(entry, spec);
    let wildcard = entry.hosts.iter().find(|host| host.value.starts_with('*'));
    let resolution = entry.resolution;
    match (resolution, wildcard) {
        (Resolution::Dns | Resolution::DnsRoundRobin, Some(host)) if entry.endpoints.is_empty() => {
            let message = format!(
                "hosts must be FQDN or contain only prefix wildcards if no endpoints are provided for resolution \
                 mode {resolution}: `{}` can't be looked up; list endpoints, or use resolution DYNAMIC_DNS (or NONE)",
                host.value
            );
            spec.error_at(host.position, "hosts", message);
        }
        (Resolution::DynamicDns, _) => validate_dynamic_dns(entry, spec),
        (Resolution::None | Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin, _) => {}
    }
    let opaque = entry.ports.iter().find(|port| !port.protocol.is_http() && !port.protocol.is_tls());
    if opaque.is_some() && entry.hosts.len() > 1 && entry.resolution != Resolution::None {
        spec.error_at(
            entry.hosts[1].position,
            "hosts",
            "multiple hosts provided with non-HTTP, non-TLS ports".into(),
        );
    }
}

fn validate_endpoints(entry: &ServiceEntry, spec: &Object<'_>) {
    if entry.workload_selector.is_some() && !entry.endpoints.is_empty() {
        spec.field().error("only one of WorkloadSelector or Endpoints is allowed in Service Entry");
    }
    if entry.workload_selector.is_some() && entry.resolution == Resolution::None {
        spec.field().warning("workloadSelector should not be set when resolution mode is NONE");
    }
    if entry.resolution == Resolution::None && !entry.endpoints.is_empty() {
        spec.error_at(
            entry.endpoints[0].position,
            "endpoints",
            "no endpoints should be provided for resolution type none: use STATIC for addresses or DNS for names".into(),
        );
    }
    if entry.resolution == Resolution::DnsRoundRobin && entry.endpoints.len() > 1 {
        let message = format!("there must only be 0 or 1 endpoint for resolution mode {}", entry.resolution);
        spec.error_at(entry.endpoints[1].position, "endpoints", message);
    }
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let error = |message| spec.error_at(endpoint.position, &format!("endpoints[{index}]"), message);
        for name in endpoint.ports.keys() {
            if !entry.ports.iter().any(|port| port.name == *name) {
                error(format!("endpoint port {name} is not defined by the service entry"));
            }
        }
        let address = &endpoint.address;
        let unusable = address_problem(address);
        if entry.resolution == Resolution::Static
            && address.parse::<IpAddr>().is_err()
            && !address.starts_with("unix:")
        {
            error(format!(
                "`{address}` is not an IP address, as resolution STATIC needs; for a name use DNS"
            ));
        } else if let Some(problem) = unusable {
            error(problem);
        }
    }
}

fn validate_dynamic_dns(entry: &ServiceEntry, spec: &Object<'_>) {
    for host in entry.hosts.iter().filter(|host| !host.value.starts_with('*')) {
        let message =
            format!("resolution DYNAMIC_DNS takes wildcard hosts only, not `{}`: use DNS", host.value);
        spec.error_at(host.position, "hosts", message);
    }
    if !entry.addresses.is_empty() || !entry.endpoints.is_empty() {
        spec.field().error("resolution DYNAMIC_DNS takes neither addresses nor endpoints");
    }
    for port in entry.ports.iter().filter(|port| !(port.protocol.is_http() || port.protocol == Protocol::Tls))
    {
        let message = "resolution DYNAMIC_DNS takes ports of protocol HTTP, HTTP2, GRPC and TLS only".into();
        spec.error_at(port.position, "ports", message);
    }
}
