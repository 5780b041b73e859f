//! Clusters: for each port of each service one, and one for each subset.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::registry::{Registry, Service};
use crate::resource::World;
use crate::resource::service_entry::{Resolution, ServicePort, WorkloadEntry};
use crate::snapshot::{
    Cluster, ClusterName, ClusterRef, Discovery, DnsTarget, Endpoint, LoadBalancer, UpstreamProtocol,
};

/// Every cluster by name.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    by_name: HashMap<ClusterName, Arc<Cluster>>,
}

const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

impl Clusters {
    pub(super) fn new(world: &World, registry: &Registry) -> Self {
        let mut clusters = Self::default();
        for service in &registry.services {
            for port in &service.entry.ports {
                let name = ClusterName::outbound(port.number, "", &service.host);
                if clusters.by_name.contains_key(&name) {
                    continue;
                }
                if let Some(discovery) = discovery(service, port) {
                    let cluster = Cluster {
                        name: name.clone(),
                        host: Arc::clone(&service.host),
                        port: port.number,
                        discovery,
                        protocol: if port.protocol.is_http2() {
                            UpstreamProtocol::Http2
                        } else {
                            UpstreamProtocol::Http1
                        },
                        tls: None,
                        load_balancer: LoadBalancer::default(),
                        connect_timeout: world.mesh.connect_timeout,
                        tcp_idle_timeout: IDLE_TIMEOUT,
                        http_idle_timeout: IDLE_TIMEOUT,
                        max_requests_per_connection: None,
                    };
                    clusters.by_name.insert(name, Arc::new(cluster));
                }
            }
        }
        clusters
    }

    /// A reference to a cluster, whether it exists or not.
    pub(super) fn named(&self, port: u16, subset: &str, host: &str) -> ClusterRef {
        let name = ClusterName::outbound(port, subset, host);
        let cluster = self.by_name.get(&name).cloned();
        ClusterRef { name, cluster }
    }

    pub(super) fn into_map(self) -> HashMap<ClusterName, Arc<Cluster>> {
        self.by_name
    }
}

/// Where the endpoints come from; `None` when the name of no endpoint is known: no cluster then.
fn discovery(service: &Service, port: &ServicePort) -> Option<Discovery> {
    let entry = &service.entry;
    let default_port = port.target_port.unwrap_or(port.number);
    let port_of = |endpoint: &WorkloadEntry| endpoint.ports.get(&port.name).copied().unwrap_or(default_port);
    let names = || -> Vec<DnsTarget> {
        if entry.endpoints.is_empty() && !entry.workload_selector {
            return vec![DnsTarget { host: Arc::clone(&service.host), port: default_port, weight: 1 }];
        }
        let target = |endpoint: &WorkloadEntry| DnsTarget {
            host: Arc::clone(&endpoint.address),
            port: port_of(endpoint),
            weight: endpoint.weight,
        };
        entry.endpoints.iter().map(target).collect()
    };
    match entry.resolution {
        Resolution::None => Some(Discovery::OriginalDst { port: port.target_port }),
        Resolution::Static => {
            let endpoint = |endpoint: &WorkloadEntry| {
                let address: IpAddr = endpoint.address.parse().ok()?;
                Some(Endpoint {
                    address: SocketAddr::new(address, port_of(endpoint)),
                    weight: endpoint.weight,
                })
            };
            Some(Discovery::Static(entry.endpoints.iter().filter_map(endpoint).collect()))
        }
        Resolution::Dns => Some(names()).filter(|names| !names.is_empty()).map(Discovery::StrictDns),
        Resolution::DnsRoundRobin => names().into_iter().next().map(Discovery::LogicalDns),
        Resolution::DynamicDns => Some(Discovery::DynamicDns { port: default_port }),
    }
}
