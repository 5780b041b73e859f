//! What Istio's webhook and the CRD refuse in a ServiceEntry, in their words.

use std::collections::HashSet;
use std::net::IpAddr;

use super::object::Object;
use super::service_entry::{Protocol, Resolution, ServiceEntry, WorkloadEntry};
use super::unix_path::UnixPath;
use super::{host, meta};

const HOSTS_MAX: usize = 256;

pub(super) fn check(entry: &ServiceEntry, spec: &Object<'_>) {
    if entry.hosts.is_empty() && !spec.field().is_wrong() {
        spec.field().error("service entry must have at least one host");
    }
    for (name, count) in [("hosts", entry.hosts.len()), ("addresses", entry.addresses.len())] {
        if count > HOSTS_MAX {
            spec.field().error(format!("more than {HOSTS_MAX} {name}: split it into several entries"));
        }
    }
    let mut names = HashSet::new();
    let mut numbers = HashSet::new();
    for (index, port) in entry.ports.iter().enumerate() {
        let error = |message| spec.error_at(port.position, &format!("ports[{index}]"), message);
        if !is_label(&port.name) {
            error(format!("invalid port name: {}: expected lower case letters, digits and `-`", port.name));
        }
        if !names.insert(&*port.name) {
            error(format!("service entry port name {:?} already defined", port.name));
        }
        if !numbers.insert(port.number) {
            error(format!(
                "service entry port {} already defined: port number cannot be duplicated",
                port.number
            ));
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

/// A DNS-1123 label.
fn is_label(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && meta::is_name(text)
}

fn validate_endpoints(entry: &ServiceEntry, spec: &Object<'_>) {
    if entry.workload_selector.is_some() && !entry.endpoints.is_empty() {
        spec.field().error("only one of WorkloadSelector or Endpoints is allowed in Service Entry (only one of WorkloadSelector or \
             Endpoints can be set)");
    }
    if entry.workload_selector.is_some() && entry.resolution == Resolution::None {
        spec.field().warning("workloadSelector should not be set when resolution mode is NONE");
    }
    if entry.resolution == Resolution::None && !entry.endpoints.is_empty() {
        spec.error_at(
            entry.endpoints[0].position,
            "endpoints",
            "no endpoints should be provided for resolution type none (NONE mode cannot set endpoints): use STATIC for \
             addresses or DNS for names"
                .into(),
        );
    }
    if entry.resolution == Resolution::DnsRoundRobin && entry.endpoints.len() > 1 {
        let message = format!(
            "there must only be 0 or 1 endpoint for resolution mode {0} ({0} mode cannot have multiple endpoints)",
            entry.resolution
        );
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
        let is_unix = UnixPath::of_address(address).is_some();
        if let Some(problem) = address_problem(endpoint) {
            error(problem);
        } else if is_unix && !matches!(entry.resolution, Resolution::Static | Resolution::None) {
            let resolution = entry.resolution;
            error(format!(
                "`{address}`: resolution {resolution} looks up names; a unix socket needs resolution STATIC"
            ));
        } else if is_unix && entry.ports.len() != 1 {
            error("exactly 1 service port required for unix endpoints: a socket has no ports".into());
        } else if entry.resolution == Resolution::Static && !is_unix && address.parse::<IpAddr>().is_err() {
            error(format!(
                "`{address}` is neither an IP address nor unix:///path/to/socket, as resolution STATIC needs; for a \
                 name use DNS"
            ));
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

/// What is wrong with an endpoint's address, whatever the resolution.
pub(super) fn address_problem(endpoint: &WorkloadEntry) -> Option<String> {
    let address = &endpoint.address;
    match UnixPath::of_address(address) {
        Some(Err(problem)) => Some(problem),
        Some(Ok(_)) => (!endpoint.ports.is_empty())
            .then(|| format!("unix endpoint {address} must not include ports: a socket has none")),
        None => host::is_not_a_name(address).then(|| {
            format!(
                "endpoint address `{address}` is neither a host name nor an IP address nor unix:///path/to/socket"
            )
        }),
    }
}
