//! Gateway: listeners of an egress gateway. Read and checked; it acts in gateway mode only.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::decode::Field;
use super::diagnostic::Position;
use super::host;
use super::meta::Meta;
use super::object::Object;
use super::server_tls;
pub use super::server_tls::{ServerTls, ServerTlsMode};
use super::service_entry::Protocol;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub meta: Meta,
    /// The pods that it is for, of any namespace; empty selects every gateway.
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub port: u16,
    pub port_name: Arc<str>,
    pub protocol: Protocol,
    pub bind: Option<Arc<str>>,
    pub hosts: Vec<ServerHost>,
    pub tls: Option<ServerTls>,
    pub position: Position,
}

impl Server {
    /// Whether it ends the TLS of its clients.
    pub fn terminates_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.mode.terminates())
    }

    /// Whether its clients name clusters by their server names.
    pub fn is_auto_passthrough(&self) -> bool {
        self.protocol.is_tls()
            && self.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough)
    }
}

/// `[namespace/]host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHost {
    pub namespace: ServerNamespace,
    /// A name, `*.suffix` or `*`.
    pub host: Arc<str>,
    pub position: Position,
}

/// Of which namespace VirtualServices may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerNamespace {
    /// None given, or `*`.
    Any,
    /// A name; `.` is the Gateway's own.
    Named(Arc<str>),
}

pub(super) fn read(meta: Meta, spec: &Object<'_>) -> Gateway {
    let namespace = Arc::clone(meta.namespace());
    let servers = spec.list("servers", |item| read_server(&item, &namespace));
    if !spec.has("servers") {
        spec.field().error("gateway must have at least one server");
    }
    let mut names = HashSet::new();
    for (index, server) in servers.iter().enumerate() {
        if !names.insert(&server.port_name) {
            let message =
                format!("port names in servers must be unique: duplicate name {}", server.port_name);
            spec.error_at(server.position, &format!("servers[{index}].port.name"), message);
        }
    }
    let selector = spec.get("selector").map(|field| field.text_map()).unwrap_or_default();
    Gateway { meta, selector, servers }
}

fn read_server(item: &Field<'_>, namespace: &Arc<str>) -> Option<Server> {
    let server = item.object()?;
    server.ignore(&["name", "defaultEndpoint"]);
    let hosts = server.list("hosts", |item| read_host(&item, namespace));
    if !server.has("hosts") || (hosts.is_empty() && !item.is_wrong()) {
        item.error("server config must contain at least one host");
    }
    let bind = server.text("bind").filter(|bind| !bind.is_empty());
    let tls = server.get("tls").and_then(|field| server_tls::read(&field));
    let port = server.require("port")?.object()?;
    if let Some(field) = port.get("targetPort").filter(|field| field.peek_text() != Some("0")) {
        field.error("targetPort has no meaning in gateways");
    }
    let port_name = port.require("name").and_then(|field| field.text());
    let protocol = port.require("protocol").and_then(|field| {
        let text = field.text()?;
        let protocol = Protocol::parse(&text).filter(|protocol| *protocol != Protocol::Auto);
        if protocol.is_none() {
            field.error(format!("unsupported protocol: {text}"));
        }
        protocol
    });
    let number = port.require("number").and_then(|field| field.port());
    let (port_name, protocol) = (port_name?, protocol?);
    if protocol.is_tls() && !server.has("tls") {
        item.error("server must have TLS settings for HTTPS/TLS protocols");
    }
    if let Some(tls) = &tls {
        if !protocol.is_tls() && !tls.https_redirect {
            item.warning("server cannot have TLS settings for non HTTPS/TLS ports");
        }
        if tls.https_redirect && !protocol.is_http() {
            item.error("tls.httpsRedirect should only be used with http servers");
        }
    }
    Some(Server { port: number?, port_name, protocol, bind, hosts, tls, position: item.position() })
}

/// `*`, `host`, `namespace/host`, `./host`, `*/host`.
fn read_host(item: &Field<'_>, namespace: &Arc<str>) -> Option<ServerHost> {
    let text = item.text()?;
    let (before, name) = match text.split_once('/') {
        Some((before, name)) => (Some(before), name),
        None => (None, &*text),
    };
    let of = match before {
        None | Some("*") => ServerNamespace::Any,
        Some(".") => ServerNamespace::Named(Arc::clone(namespace)),
        Some("") => {
            item.error(format!("invalid host {text}: expected a namespace, `.` or `*` before the `/`"));
            return None;
        }
        Some(name) => ServerNamespace::Named(name.into()),
    };
    if let Some(problem) = host::problem(name) {
        item.error(format!("invalid host {text}: {problem}"));
        return None;
    }
    Some(ServerHost { namespace: of, host: name.to_ascii_lowercase().into(), position: item.position() })
}
