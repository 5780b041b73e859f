//! ServiceEntry: which outside hosts are known, on which ports, and where they are.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::allow_from_annotation::{ALLOW_FROM, AllowFrom};
use super::code;
use super::decode::{Field, Spanned};
use super::diagnostic::{Level, Position};
use super::host;
use super::meta::{Labels, Meta};
use super::object::Object;
use super::service_entry_rules;
use super::visibility::{self, ExportTo};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    pub meta: Meta,
    /// It can't be used as written, and stands for its rule of who may use its hosts: see [`Self::rule`].
    pub refused: bool,
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

pub(super) fn read(meta: Meta, spec: &Object<'_>, status: Option<Field<'_>>) -> ServiceEntry {
    if let Some(annotation) = meta.annotations.get(ALLOW_FROM)
        && let Err(problem) = AllowFrom::parse(&annotation.value)
    {
        // Without it everybody would be let through.
        let place = format!("metadata.annotations[{ALLOW_FROM}]");
        spec.field().reader.report_coded(&code::IST0106, Level::Error, annotation.position, &place, problem);
    }
    let hosts = spec.list("hosts", |item| read_host(&item));
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
        refused: false,
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
    service_entry_rules::check(&entry, spec);
    entry
}

impl ServiceEntry {
    /// Who may use its hosts through an egress gateway, if not everybody: nobody, where that can't be told.
    pub fn rule(&self) -> Option<AllowFrom> {
        let annotation = self.meta.annotations.get(ALLOW_FROM)?;
        let rule = AllowFrom::parse(&annotation.value).ok().filter(|_| !self.refused);
        Some(rule.unwrap_or_else(AllowFrom::nobody))
    }
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
    let target_port = port.get("targetPort").and_then(|field| field.port_or_zero());
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

impl WorkloadEntry {
    /// An endpoint of weight 1 that nobody wrote.
    pub(crate) fn at(address: Arc<str>) -> Self {
        let (ports, labels) = (BTreeMap::new(), Labels::new());
        Self { address, ports, labels, locality: "".into(), weight: 1, position: Position::default() }
    }
}
