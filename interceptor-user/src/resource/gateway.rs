//! Gateway: listeners of an egress gateway. Read and checked; it acts in gateway mode only.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decode::Field;
use super::diagnostic::Position;
use super::meta::Meta;
use super::object::Object;
use super::service_entry::Protocol;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub meta: Meta,
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub port: u16,
    pub protocol: Protocol,
    pub hosts: Vec<Arc<str>>,
    pub tls: Option<ServerTlsMode>,
    pub position: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerTlsMode {
    Passthrough,
    Simple,
    Mutual,
    AutoPassthrough,
    IstioMutual,
    OptionalMutual,
}

pub(super) fn read(meta: Meta, spec: &Object<'_>) -> Gateway {
    let servers = spec.list("servers", |item| read_server(&item));
    if !spec.has("servers") {
        spec.field().error("gateway must have at least one server");
    }
    let selector = spec.get("selector").map(|field| field.text_map()).unwrap_or_default();
    Gateway { meta, selector, servers }
}

fn read_server(item: &Field<'_>) -> Option<Server> {
    let server = item.object()?;
    server.ignore(&["bind", "name", "defaultEndpoint"]);
    let hosts = server.texts("hosts");
    if hosts.is_empty() {
        item.error("server config must contain at least one host");
    }
    let tls = server.get("tls").and_then(|field| {
        let tls = field.object()?.open_quietly();
        tls.get("mode").map_or(Some(ServerTlsMode::Passthrough), |field| {
            field.one_of(&[
                ("PASSTHROUGH", ServerTlsMode::Passthrough),
                ("SIMPLE", ServerTlsMode::Simple),
                ("MUTUAL", ServerTlsMode::Mutual),
                ("AUTO_PASSTHROUGH", ServerTlsMode::AutoPassthrough),
                ("ISTIO_MUTUAL", ServerTlsMode::IstioMutual),
                ("OPTIONAL_MUTUAL", ServerTlsMode::OptionalMutual),
            ])
        })
    });
    let port = server.require("port")?.object()?;
    if let Some(field) = port.get("targetPort") {
        field.error("targetPort has no meaning in gateways");
    }
    let name = port.require("name").and_then(|field| field.text());
    let protocol = port.require("protocol").and_then(|field| {
        let text = field.text()?;
        let protocol = Protocol::parse(&text).filter(|protocol| *protocol != Protocol::Auto);
        if protocol.is_none() {
            field.error(format!("unsupported protocol: {text}"));
        }
        protocol
    });
    let number = port.require("number").and_then(|field| field.port());
    name?;
    let protocol = protocol?;
    if protocol.is_tls() && !server.has("tls") {
        item.error("server must have TLS settings for HTTPS/TLS protocols");
    }
    if !protocol.is_tls() && tls.is_some() {
        item.warning("server cannot have TLS settings for non HTTPS/TLS ports");
    }
    Some(Server { port: number?, protocol, hosts, tls, position: item.position() })
}
