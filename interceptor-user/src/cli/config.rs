//! `interceptor config`: which table, of which client, as what.

use std::process::ExitCode;

use http::Method;

use super::output;
use super::resources::{Of, ResourceFlags, Resources};
use crate::output::Output;
use crate::tables::{self, ClusterFilter, EndpointFilter, ListenerFilter, RegistryFilter, Row};

/// Show what resources are compiled to for a client: the tables that the proxy looks connections up in
///
/// The columns are those of istioctl proxy-config.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
        # Which hosts does this namespace see?\n  \
        interceptor config registry -c egress/ --namespace shop\n\n  \
        # Which hosts does this pod of the node see?\n  \
        sudo interceptor config registry --pod shop/cart\n\n  \
        # Where does port 443 lead?\n  \
        interceptor config listeners -c egress/ --port 443\n\n  \
        # What does the egress gateway listen on?\n  \
        interceptor config listeners -c egress/ --gateway --namespace istio-system --labels istio=egressgateway\n\n  \
        # In a script\n  \
        interceptor config clusters -c egress/ -o json | jq -r '.[].name'")]
pub(super) struct Arguments {
    #[command(subcommand)]
    table: Table,
}

#[derive(Debug, clap::Subcommand)]
enum Table {
    /// Which chain takes a connection: by address, port, server name and protocol
    #[command(
        visible_alias = "listener",
        after_help = "Example:\n  interceptor config listeners -c egress/ --port 443"
    )]
    Listeners {
        /// Only listeners with this address; 0.0.0.0 stands for every address
        #[arg(long, value_name = "IP")]
        address: Option<String>,
        /// Only listeners of this port
        #[arg(long)]
        port: Option<u16>,
        #[command(flatten)]
        common: Common,
    },
    /// Which route takes a request: by port, Host and what VirtualServices match
    #[command(
        visible_alias = "route",
        after_help = "Example:\n  interceptor config routes -c egress/ --name 80"
    )]
    Routes {
        /// Only this route table: a port, or host:port of a service with an address of its own
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Where connections and requests can be sent, and which DestinationRule says how
    #[command(
        visible_alias = "cluster",
        after_help = "Example:\n  interceptor config clusters -c egress/ --fqdn httpbin.org"
    )]
    Clusters {
        /// Only clusters of this host
        #[arg(long, value_name = "HOST")]
        fqdn: Option<String>,
        /// Only clusters of this port
        #[arg(long)]
        port: Option<u16>,
        /// Only this subset; an empty one for clusters without
        #[arg(long)]
        subset: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Who the clusters are: addresses, and names as long as nobody has looked them up
    #[command(
        visible_alias = "endpoint",
        after_help = "Example:\n  interceptor config endpoints -c egress/ --cluster 'outbound|80||httpbin.org'"
    )]
    Endpoints {
        /// Only endpoints of this cluster
        #[arg(long)]
        cluster: Option<String>,
        /// Only endpoints that are HEALTHY, or UNKNOWN
        #[arg(long)]
        status: Option<String>,
        /// Only this address, name or unix socket (unix:///path)
        #[arg(long, value_name = "IP|NAME|UNIX")]
        address: Option<String>,
        /// Only this port
        #[arg(long)]
        port: Option<u16>,
        #[command(flatten)]
        common: Common,
    },
    /// Which hosts the client sees, on which ports, and where they are declared
    #[command(after_help = "Example:\n  interceptor config registry -c egress/ --namespace shop")]
    Registry {
        /// Only this host
        #[arg(long, value_name = "HOST")]
        fqdn: Option<String>,
        /// Only this port
        #[arg(long)]
        port: Option<u16>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    resources: ResourceFlags,

    /// How the table is written
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "table")]
    output: output::Format,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.table {
        Table::Listeners { address, port, common } => {
            let text = port.map(|port| port.to_string());
            let asked = [("address", address.clone()), ("port", text)];
            let filter = ListenerFilter { address, port };
            common.show("listeners", &asked, |of| tables::listeners(&of.snapshot, &filter))
        }
        Table::Routes { name, common } => {
            let asked = [("name", name.clone())];
            common.show("routes", &asked, |of| tables::routes(&of.snapshot, name.as_deref()))
        }
        Table::Clusters { fqdn, port, subset, common } => {
            let text = port.map(|port| port.to_string());
            let asked = [("fqdn", fqdn.clone()), ("port", text), ("subset", subset.clone())];
            let filter = ClusterFilter { fqdn, port, subset };
            common.show("clusters", &asked, |of| tables::clusters(&of.snapshot, &filter))
        }
        Table::Endpoints { cluster, status, address, port, common } => {
            let text = port.map(|port| port.to_string());
            let asked = [
                ("cluster", cluster.clone()),
                ("status", status.clone()),
                ("address", address.clone()),
                ("port", text),
            ];
            let filter = EndpointFilter { cluster, status, address, port };
            common.show("endpoints", &asked, |of| tables::endpoints(&of.snapshot, None, &filter))
        }
        Table::Registry { fqdn, port, common } => {
            let text = port.map(|port| port.to_string());
            let asked = [("fqdn", fqdn.clone()), ("port", text)];
            let filter = RegistryFilter { fqdn, port };
            common.show("registry", &asked, |of| tables::registry(&of.world, &of.snapshot, &filter))
        }
    }
}

impl Common {
    /// From files, or as the agent answers `asked`, which says the same as what `rows` leaves out.
    fn show<R: Row>(
        self,
        table: &str,
        asked: &[(&str, Option<String>)],
        rows: impl FnOnce(&Resources) -> Vec<R>,
    ) -> anyhow::Result<ExitCode> {
        let output = Output::from(self.output);
        let text = match self.resources.of() {
            Of::Files(files) => output.render(&rows(&files.compile(None)?), |rows| tables::text(rows))?,
            Of::Pod(pod) => {
                pod.ask(Method::GET, &format!("/config/{table}"), output, asked, Vec::new())?.text
            }
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
