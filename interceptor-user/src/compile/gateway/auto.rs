//! AUTO_PASSTHROUGH: TLS that passes to the cluster that its server name is Istio's name of (Istio's
//! builtAutoPassthroughFilterChains). No VirtualService has a part in it: the server's hosts say which services may be
//! meant, among those that the gateway sees.

use std::sync::Arc;

use super::{Inputs, Of};
use crate::compile::tls::server_name_of_mesh;
use crate::resource::ResourceKey;
use crate::resource::gateway::{ServerHost, ServerNamespace};
use crate::resource::host;
use crate::snapshot::{Cluster, ClusterName, ClusterRef, Source, TcpRoute};

/// Server names and where each leads.
pub(super) fn chains(inputs: Inputs<'_>, of: Of<'_>) -> Vec<(String, Arc<TcpRoute>)> {
    let source = Source::whole(&of.gateway.meta.key);
    let clusters = inputs.translator.clusters.by_name();
    let taken = clusters.values().filter(|cluster| takes(of, cluster));
    let chain = |cluster: &Arc<Cluster>| {
        let subset = subset_of(&cluster.name);
        let reference = ClusterRef { name: cluster.name.clone(), cluster: Some(Arc::clone(cluster)) };
        let route =
            TcpRoute { source: Some(Arc::clone(&source)), client_chose: true, ..TcpRoute::to(reference) };
        (server_name_of_mesh(cluster.port, subset, &cluster.host), Arc::new(route))
    };
    taken.map(chain).collect()
}

/// Whoever names a cluster names its host, too: of a wildcard, or of what is wherever a name leads, there is none. A tunnel
/// leads where no address of the cluster says, and its request would go to the proxy without the TLS that it is to be in.
fn takes(of: Of<'_>, cluster: &Cluster) -> bool {
    let service = cluster.source.as_ref().map(|source| &source.service);
    let is_of = |own: &&ServerHost| match (&own.namespace, service) {
        (ServerNamespace::Any, _) => true,
        (ServerNamespace::Named(namespace), Some(ResourceKey { namespace: of_service, .. })) => {
            namespace == of_service
        }
        (ServerNamespace::Named(_), None) => false,
    };
    !cluster.leads_by_name()
        && !cluster.is_original_dst()
        && cluster.tunnel.is_none()
        && of.server.hosts.iter().filter(is_of).any(|own| host::matches(&own.host, &cluster.host))
}

fn subset_of(name: &ClusterName) -> &str {
    name.0.split('|').nth(2).unwrap_or_default()
}
