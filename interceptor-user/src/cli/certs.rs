//! `interceptor certs`: an authority and certificates of it in files.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::output;
use crate::certs::{self, Subject, Target};
use crate::resource::parse_duration;
use crate::workload::SpiffeId;

/// Make a certification authority, and certificates of it, for tests and small set-ups
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Make a certification authority, and certificates of it, for tests and small set-ups.\n\n\
        In a cluster cert-manager's CSI driver or SPIRE does this better: they renew what they make. Here whoever runs the \
        command again (with --force, from cron) renews; the proxy uses replaced files for new connections, without a \
        restart.\n\nPrivate keys are readable by their owner only.",
    after_help = "Examples:\n  \
        # An authority, and the identities of an application and of the egress gateway\n  \
        interceptor certs ca --out ca/\n  \
        interceptor certs issue --ca ca/ --spiffe spiffe://cluster.local/ns/shop/sa/cart --out cart/\n  \
        interceptor certs issue --ca ca/ --spiffe spiffe://cluster.local/ns/istio-system/sa/egress --out gateway/\n  \
        sudo interceptor exec -c config/ --identity-dir cart/ -- ./app\n\n  \
        # A certificate for a Gateway's server with credentialName: httpbin-tls, below --credentials-dir credentials/\n  \
        interceptor certs issue --ca ca/ --dns httpbin.org --out credentials/httpbin-tls/",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an authority: ca.crt and ca.key
    Ca(CaArguments),
    /// Make a certificate: cert-chain.pem, key.pem and root-cert.pem of a workload, tls.crt, tls.key and ca.crt of a server
    Issue(IssueArguments),
}

#[derive(Debug, clap::Args)]
struct Out {
    /// Where the files go; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

impl From<Out> for Target {
    fn from(Out { out: directory, force }: Out) -> Self {
        Self { directory, force }
    }
}

#[derive(Debug, clap::Args)]
struct CaArguments {
    #[command(flatten)]
    out: Out,

    /// How the authority names itself
    #[arg(long, value_name = "NAME", default_value = "interceptor CA")]
    name: String,

    /// How long it lives, such as 8760h
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration)]
    ttl: Duration,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("subject").required(true))]
struct IssueArguments {
    /// The directory of the authority
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,

    /// The workload's identity: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT
    #[arg(long, value_name = "URI", group = "subject", value_parser = spiffe_id)]
    spiffe: Option<SpiffeId>,

    /// A name or address of the server; several may be given
    #[arg(long, value_name = "NAME", group = "subject")]
    dns: Vec<String>,

    #[command(flatten)]
    out: Out,

    /// How long it lives, such as 24h
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    ttl: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "expected a duration such as 24h or 90m, above zero".into())
}

fn spiffe_id(text: &str) -> Result<SpiffeId, String> {
    SpiffeId::parse(text).ok_or_else(|| {
        "expected spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, or another path".into()
    })
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let written = match arguments.command {
        Command::Ca(CaArguments { out, name, ttl }) => certs::make_authority(&out.into(), &name, ttl)?,
        Command::Issue(IssueArguments { ca, spiffe, dns, out, ttl }) => {
            let subject = spiffe.map_or_else(|| Subject::Names(dns), Subject::Spiffe);
            certs::issue(&ca, &subject, &out.into(), ttl)?
        }
    };
    for path in written {
        output::print(&format!("{}\n", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
