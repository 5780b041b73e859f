//! An upstream: who its endpoints are and how they are spoken to.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::connection_pool::{Bounds, Http2Keepalive, ProxyProtocol, TcpKeepalive, Tunnel};
use super::endpoint_address::EndpointAddress;
use super::load_balancing::{HashKey, LoadBalancer, OutlierDetection, Placement, Warmup};
use super::off_limits::OffLimits;
use super::source::ClusterSource;
use crate::resource::{AllowFrom, Kind};

/// `outbound|443|subset|www.example.com`, `PassthroughCluster` or `BlackHoleCluster`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterName(pub Arc<str>);

impl ClusterName {
    pub const PASSTHROUGH: &'static str = "PassthroughCluster";
    pub const BLACK_HOLE: &'static str = "BlackHoleCluster";
    pub const ALLOW_ANY_DYNAMIC_DNS: &'static str = "AllowAnyDynamicDNSCluster";

    pub fn outbound(port: u16, subset: &str, host: &str) -> Self {
        Self(format!("outbound|{port}|{subset}|{host}").into())
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Which address families of a name are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFamily {
    #[default]
    All,
}

/// A name to resolve, and the port there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsTarget {
    pub host: Arc<str>,
    pub port: u16,
    /// Relative weight, 1 unless declared.
    pub weight: u32,
}

/// A fixed address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: EndpointAddress,
    pub weight: u32,
}

impl Endpoint {
    /// An endpoint of weight 1.
    pub fn new(address: impl Into<EndpointAddress>) -> Self {
        Self { address: address.into(), weight: 1 }
    }
}

/// Where the endpoints come from (ServiceEntry.resolution).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// NONE: the address that the application asked for; `port` replaces its port when set.
    OriginalDst { port: Option<u16> },
    /// STATIC: these addresses. Empty: 503 UH.
    Static(Vec<Endpoint>),
    /// DNS: all addresses of all names. Empty: 503 UH.
    StrictDns(Vec<DnsTarget>),
    /// DNS_ROUND_ROBIN: the first address of the answer for each new connection.
    LogicalDns(DnsTarget),
    /// DYNAMIC_DNS: the Host header or SNI of the request is resolved; `port` replaces the port that the
    /// application asked for when set.
    DynamicDns { port: Option<u16> },
}

/// HTTP version towards the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    Http1,
    Http2,
}

/// DestinationRule tls.mode, as far as it originates TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsOriginationMode {
    Simple,
    Mutual,
    /// With an identity of the mesh (SPIFFE), at both ends.
    IstioMutual,
}

/// Whom the server's certificate must be signed by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CaSource {
    /// The system's roots.
    System,
    /// A PEM file.
    File(PathBuf),
    /// insecureSkipVerify.
    Unverified,
}

/// The certificate that we show (MUTUAL), as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientIdentity {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
}

/// Files that are found by their names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// credentialName: named like the keys of a Kubernetes secret.
    Secret {
        name: Arc<str>,
        /// `tls.crt` and `tls.key`, or `cert` and `key`.
        directory: PathBuf,
        /// `ca.crt` or `cacert`, with `ca.crl` or `crl`: the first of these directories that has one.
        ca_directories: Vec<PathBuf>,
    },
    /// The proxy's own identity, named as Istio has such files, or cert-manager's CSI driver: `cert-chain.pem`,
    /// `key.pem` and `root-cert.pem`, or `tls.crt`, `tls.key` and `ca.crt`.
    MeshIdentity { directory: PathBuf },
    /// The same from a Workload API.
    Svid(Svid),
}

/// Where the identity from a SPIFFE Workload API is read: PEM files, empty as long as none has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Svid {
    /// Where it comes from, for people.
    pub socket: PathBuf,
    pub pair: ClientIdentity,
    pub ca: PathBuf,
}

/// TLS towards the endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsOrigination {
    pub mode: TlsOriginationMode,
    /// Sent as SNI when set; otherwise the request's Host (not for addresses).
    pub sni: Option<Arc<str>>,
    /// Accepted subject alternative names, exact. Empty: with `sni` unset the certificate must be
    /// valid for the request's Host, with `sni` set for `sni`; with ISTIO_MUTUAL it must be an identity of the
    /// trust domain that `identity` is of.
    pub subject_alt_names: Vec<Arc<str>>,
    /// The certificate must be valid for the request's Host beside one of `subject_alt_names`.
    pub verify_host: bool,
    pub ca: CaSource,
    /// A PEM file of revoked certificates; every certificate of a chain must be covered by it.
    pub ca_crl: Option<PathBuf>,
    pub identity: Option<ClientIdentity>,
    /// Instead of `ca` unless nothing is verified, `ca_crl` and, with another mode than SIMPLE, `identity`.
    pub credential: Option<Credential>,
    /// Nothing below TLS 1.3; otherwise nothing below 1.2.
    pub tls_1_3_only: bool,
    /// Set when the policy asks for TLS that cannot be made (a mode or a source that is not
    /// available): every request is answered 503 with this reason. Never plaintext.
    pub impossible: Option<Arc<str>>,
}

impl TlsOrigination {
    /// TLS by the system's roots, the request's Host as SNI.
    pub fn simple() -> Self {
        Self {
            mode: TlsOriginationMode::Simple,
            sni: None,
            subject_alt_names: Vec::new(),
            verify_host: false,
            ca: CaSource::System,
            ca_crl: None,
            identity: None,
            credential: None,
            tls_1_3_only: false,
            impossible: None,
        }
    }
}

/// An upstream service, or a subset of one. What its [`Traffic`] says is the cluster's own: it reads and changes like
/// the rest of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub name: ClusterName,
    /// The service's host and port as in the name.
    pub host: Arc<str>,
    pub port: u16,
    pub discovery: Discovery,
    /// Of the endpoints, in their order; those beyond its end are all alike.
    pub placements: Vec<Placement>,
    pub source: Option<Arc<ClusterSource>>,
    /// Of a gateway: who may use it, by the identity that it has shown; `None`: anybody.
    pub allow_from: Option<AllowFrom>,
    /// At a gateway; else names may lead anywhere.
    pub off_limits: Option<Arc<OffLimits>>,
    /// Most clusters share it with others.
    pub traffic: Arc<Traffic>,
}

/// How a cluster is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Traffic {
    pub protocol: UpstreamProtocol,
    pub tls: Option<TlsOrigination>,
    pub load_balancer: LoadBalancer,
    /// For the load balancers that hash.
    pub hash_key: Option<HashKey>,
    pub warmup: Option<Warmup>,
    /// `None`: no endpoint is ever ejected.
    pub outlier_detection: Option<OutlierDetection>,
    /// DestinationRule connectionPool.tcp.connectTimeout, else MeshConfig.connectTimeout, else 10 s.
    pub connect_timeout: Duration,
    /// connectionPool.tcp.idleTimeout for opaque bytes; 1 h.
    pub tcp_idle_timeout: Duration,
    /// connectionPool.http.idleTimeout: how long an unused upstream connection is kept; 1 h.
    pub http_idle_timeout: Duration,
    /// connectionPool.http.maxRequestsPerConnection; `None` is no limit.
    pub max_requests_per_connection: Option<u32>,
    /// connectionPool.http.useClientProtocol: requests keep the client's HTTP version, whatever `protocol`.
    pub use_client_protocol: bool,
    /// Requests at a time on one HTTP/2 connection (connectionPool.http.maxConcurrentStreams).
    pub max_concurrent_streams: Option<u32>,
    pub http2_keepalive: Option<Http2Keepalive>,
    pub tcp_keepalive: TcpKeepalive,
    /// connectionPool.tcp.maxConnectionDuration for opaque bytes, which is that of the top-level policy.
    pub tcp_max_connection_duration: Option<Duration>,
    /// The same for HTTP: older connections take no new requests.
    pub http_max_connection_duration: Option<Duration>,
    /// How much of it there may be at a time.
    pub bounds: Bounds,
    /// Opaque bytes go through a proxy.
    pub tunnel: Option<Tunnel>,
    /// Each connection begins with a PROXY header, and is its client's alone.
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl Cluster {
    /// A cluster with Istio's defaults, which `..Cluster::new(…)` lets a literal change.
    pub fn new(name: ClusterName, host: Arc<str>, port: u16, discovery: Discovery) -> Self {
        let traffic = Arc::default();
        Self {
            name,
            host,
            port,
            discovery,
            placements: Vec::new(),
            source: None,
            allow_from: None,
            off_limits: None,
            traffic,
        }
    }

    /// Where ALLOW_ANY_DYNAMIC_DNS sends requests to hosts that nobody declared.
    pub fn allow_any_dynamic_dns() -> Self {
        let name = ClusterName(ClusterName::ALLOW_ANY_DYNAMIC_DNS.into());
        let host = Arc::clone(&name.0);
        Self::new(name, host, 0, Discovery::DynamicDns { port: None })
    }

    /// Whether everything but the endpoints is the same.
    pub fn differs_in_endpoints_only(&self, other: &Self) -> bool {
        *self
            == Self {
                discovery: self.discovery.clone(),
                placements: self.placements.clone(),
                source: self.source.clone(),
                ..other.clone()
            }
    }

    /// Whether all its endpoints are of this cluster of Kubernetes: it is of a Service, whose addresses the API server
    /// gives out, and nothing that a workload sends chooses among others. Where requests for the egress gateway go is such a
    /// cluster; an ExternalName is none.
    pub fn is_in_kubernetes(&self) -> bool {
        let is_service = self.source.as_ref().is_some_and(|source| source.service.kind == Kind::Service);
        let leads_to_itself = match &self.discovery {
            Discovery::Static(_) => true,
            Discovery::StrictDns(targets) => targets.iter().all(|target| target.host == self.host),
            Discovery::LogicalDns(target) => target.host == self.host,
            Discovery::OriginalDst { .. } | Discovery::DynamicDns { .. } => false,
        };
        is_service && leads_to_itself
    }

    /// Whether it is of no host of its own: the name that a request brings says who is meant.
    pub fn leads_by_name(&self) -> bool {
        self.host.starts_with('*') || matches!(self.discovery, Discovery::DynamicDns { .. })
    }

    /// Whether `address` may be among the endpoints without a lookup.
    pub fn is_original_dst(&self) -> bool {
        matches!(self.discovery, Discovery::OriginalDst { .. })
    }
}

impl std::ops::Deref for Cluster {
    type Target = Traffic;

    fn deref(&self) -> &Traffic {
        &self.traffic
    }
}

impl std::ops::DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Traffic {
        Arc::make_mut(&mut self.traffic)
    }
}

impl Default for Traffic {
    /// Istio's defaults.
    fn default() -> Self {
        const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
        const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
        Self {
            protocol: UpstreamProtocol::Http1,
            tls: None,
            load_balancer: LoadBalancer::LeastRequest,
            hash_key: None,
            warmup: None,
            outlier_detection: None,
            connect_timeout: CONNECT_TIMEOUT,
            tcp_idle_timeout: IDLE_TIMEOUT,
            http_idle_timeout: IDLE_TIMEOUT,
            max_requests_per_connection: None,
            use_client_protocol: false,
            max_concurrent_streams: None,
            http2_keepalive: None,
            tcp_keepalive: TcpKeepalive::default(),
            tcp_max_connection_duration: None,
            http_max_connection_duration: None,
            bounds: Bounds::default(),
            tunnel: None,
            proxy_protocol: None,
        }
    }
}

/// An IP address written as a host name has no SNI.
pub fn is_ip_literal(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}
