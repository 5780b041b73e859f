//! `interceptor explain`: its flags, turned into a question, and the answer.

use std::net::{IpAddr, ToSocketAddrs};
use std::process::ExitCode;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::output;
use super::resources::ResourceFlags;
use crate::explain::{Question, Spoken, Target, explain};
use crate::proxy::upstream::look_at_files;

/// What we exit with when the connection would be refused, or answered here with an error.
const NOT_CARRIED: u8 = 3;

/// Tell what would become of one connection, and which resource says so; nothing is sent
///
/// Goes through every decision: whether the kernel hands the connection to the proxy, which listener and chain take it, which
/// virtual host and route, which cluster with which endpoints, TLS and limits, and what the client would see. Each
/// step names the resource, file and line that decided it (by …), and what was looked at and lost (not …).
///
/// TARGET is http://HOST[:PORT][/PATH], https://HOST[:PORT], tls://HOST:PORT, tcp://HOST:PORT or HOST:PORT.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Exit codes:\n  \
        0 when the connection would be carried, or left alone\n  \
        1 when the resources can't be read\n  \
        2 when the command line is wrong\n  \
        3 when it, or a share of it, would be refused or answered by the proxy with an error\n\n\
        Examples:\n  \
        # Which rule gives this request its timeout?\n  \
        interceptor explain -c egress/ http://httpbin.org/delay/5\n\n  \
        # As a pod of the files, with its labels and annotations\n  \
        interceptor explain -c egress/ --from shop/cart https://api.example.com\n\n  \
        # In a script: may it get out?\n  \
        interceptor explain -c egress/ --outbound-traffic-policy REGISTRY_ONLY -o json https://edition.cnn.com")]
pub(super) struct Arguments {
    #[command(flatten)]
    resources: ResourceFlags,

    /// The address that the connection goes to, if not what TARGET or a ServiceEntry says
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,

    /// Look names up as they are now: the target's, and those of endpoints
    #[arg(long)]
    resolve: bool,

    /// The request's method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: Method,

    /// A header of the request; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    header: Vec<(HeaderName, HeaderValue)>,

    /// The server name in the TLS handshake, if not the target's host
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

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|error| error.to_string())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?;
    Ok((name, value))
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let resources = arguments.resources.compile()?;
    let target = arguments.target;
    // A name that is not found has no addresses.
    let resolved = arguments.resolve.then(|| look_up(&target.host).unwrap_or_default());
    let first = resolved.as_ref().and_then(|addresses| addresses.first().copied());
    let address = arguments
        .address
        .map(|address| (address, "as asked".to_owned()))
        .or_else(|| Some((first?, format!("what {} is now", target.host))));
    let mut headers = HeaderMap::new();
    headers.extend(arguments.header.into_iter().map(|(name, value)| (Some(name), value)));
    let question = Question {
        target,
        spoken: arguments.protocol.map(|protocol| match protocol {
            Protocol::Http => Spoken::Http,
            Protocol::Tls => Spoken::Tls,
            Protocol::Tcp => Spoken::Tcp,
        }),
        address,
        resolved,
        method: arguments.method,
        headers,
        sni: arguments.sni,
        redirect: resources.redirect,
        redirect_by: resources.redirect_by,
        look_at_files,
    };
    let mut explanation = explain(&resources.world, &resources.snapshot, &resources.settings, &question);
    if arguments.resolve {
        for lookup in std::mem::take(&mut explanation.lookups) {
            explanation.resolved(&lookup, look_up(&lookup.host));
        }
    }
    output::print(&match arguments.output {
        Format::Text => explanation.to_string(),
        Format::Json => output::json(&explanation)?,
        Format::Yaml => output::yaml(&explanation)?,
    })?;
    Ok(if explanation.is_carried() { ExitCode::SUCCESS } else { ExitCode::from(NOT_CARRIED) })
}

/// By the system's resolver.
fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let mut addresses: Vec<IpAddr> =
        (host, 0).to_socket_addrs().map_err(|error| error.to_string())?.map(|address| address.ip()).collect();
    addresses.dedup();
    Ok(addresses)
}
