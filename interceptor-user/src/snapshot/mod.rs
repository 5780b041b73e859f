//! The compiled configuration: everything a connection or request needs to know, immutable, with
//! its lookups. Made by `compile`, read by `proxy`. Health, pools and DNS answers live outside it,
//! keyed by cluster name, so that they survive a reload.
//!
//! The shape follows Envoy's: a connection finds a [`Listener`] by its original destination, there a
//! TLS, HTTP or TCP chain by its first bytes, and through it a [`Route`] and a [`Cluster`].

mod catch_all;
pub mod changes;
pub mod cluster;
pub mod connection_pool;
pub mod cors;
pub mod decision;
pub mod endpoint_address;
pub mod fault;
pub mod host_map;
pub mod listener;
pub mod load_balancing;
mod off_limits;
pub mod path;
pub mod request;
pub mod route;
pub mod source;
pub mod tls_termination;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::hash::{HashMap, HashSet};
pub use crate::resource::AllowFrom;
pub use crate::resource::log_format::{self, LogFormat};
pub use crate::resource::string_match::StringMatch;
use crate::shared_map::SharedMap;
pub use catch_all::CatchAll;
pub use changes::{Changes, HeaderChanges, PathRewrite, Redirect};
pub use cluster::{
    CaSource, ClientIdentity, Cluster, ClusterName, Credential, Discovery, DnsFamily, DnsTarget, Endpoint,
    Svid, TlsOrigination, TlsOriginationMode, Traffic, UpstreamProtocol,
};
pub use connection_pool::{
    Bounds, Http2Keepalive, ProxyProtocol, RetryBudget, TcpKeepalive, Tunnel, TunnelMethod,
};
pub use cors::Cors;
pub use decision::{Decision, Destination, FirstBytes, HttpVersion};
pub use endpoint_address::EndpointAddress;
pub use fault::{AbortStatus, Fault, Share};
pub use host_map::HostMap;
pub use listener::{CidrChain, Fallthrough, Listener, TcpRoute};
pub use load_balancing::{HashCookie, HashKey, LoadBalancer, OutlierDetection, Placement, Warmup};
pub use off_limits::OffLimits;
pub use path::PathNormalization;
pub use request::Refusal;
pub use route::{
    ClusterRef, DirectResponse, Forward, HeaderMatch, Mirror, Mismatch, RequestFacts, RetryOn, RetryPolicy,
    Route, RouteAction, RouteMatch, RouteTable, VirtualHost, WeightedCluster,
};
pub use source::{ClusterSource, Rule, Source};
pub use tls_termination::{
    CertificateSource, CipherSuite, ClientCaSource, Terminated, Then, TlsTermination, TlsTerminationMode,
    TlsVersion,
};

/// MeshConfig.outboundTrafficPolicy.mode: what happens to destinations the registry does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutboundTrafficPolicy {
    /// Unknown destinations are reached at their original address. Istio's default.
    #[default]
    AllowAny,
    /// Unknown destinations are refused.
    RegistryOnly,
    /// As [`Self::AllowAny`], but for plain HTTP the Host header is resolved.
    AllowAnyDynamicDns,
}

impl OutboundTrafficPolicy {
    /// As MeshConfig has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllowAny => "ALLOW_ANY",
            Self::RegistryOnly => "REGISTRY_ONLY",
            Self::AllowAnyDynamicDns => "ALLOW_ANY_DYNAMIC_DNS",
        }
    }
}

/// How access log lines are encoded (MeshConfig.accessLogEncoding).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogEncoding {
    #[default]
    Text,
    Json,
}

impl From<AccessLogEncoding> for LogFormat {
    /// Istio's own.
    fn from(encoding: AccessLogEncoding) -> Self {
        match encoding {
            AccessLogEncoding::Text => Self::default_text(),
            AccessLogEncoding::Json => Self::default_json(),
        }
    }
}

/// Mesh-wide settings that the proxy reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// MeshConfig.accessLogFile; `None` when off.
    pub access_log_file: Option<String>,
    pub access_log_encoding: AccessLogEncoding,
    /// MeshConfig.accessLogFormat, for that encoding; `None` for Istio's own.
    pub access_log_format: Option<Arc<LogFormat>>,
    /// MeshConfig.protocolDetectionTimeout; zero waits for ever on ports that declare a protocol that
    /// speaks first on the client's side.
    pub protocol_detection_timeout: Duration,
    /// Lower bound of the interval between two DNS lookups of one name when the answer has no usable
    /// TTL or the lookup failed (MeshConfig.dnsRefreshRate).
    pub dns_refresh_rate: Duration,
    pub path_normalization: PathNormalization,
    pub proxy_headers: ProxyHeaders,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            access_log_file: None,
            access_log_encoding: AccessLogEncoding::Text,
            access_log_format: None,
            protocol_detection_timeout: Duration::ZERO,
            dns_refresh_rate: Duration::from_secs(60),
            path_normalization: PathNormalization::default(),
            proxy_headers: ProxyHeaders::default(),
        }
    }
}

/// ProxyConfig.proxyHeaders: which headers the proxy adds. All on, but for peer metadata, which is
/// never sent outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeaders {
    /// x-request-id on requests.
    pub request_id: bool,
    /// x-envoy-attempt-count on requests.
    pub attempt_count: bool,
    /// x-envoy-upstream-service-time on responses and x-envoy-decorator-operation on requests.
    pub envoy_debug_headers: bool,
    /// The `server` header of every response, replacing the upstream's; `None` passes the upstream's
    /// through and names our own replies `interceptor`.
    pub server: Option<Arc<str>>,
    /// Keep the case of HTTP/1 header names as they came.
    pub preserve_http1_header_case: bool,
    /// Of a gateway: what only proxies say is not taken from clients.
    pub is_edge: bool,
}

impl Default for ProxyHeaders {
    fn default() -> Self {
        Self {
            request_id: true,
            attempt_count: true,
            envoy_debug_headers: true,
            server: None,
            preserve_http1_header_case: false,
            is_edge: false,
        }
    }
}

/// One version of the configuration. Two equal snapshots behave alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// SNI and Host must fit the address that was asked for, where that address is used.
    pub strict: bool,
    /// Nothing outside is reached but through the egress gateway.
    pub enforced: bool,
    /// Clusters that there would be if that were not so: they lead around it.
    pub around_gateway: Arc<HashSet<ClusterName>>,
    pub mesh: MeshSettings,
    /// Listeners with an address of their own: services with a VIP (`addresses` without a range).
    pub by_address: HashMap<(IpAddr, u16), Arc<Listener>>,
    /// `0.0.0.0_port`: destination address ignored but for [`Listener::cidrs`].
    pub by_port: HashMap<u16, Arc<Listener>>,
    /// What no other listener takes: nothing but policy.
    pub virtual_outbound: Arc<Listener>,
    /// Of route tables: for hosts that nobody declared.
    pub catch_all: Arc<VirtualHost>,
    /// Every cluster by name, PassthroughCluster and BlackHoleCluster not among them.
    pub clusters: SharedMap<ClusterName, Arc<Cluster>>,
    /// Of a gateway, by host: who may go there through clusters that lead wherever a request says (see
    /// [`Cluster::leads_by_name`]); whoever all of the rules let through.
    pub allow_from: Arc<HostMap<Vec<AllowFrom>>>,
}

impl Snapshot {
    /// A snapshot with an empty registry.
    pub fn empty(policy: OutboundTrafficPolicy) -> Self {
        Self {
            outbound_traffic_policy: policy,
            strict: false,
            enforced: false,
            around_gateway: Arc::default(),
            mesh: MeshSettings::default(),
            by_address: HashMap::default(),
            by_port: HashMap::default(),
            virtual_outbound: Arc::new(Listener::virtual_outbound(policy)),
            catch_all: CatchAll::from(policy).virtual_host,
            clusters: SharedMap::default(),
            allow_from: Arc::default(),
        }
    }

    /// Why requests get no answer from a cluster that is not there.
    pub fn refusal_without(&self, cluster: &ClusterName) -> Refusal {
        if self.around_gateway.contains(cluster) { Refusal::AroundGateway } else { Refusal::NoCluster }
    }

    /// Who may use a cluster, and through it the host that `name` (Host or SNI as it goes on, without port) is: whoever all
    /// of these let through.
    pub fn rules<'a>(
        &'a self,
        cluster: &'a Cluster,
        name: Option<&str>,
    ) -> impl Iterator<Item = &'a AllowFrom> {
        let named = name.filter(|_| cluster.leads_by_name());
        let of_name = named.and_then(|name| self.allow_from.get(name)).into_iter().flatten();
        cluster.allow_from.iter().chain(of_name)
    }

    /// The listener of an original destination: exact address, then port, then the catch-all.
    pub fn listener(&self, address: IpAddr, port: u16) -> &Arc<Listener> {
        self.by_address
            .get(&(address, port))
            .or_else(|| self.by_port.get(&port))
            .unwrap_or(&self.virtual_outbound)
    }
}
