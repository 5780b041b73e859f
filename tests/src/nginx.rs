//! nginx (Debian) as the web sites of the outside world. Its log says what really arrived: from which socket,
//! with which Host, SNI and proxy headers.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;

use crate::world::{Site, Tls};
use crate::{Ca, Daemon, Dir, Identity, Netns};

#[derive(Debug)]
pub struct Nginx {
    _daemon: Daemon,
    dir: Dir,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Hit {
    fields: Value,
}

impl Hit {
    /// A field of [`LOG_FORMAT`]; empty when nginx saw nothing there.
    pub fn get(&self, field: &str) -> &str {
        self.fields.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether any header arrived that a proxy adds.
    pub fn through_proxy(&self) -> bool {
        ["request_id", "attempt", "operation", "forwarded_for", "forwarded_proto", "peer_metadata", "peer_id"]
            .iter()
            .any(|field| !self.get(field).is_empty())
    }
}

const LOG_FORMAT: &str = r#"escape=json '{"peer":"$remote_addr","peer_port":"$remote_port",'
    '"server":"$server_addr:$server_port","host":"$http_host","method":"$request_method","uri":"$request_uri",'
    '"protocol":"$server_protocol","status":"$status","sni":"$ssl_server_name","alpn":"$ssl_alpn_protocol",'
    '"tls":"$ssl_protocol","client":"$ssl_client_s_dn","connection":"$connection",'
    '"request_id":"$http_x_request_id","attempt":"$http_x_envoy_attempt_count",'
    '"operation":"$http_x_envoy_decorator_operation","forwarded_for":"$http_x_forwarded_for",'
    '"forwarded_proto":"$http_x_forwarded_proto","peer_metadata":"$http_x_envoy_peer_metadata",'
    '"peer_id":"$http_x_envoy_peer_metadata_id","agent":"$http_user_agent"}'"#;

impl Nginx {
    pub(crate) fn start(netns: &Netns, sites: &[Site], ca: &Ca) -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        let names: Vec<&str> = sites.iter().flat_map(|site| site.names.iter().copied()).collect();
        let right = ca.server("sites", &names)?;
        let expired = ca.expired("expired", &names)?;
        let wrong = ca.server("wrong", &["somebody-else.test"])?;
        dir.write("large.bin", large())?;
        let mut config = format!(
            "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log {0}/error.log;\n\
             events {{ worker_connections 4096; }}\nhttp {{\n\
             log_format hit {LOG_FORMAT};\naccess_log {0}/hits.log hit;\nserver_tokens off;\n\
             client_body_temp_path {0}/body;\nproxy_temp_path {0}/proxy;\nfastcgi_temp_path {0}/fastcgi;\n\
             uwsgi_temp_path {0}/uwsgi;\nscgi_temp_path {0}/scgi;\nclient_max_body_size 0;\n\
             keepalive_timeout 60;\ndefault_type text/plain;\n",
            dir.path().display()
        );
        for site in sites {
            let identity = match site.tls {
                Tls::Right | Tls::ClientCertificate => &right,
                Tls::Expired => &expired,
                Tls::WrongName => &wrong,
            };
            add_site(&mut config, site, identity, ca.root(), &dir)?;
        }
        config.push_str("}\n");
        let config = dir.write("nginx.conf", config)?;
        let mut command = netns.command("/usr/sbin/nginx");
        command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(dir.path()).arg("-c").arg(config);
        let first = sites.first().and_then(|site| site.addresses.first()).context("no site to serve")?;
        let daemon = Daemon::spawn(&mut command, &dir.join("log"))?.wait_ready("nginx", || {
            netns.enter(|| std::net::TcpStream::connect((*first, 80))).is_ok_and(|socket| socket.is_ok())
        })?;
        Ok(Self { _daemon: daemon, dir })
    }

    /// The requests that came from this address. nginx writes them when they end: see [`Self::wait_hits`].
    pub fn hits(&self, from: &str) -> Vec<Hit> {
        let log = std::fs::read_to_string(self.dir.join("hits.log")).unwrap_or_default();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .map(|fields| Hit { fields })
            .filter(|hit| hit.get("peer") == from)
            .collect()
    }

    /// Waits until `count` requests of this address are in the log, and returns all there are.
    pub fn wait_hits(&self, from: &str, count: usize) -> anyhow::Result<Vec<Hit>> {
        crate::eventually(&format!("{count} requests from {from}"), || self.hits(from).len() >= count)?;
        Ok(self.hits(from))
    }
}

/// 8 MiB that don't compress and whose order matters.
pub fn large() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(8 << 20);
    while bytes.len() < 8 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn add_site(
    config: &mut String,
    site: &Site,
    identity: &Identity,
    ca: PathBuf,
    dir: &Dir,
) -> anyhow::Result<()> {
    let names = site.names.join(" ");
    let listen = |port: u16, options: &str| {
        site.addresses.iter().fold(String::new(), |mut text, address| {
            let address = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
            text.push_str(&format!("listen {address}:{port}{options};\n"));
            text
        })
    };
    let content = format!(
        "location = /large {{ alias {}; }}\nlocation / {{ return 200 \"{} says hello over $scheme\\n\"; }}\n",
        dir.join("large.bin").display(),
        site.names.first().copied().unwrap_or("an address")
    );
    if let Some(ports) = site.plain {
        let content =
            if site.redirects { "location / { return 301 https://$host$request_uri; }\n" } else { &content };
        for port in ports {
            writeln!(config, "server {{\n{}server_name {names} _;\n{content}}}", listen(*port, ""))?;
        }
    }
    let verify = if matches!(site.tls, Tls::ClientCertificate) {
        format!("ssl_client_certificate {};\nssl_verify_client on;\n", ca.display())
    } else {
        String::new()
    };
    let content = match site.forwards_to {
        Some(upstream) => format!(
            "location / {{ proxy_pass http://{upstream}; proxy_http_version 1.1; proxy_set_header Host $host; }}\n"
        ),
        None => content,
    };
    writeln!(
        config,
        "server {{\n{}server_name {names} _;\nssl_certificate {};\nssl_certificate_key {};\n{verify}{content}}}",
        listen(443, " ssl http2"),
        identity.certificate.display(),
        identity.key.display()
    )?;
    Ok(())
}
