//! The web server of the outside world: 128 bytes for every request, in clear and over TLS. What it saw of
//! connections tells whether a row did what its workload says.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use interceptor_tests::{Ca, Daemon, Dir, Netns, wait_for};

use crate::lab::{HOST, SERVER};

pub(crate) const PLAIN: u16 = 80;
pub(crate) const TLS: u16 = 443;
/// TLS with nothing to resume a session by, and a connection for each request.
pub(crate) const TLS_FULL: u16 = 8443;
/// TLS with tickets, and a connection for each request.
pub(crate) const TLS_TICKETS: u16 = 8444;
/// HTTP/2 over TLS, and HTTP/1.1 for whoever asks for that.
pub(crate) const TLS_HTTP2: u16 = 8445;

#[derive(Debug)]
pub(crate) struct Web {
    daemon: Daemon,
    dir: Dir,
}

/// Of a request: TLS version, `r` when the session was resumed and `.` when not, its number on the connection, HTTP version.
const SAW: &str = "$ssl_protocol $ssl_session_reused $connection_requests $server_protocol";

/// Requests that the server saw.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Saw {
    pub(crate) requests: f64,
    /// The first ones of connections.
    pub(crate) handshakes: f64,
    /// Those of them whose session was resumed.
    pub(crate) resumed: f64,
    /// HTTP/2 requests.
    pub(crate) http2: f64,
}

impl Web {
    pub(crate) fn start(outside: &Netns, ca: &Ca) -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        let identity = ca.server("web", &[HOST])?;
        let saw = |port: u16| format!("access_log {}/{port}.log saw;\n", dir.path().display());
        let site = |listen: String, options: String| {
            format!(
                "server {{\n{listen}server_name {HOST};\nssl_certificate {};\nssl_certificate_key {};\n\
                 {options}location / {{ return 200 \"{}\"; }}\n}}\n",
                identity.certificate.display(),
                identity.key.display(),
                "0123456789abcde ".repeat(8),
            )
        };
        let listen = |port: u16, options: &str| format!("listen {SERVER}:{port} {options} backlog=8192;\n");
        let sites = [
            site(
                listen(PLAIN, "") + &listen(TLS, "ssl"),
                String::from("ssl_session_cache shared:web:10m;\n"),
            ),
            // NumTickets: without tickets TLS 1.3 would offer the cache's sessions, although there is none.
            site(
                listen(TLS_FULL, "ssl"),
                saw(TLS_FULL)
                    + "keepalive_timeout 0;\nssl_session_cache off;\nssl_session_tickets off;\n\
                       ssl_conf_command NumTickets 0;\n",
            ),
            site(listen(TLS_TICKETS, "ssl"), saw(TLS_TICKETS) + "keepalive_timeout 0;\n"),
            site(listen(TLS_HTTP2, "ssl http2"), saw(TLS_HTTP2)),
        ];
        let config = format!(
            "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log {0}/error.log;\n\
             events {{ worker_connections 8192; }}\nhttp {{\nlog_format saw '{SAW}';\naccess_log off;\n\
             server_tokens off;\nclient_body_temp_path {0}/body;\nproxy_temp_path {0}/proxy;\n\
             fastcgi_temp_path {0}/fastcgi;\nuwsgi_temp_path {0}/uwsgi;\nscgi_temp_path {0}/scgi;\n\
             keepalive_timeout 1h;\nkeepalive_requests 1000000000;\ndefault_type text/plain;\n\
             ssl_protocols TLSv1.2 TLSv1.3;\n{1}}}\n",
            dir.path().display(),
            sites.concat(),
        );
        let config = dir.write("nginx.conf", config)?;
        let mut command = outside.command("/usr/sbin/nginx");
        command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(dir.path()).arg("-c").arg(config);
        let daemon = Daemon::spawn(&mut command, &dir.join("log"))?.wait_ready("nginx", || {
            outside.enter(|| TcpStream::connect((SERVER, PLAIN))).is_ok_and(|socket| socket.is_ok())
        })?;
        Ok(Self { daemon, dir })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Begins to watch a port that has a log.
    pub(crate) fn watch(&self, port: u16) -> anyhow::Result<Watch> {
        let log = self.dir.join(&format!("{port}.log"));
        // The server appends, wherever the end is.
        let file = fs::File::options().write(true).open(&log);
        file.and_then(|file| file.set_len(0)).with_context(|| format!("cannot empty {}", log.display()))?;
        Ok(Watch { log })
    }
}

/// A port of the server, from a moment on.
#[derive(Debug)]
pub(crate) struct Watch {
    log: PathBuf,
}

impl Watch {
    /// What the server has seen, once that is so many requests. One that isn't TLS 1.3 is an error.
    pub(crate) fn saw(&self, requests: f64) -> anyhow::Result<Saw> {
        wait_for(&format!("the server to have seen {requests} requests"), Duration::from_secs(5), || {
            let saw = read(&fs::read_to_string(&self.log).ok()?);
            saw.map(|saw| (saw.requests >= requests).then_some(saw)).transpose()
        })?
    }
}

fn read(log: &str) -> anyhow::Result<Saw> {
    let mut saw = Saw::default();
    // The last line may be on its way.
    for line in log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let mut words = line.split(' ');
        let (version, resumed, number) = (words.next(), words.next(), words.next());
        saw.http2 += if words.next() == Some("HTTP/2.0") { 1.0 } else { 0.0 };
        ensure!(version == Some("TLSv1.3"), "the server saw {line:?}, not TLS 1.3");
        saw.requests += 1.0;
        if number == Some("1") {
            saw.handshakes += 1.0;
            saw.resumed += if resumed == Some("r") { 1.0 } else { 0.0 };
        }
    }
    Ok(saw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tells_handshakes_and_resumed_ones() {
        let saw =
            read("TLSv1.3 . 1 HTTP/1.1\nTLSv1.3 r 1 HTTP/2.0\nTLSv1.3 r 2 HTTP/2.0\nTLSv1.3 r 3").unwrap();
        assert_eq!(saw, Saw { requests: 3.0, handshakes: 2.0, resumed: 1.0, http2: 2.0 });
        assert!(read("TLSv1.2 . 1 HTTP/1.1\n").is_err());
    }
}
