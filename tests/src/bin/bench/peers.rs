//! The proxies that the interceptor is compared with, one worker each, doing the same job: what the row's client
//! sends to the server's plain port goes on in clear, what it sends to the originated port as TLS, and the opaque
//! port byte for byte. All verify the server's certificate. Only [`Job::Logged`] has access logs.

use std::process::Command;

use interceptor_tests::{Daemon, Dir};

use crate::gateway::Hop;
use crate::job::Job;
use crate::lab::{self, HOST, Lab, PROXY, Place, SERVER};
use crate::row::ACCESS_LOG;

const ENVOY: &str = include_str!("envoy.yaml");

/// One worker, and a log that is flushed each second, as Istio has it.
pub(crate) const ENVOY_FLAGS: [&str; 7] = [
    "--concurrency",
    "1",
    "--disable-hot-restart",
    "--log-level",
    "error",
    "--file-flush-interval-msec",
    "1000",
];

pub(crate) fn envoy(lab: &Lab, place: &Place, dir: &Dir, job: Job, gateway: &Hop) -> anyhow::Result<Daemon> {
    let mut config = ENVOY
        .replace("CA_FILE", &lab.ca.root().display().to_string())
        .replace("TLS_PORT", &job.server_port().to_string());
    let server = if job == Job::Gateway { gateway.place.address } else { SERVER };
    config = config.replace("TLS_ADDRESS", &server.to_string());
    match job {
        Job::Http2 => config = config.replace("# HTTP2 ", ""),
        Job::Gateway => {
            config = gateway.fill(&config.replace("# HTTP2 ", "").replace("# GATEWAY ", ""), lab);
        }
        Job::Logged => config = config.replace("# LOG ", ""),
        Job::Plain | Job::Originate | Job::HandshakeFull | Job::HandshakeResumed | Job::Opaque => {}
    }
    let config = dir.write("envoy.yaml", config)?;
    let mut command = lab::exempt(place, &interceptor_tests::envoy_binary()?.display().to_string());
    command.arg("-c").arg(config).args(ENVOY_FLAGS);
    ready(command, "envoy", place, dir)
}

pub(crate) fn nginx(lab: &Lab, place: &Place, dir: &Dir, job: Job) -> anyhow::Result<Daemon> {
    let paths = dir.path().display();
    let main = format!(
        "daemon off;\nmaster_process off;\npid {paths}/pid;\nerror_log {paths}/error.log;\n\
         events {{ worker_connections 8192; }}\n"
    );
    let port = job.server_port();
    let log = if job == Job::Logged { ACCESS_LOG } else { "off" };
    let http = |scheme: &str, tls: &str| {
        format!(
            "{main}http {{\naccess_log {log};\nclient_body_temp_path {paths}/body;\nproxy_temp_path {paths}/proxy;\n\
             fastcgi_temp_path {paths}/fastcgi;\nuwsgi_temp_path {paths}/uwsgi;\nscgi_temp_path {paths}/scgi;\n\
             keepalive_timeout 1h;\nkeepalive_requests 1000000000;\n\
             upstream web {{ server {SERVER}:{port}; keepalive 256; keepalive_requests 1000000000; }}\n\
             server {{ listen {PROXY} backlog=8192;\nlocation / {{\nproxy_pass {scheme}://web;\n\
             proxy_http_version 1.1;\nproxy_set_header Host $http_host;\nproxy_set_header Connection \"\";\n{tls}}}\n}}\n}}\n"
        )
    };
    let config = if job == Job::Opaque {
        format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n{main}\
             stream {{ server {{ listen {PROXY} backlog=8192; proxy_pass {SERVER}:{port}; }} }}\n"
        )
    } else if job.is_tls() {
        http(
            "https",
            &format!(
                "proxy_ssl_protocols TLSv1.2 TLSv1.3;\nproxy_ssl_server_name on;\nproxy_ssl_name {HOST};\n\
                 proxy_ssl_verify on;\nproxy_ssl_trusted_certificate {};\n",
                lab.ca.root().display()
            ),
        )
    } else {
        http("http", "")
    };
    let config = dir.write("nginx.conf", config)?;
    let mut command = lab::exempt(place, "/usr/sbin/nginx");
    command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(dir.path()).arg("-c").arg(config);
    ready(command, "nginx", place, dir)
}

pub(crate) fn haproxy(lab: &Lab, place: &Place, dir: &Dir, job: Job) -> anyhow::Result<Daemon> {
    let port = job.server_port();
    let tls =
        format!("ssl verify required ca-file {} sni str({HOST}) verifyhost {HOST}", lab.ca.root().display());
    let tls = if job.is_tls() { tls.as_str() } else { "" };
    let alpn = if job == Job::Http2 { "alpn h2" } else { "" };
    let (mode, reuse) = if job == Job::Opaque { ("tcp", "") } else { ("http", "http-reuse always\n") };
    let log = if job == Job::Logged { "log stdout format raw daemon\noption httplog\n" } else { "" };
    let config = format!(
        "global\nnbthread 1\nmaxconn 4000\n\
         defaults\nmode {mode}\ntimeout connect 10s\ntimeout client 1h\ntimeout server 1h\n{reuse}{log}\
         frontend outbound\nbind :{PROXY} backlog 8192\ndefault_backend web\n\
         backend web\nserver web {SERVER}:{port} {tls} {alpn}\n"
    );
    let config = dir.write("haproxy.cfg", config)?;
    let mut command = lab::exempt(place, "/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(config);
    ready(command, "haproxy", place, dir)
}

fn ready(mut command: Command, name: &str, place: &Place, dir: &Dir) -> anyhow::Result<Daemon> {
    let address = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, PROXY);
    Daemon::spawn(command.current_dir(dir.path()), &dir.join("log"))?
        .wait_ready(name, || place.answers(address))
}
