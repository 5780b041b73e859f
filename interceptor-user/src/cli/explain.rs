//! `interceptor explain`: its flags, turned into a question, and the answer.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context;
use http::Method;

use super::output;
use super::resources::{Of, ResourceFlags};
use crate::admin::CARRIED;
use crate::dns;
use crate::explain::{Asked, Header, Outside, ServerFiles, Spoken, Target, parse_peer};
use crate::output::Output;
use crate::proxy;
use crate::proxy::upstream::{InUse, look_at_files};
use crate::snapshot::{CertificateSource, TlsTermination};
use crate::workload::SpiffeId;

/// What we exit with when the connection would be refused, or answered here with an error.
const NOT_CARRIED: u8 = 3;

/// Tell what would become of one connection, and which resource says so; nothing is sent
///
/// Goes through every decision: whether the kernel hands the connection to the proxy, which listener and chain take it, which
/// virtual host and route, which cluster with which endpoints, TLS and limits, and what the client would see. Each
/// step names the resource, file and line that decided it (by …), and what was looked at and lost (not …). With --gateway it is
/// a connection that comes to an egress gateway: which server takes it, and where it is sent on.
///
/// TARGET is http://HOST[:PORT][/PATH], https://HOST[:PORT], tls://HOST:PORT, tcp://HOST:PORT or HOST:PORT.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Exit codes:\n  \
        0 when the connection would be carried, or left alone\n  \
        1 when the resources can't be read, or the agent can't tell\n  \
        2 when the command line is wrong\n  \
        3 when it, or a share of it, would be refused or answered by the proxy with an error\n\n\
        Examples:\n  \
        # Which rule gives this request its timeout?\n  \
        interceptor explain -c egress/ http://httpbin.org/delay/5\n\n  \
        # As a pod of the files, with its labels and annotations\n  \
        interceptor explain -c egress/ --from shop/cart https://api.example.com\n\n  \
        # A pod of this node, by what the agent has in force\n  \
        sudo interceptor explain --pod shop/cart https://api.example.com\n\n  \
        # What an egress gateway does with it; the port is that of its Service\n  \
        interceptor explain -c egress/ --gateway --namespace istio-system --labels istio=egressgateway --port 80 \
        http://httpbin.org/\n\n  \
        # In a script: may it get out?\n  \
        interceptor explain -c egress/ --outbound-traffic-policy REGISTRY_ONLY -o json https://edition.cnn.com")]
#[command(group = clap::ArgGroup::new("entrance").args(["gateway", "pod"]))]
pub(super) struct Arguments {
    #[command(flatten)]
    resources: ResourceFlags,

    /// The address that the connection goes to, if not what TARGET or a ServiceEntry says; at a gateway, the gateway's own
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,

    /// At a gateway, the port of its Service that the connection comes to [default: that of TARGET]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), requires = "entrance")]
    port: Option<u16>,

    /// At a gateway, who the client is by the certificate that it shows
    #[arg(long, value_name = "SPIFFE-ID", value_parser = parse_peer, requires = "entrance")]
    peer: Option<SpiffeId>,

    /// Look names up as they are now: the target's, and those of endpoints
    #[arg(long)]
    resolve: bool,

    /// The request's method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: Method,

    /// A header of the request; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<Header>,

    /// The server name in the TLS handshake, if not the target's host; at a gateway, TLS is around whatever TARGET is
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,

    /// What is spoken, if not what TARGET says [default: what the registry says of the port]
    #[arg(long, value_name = "PROTOCOL", value_enum)]
    protocol: Option<Protocol>,

    /// How the answer is written
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text")]
    output: Format,

    /// What to connect to
    #[arg(value_name = "TARGET")]
    target: Target,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Protocol {
    Http,
    Tls,
    Tcp,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Text,
    Json,
    Yaml,
}

/// What a directory that was given holds is what the gateway has; the rest may be elsewhere where it runs.
fn look_at_server(tls: &TlsTermination) -> ServerFiles {
    let is_given = |source: &CertificateSource| matches!(source, CertificateSource::Credential(_));
    match proxy::look_at_server(tls) {
        Ok(trust_domains) => ServerFiles::Usable { trust_domains },
        Err(reason) if tls.impossible.is_none() && tls.certificates.iter().any(is_given) => {
            ServerFiles::Unusable(reason)
        }
        Err(reason) => ServerFiles::Unknown(reason),
    }
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let asked = Asked {
        target: arguments.target,
        port: arguments.port,
        peer: arguments.peer,
        protocol: arguments.protocol.map(|protocol| match protocol {
            Protocol::Http => Spoken::Http,
            Protocol::Tls => Spoken::Tls,
            Protocol::Tcp => Spoken::Tcp,
        }),
        address: arguments.address,
        resolve: arguments.resolve,
        method: arguments.method,
        headers: arguments.header,
        sni: arguments.sni,
    };
    let output = match arguments.output {
        Format::Text => Output::Text,
        Format::Json => Output::Json,
        Format::Yaml => Output::Yaml,
    };
    let (text, is_carried) = match arguments.resources.of() {
        Of::Files(files) => {
            let resources = files.compile(asked.address)?;
            let outside =
                Outside { look_up: dns::look_up, look_at_server, look_at_files, is_proxy_here: false };
            let explanation = asked.answer(resources.subject(&InUse::new()), outside);
            (output.render(&explanation, ToString::to_string)?, explanation.is_carried())
        }
        Of::Pod(pod) => {
            let question = serde_json::to_vec(&asked).context("can't write the question")?;
            let answer = pod.ask(Method::POST, "/explain", output, &[], question)?;
            let is_carried = answer.headers.get(CARRIED).is_none_or(|carried| carried == "true");
            (answer.text, is_carried)
        }
    };
    output::print(&text)?;
    Ok(if is_carried { ExitCode::SUCCESS } else { ExitCode::from(NOT_CARRIED) })
}
