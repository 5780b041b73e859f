//! TunnelSettings and ProxyProtocol: what goes first on a connection to an endpoint.

use std::net::IpAddr;
use std::sync::Arc;

use super::decode::Field;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub protocol: TunnelProtocol,
    pub target_host: Arc<str>,
    pub target_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelProtocol {
    Connect,
    Post,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    V1,
    V2,
}

pub(super) fn read(field: &Field<'_>) -> Option<Tunnel> {
    let tunnel = field.object()?;
    let protocol =
        tunnel.get("protocol").map_or(Some(TunnelProtocol::Connect), |field| match &*field.text()? {
            "" | "CONNECT" => Some(TunnelProtocol::Connect),
            "POST" => Some(TunnelProtocol::Post),
            _ => {
                field.error("tunnel protocol must be \"CONNECT\" or \"POST\"");
                None
            }
        });
    let target_host = tunnel.require("targetHost").and_then(|field| {
        let host = field.text()?;
        if !is_name(&host) && host.parse::<IpAddr>().is_err() {
            field.error("tunnel target host must be valid FQDN or IP address");
            return None;
        }
        Some(host)
    });
    let target_port = tunnel.require("targetPort").and_then(|field| {
        let port = field.port();
        if port.is_none() {
            field.error("tunnel target port is invalid");
        }
        port
    });
    Some(Tunnel { protocol: protocol?, target_host: target_host?, target_port: target_port? })
}

pub(super) fn read_proxy_protocol(field: &Field<'_>) -> Option<ProxyProtocol> {
    let settings = field.object()?;
    let version = |field: Field<'_>| field.one_of(&[("V1", ProxyProtocol::V1), ("V2", ProxyProtocol::V2)]);
    settings.get("version").map_or(Some(ProxyProtocol::V1), version)
}

/// Labels of letters, digits, `-` and, as in names of services, `_`.
fn is_name(host: &str) -> bool {
    const NAME_BYTES_MAX: usize = 255;
    const LABEL_BYTES_MAX: usize = 63;
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    host.len() <= NAME_BYTES_MAX && host.strip_suffix('.').unwrap_or(host).split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_of_hosts() {
        for (name, expected) in [
            ("example.com", true),
            ("example.com.", true),
            ("localhost", true),
            ("", false),
            (".", false),
            ("a..b", false),
            ("-a.com", false),
            ("a b.com", false),
            ("a.com:443", false),
            ("*.a.com", false),
            ("a\r\nb", false),
        ] {
            assert_eq!(is_name(name), expected, "{name:?}");
        }
    }
}
