//! What becomes of what nobody declared: connections that no chain takes, requests whose Host no service has.

use std::sync::Arc;

use super::OutboundTrafficPolicy;
use super::cluster::{Cluster, ClusterName};
use super::listener::{Fallthrough, TcpRoute};
use super::request::Refusal;
use super::route::{
    BLOCK_ALL, ClusterRef, DirectResponse, Forward, Route, RouteAction, VirtualHost, WeightedCluster,
};

/// ALLOW_ANY's route, to the original destination or the egress proxy.
const ALLOW_ANY: &str = "allow_any";
const ALLOW_ANY_DYNAMIC_DNS: &str = "allow_any_dynamic_dns";

/// One for all listeners and route tables of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatchAll {
    pub fallthrough: Fallthrough,
    /// `allow_any`, `block_all` (502, empty body) or `allow_any_dynamic_dns`.
    pub virtual_host: Arc<VirtualHost>,
    /// Requests are looked for on ports that no service has, too.
    pub(super) finds_http_anywhere: bool,
}

impl CatchAll {
    /// Where the egress gateway is enforced: nothing that nobody declared leads through it.
    pub fn around_gateway() -> Self {
        Self {
            fallthrough: Fallthrough::BlackHole,
            virtual_host: virtual_host(BLOCK_ALL, RouteAction::Refused(Refusal::AroundGateway)),
            finds_http_anywhere: false,
        }
    }

    /// A Sidecar's `outboundTrafficPolicy.egressProxy`: to that cluster, whatever the address, without timeout and
    /// retries (Istio's buildCatchAllVirtualHost and buildOutboundCatchAllNetworkFiltersOnly).
    pub fn egress_proxy(cluster: ClusterRef) -> Self {
        let forward = Forward::to(vec![WeightedCluster::new(cluster.clone(), 1)], "".into());
        Self {
            fallthrough: Fallthrough::EgressProxy(Arc::new(TcpRoute::to(cluster))),
            virtual_host: virtual_host(ALLOW_ANY, RouteAction::Forward(Arc::new(forward))),
            finds_http_anywhere: false,
        }
    }

    /// A gateway's: 404 for hosts that no VirtualService gives it (Istio's virtual host `blackhole:80`), nothing for what none
    /// of its servers takes.
    pub fn gateway(name: Arc<str>) -> Self {
        Self {
            fallthrough: Fallthrough::NoFilterChain,
            virtual_host: Arc::new(VirtualHost { name, routes: [].into(), source: None }),
            finds_http_anywhere: false,
        }
    }
}

impl From<OutboundTrafficPolicy> for CatchAll {
    fn from(policy: OutboundTrafficPolicy) -> Self {
        let (name, action) = match policy {
            OutboundTrafficPolicy::AllowAny => (ALLOW_ANY, RouteAction::Passthrough),
            OutboundTrafficPolicy::AllowAnyDynamicDns => (ALLOW_ANY_DYNAMIC_DNS, dynamic_dns()),
            OutboundTrafficPolicy::RegistryOnly => {
                let direct = DirectResponse { status: 502, body: bytes::Bytes::new() };
                (BLOCK_ALL, RouteAction::DirectResponse(Arc::new(direct)))
            }
        };
        Self {
            fallthrough: match policy {
                OutboundTrafficPolicy::AllowAny | OutboundTrafficPolicy::AllowAnyDynamicDns => {
                    Fallthrough::Passthrough
                }
                OutboundTrafficPolicy::RegistryOnly => Fallthrough::BlackHole,
            },
            virtual_host: virtual_host(name, action),
            finds_http_anywhere: policy == OutboundTrafficPolicy::AllowAnyDynamicDns,
        }
    }
}

impl From<&Self> for CatchAll {
    fn from(catch_all: &Self) -> Self {
        catch_all.clone()
    }
}

fn virtual_host(name: &str, action: RouteAction) -> Arc<VirtualHost> {
    let routes = [Route::new(name.into(), action)].into();
    Arc::new(VirtualHost { name: name.into(), routes, source: None })
}

/// To whatever the Host header names, on the port that was asked for.
fn dynamic_dns() -> RouteAction {
    let cluster = Arc::new(Cluster::allow_any_dynamic_dns());
    let to = ClusterRef { name: cluster.name.clone(), cluster: Some(cluster) };
    let operation = ClusterName::ALLOW_ANY_DYNAMIC_DNS.into();
    RouteAction::Forward(Arc::new(Forward::to(vec![WeightedCluster::new(to, 1)], operation)))
}
