//! DestinationRule: how a destination is spoken to once it is chosen.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::decode::Field;
use super::diagnostic::Position;
use super::host;
use super::load_balancer::{self, LoadBalancerSettings};
use super::meta::Meta;
use super::object::Object;
use super::outlier_detection::{self, OutlierDetection};
use super::visibility::{self, ExportTo};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRule {
    pub meta: Meta,
    /// Completed when it was a short name.
    pub host: Arc<str>,
    pub host_position: Position,
    pub policy: TrafficPolicy,
    pub subsets: Vec<Subset>,
    pub export_to: ExportTo,
    /// Meant for some workloads only, none of which is known here.
    pub workload_selector: bool,
    /// The rule can't be used as written but asks for TLS: nothing may be sent in clear.
    pub refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    pub name: Arc<str>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub policy: TrafficPolicy,
    pub position: Position,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    pub blocks: Blocks,
    pub ports: BTreeMap<u16, Blocks>,
}

impl TrafficPolicy {
    fn asks_for_tls(&self) -> bool {
        let mut blocks = self.ports.values().chain([&self.blocks]);
        blocks.any(|blocks| blocks.tls.as_ref().is_some_and(|tls| tls.mode != TlsMode::Disable))
    }
}

/// The parts of a policy that replace each other block by block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    pub load_balancer: Option<LoadBalancerSettings>,
    pub outlier_detection: Option<OutlierDetection>,
    pub connection_pool: Option<ConnectionPool>,
    pub tls: Option<ClientTls>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    pub connect_timeout: Option<Duration>,
    pub tcp_idle_timeout: Option<Duration>,
    pub http_idle_timeout: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub h2_upgrade: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    pub mode: TlsMode,
    pub client_certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    pub ca_certificates: Option<PathBuf>,
    pub ca_crl: Option<PathBuf>,
    pub credential_name: Option<Arc<str>>,
    pub subject_alt_names: Vec<Arc<str>>,
    pub sni: Option<Arc<str>>,
    pub insecure_skip_verify: bool,
    pub position: Position,
}

pub(super) fn read(meta: Meta, spec: &Object<'_>) -> Option<DestinationRule> {
    let policy = spec.get("trafficPolicy").and_then(|field| read_policy(&field)).unwrap_or_default();
    let subsets = spec.list("subsets", |item| read_subset(&item));
    let export_to = visibility::read(spec);
    let workload_selector = spec.get("workloadSelector");
    for (index, subset) in subsets.iter().enumerate() {
        if subsets[..index].iter().any(|other| other.name == subset.name) {
            let message = format!("duplicate subset names: {}", subset.name);
            spec.error_at(subset.position, &format!("subsets[{index}].name"), message);
        }
    }
    let asks_for_tls = spec
        .get("trafficPolicy")
        .is_some_and(|field| field.contains("tls", "mode", &|mode| mode != Some("DISABLE")));
    if let Some(selector) = &workload_selector {
        selector.warning(if asks_for_tls || subsets.iter().any(|subset| subset.policy.asks_for_tls()) {
            "no labels are known here, so that a DestinationRule with workloadSelector never acts: its TLS is NOT \
             applied, requests go as if it was not there"
        } else {
            "no labels are known here, so that a DestinationRule with workloadSelector never acts: left out"
        });
    }
    let host = spec.require("host").and_then(|field| host::read(&field))?;
    let host_position = host.position;
    let host = host::complete(&host.value, meta.namespace());
    let workload_selector = workload_selector.is_some();
    let refused = spec.field().is_wrong() && asks_for_tls;
    Some(DestinationRule {
        meta,
        host,
        host_position,
        policy,
        subsets,
        export_to,
        workload_selector,
        refused,
    })
}

fn read_subset(item: &Field<'_>) -> Option<Subset> {
    let subset = item.object()?;
    let policy = subset.get("trafficPolicy").and_then(|field| read_policy(&field)).unwrap_or_default();
    let labels = subset.get("labels").map(|field| field.text_map()).unwrap_or_default();
    let name = subset.require("name").and_then(|field| field.text())?;
    Some(Subset { name, labels, policy, position: item.position() })
}

fn read_policy(field: &Field<'_>) -> Option<TrafficPolicy> {
    let policy = field.object()?;
    let blocks = read_blocks(&policy);
    policy.not_applied(&["tunnel"], "connections are not tunnelled");
    policy.not_applied(&["proxyProtocol"], "no PROXY header is sent");
    policy.not_applied(&["retryBudget"], "retries are bounded by their attempts alone");
    let ports = policy.list("portLevelSettings", |item| {
        let settings = item.object()?;
        let blocks = read_blocks(&settings);
        let port = settings.require("port").and_then(|field| field.object()?.require("number")?.port());
        Some((port?, blocks))
    });
    let mut by_port = BTreeMap::new();
    for (port, blocks) in ports {
        if by_port.insert(port, blocks).is_some() {
            field.error(format!("portLevelSettings has port {port} twice"));
        }
    }
    Some(TrafficPolicy { blocks, ports: by_port })
}

fn read_blocks(policy: &Object<'_>) -> Blocks {
    Blocks {
        load_balancer: policy.get("loadBalancer").and_then(|field| load_balancer::read(&field)),
        outlier_detection: policy.get("outlierDetection").and_then(|field| outlier_detection::read(&field)),
        connection_pool: policy.get("connectionPool").and_then(|field| read_connection_pool(&field)),
        tls: policy.get("tls").and_then(|field| read_tls(&field)),
    }
}

fn read_connection_pool(field: &Field<'_>) -> Option<ConnectionPool> {
    let pool = field.object()?;
    if !pool.has("tcp") && !pool.has("http") {
        field.error("connection pool must have at least one field");
    }
    let mut read = ConnectionPool::default();
    if let Some(tcp) = pool.get("tcp").and_then(|field| field.object()) {
        tcp.not_applied(&["maxConnections"], "the number of connections is not bounded");
        tcp.not_applied(&["maxConnectionDuration"], "connections may live on");
        tcp.not_applied(&["tcpKeepalive"], "no probes are sent on connections to endpoints");
        read.connect_timeout = positive(&tcp, "connectTimeout");
        read.tcp_idle_timeout = positive(&tcp, "idleTimeout");
    }
    if let Some(http) = pool.get("http").and_then(|field| field.object()) {
        http.not_applied(&["http1MaxPendingRequests", "http2MaxRequests"], "requests are not bounded by it");
        http.not_applied(&["maxRetries", "maxConcurrentStreams"], "no bound is set");
        http.not_applied(&["useClientProtocol"], "the port's protocol decides");
        http.not_applied(&["http2Keepalive"], "no pings are sent");
        read.http_idle_timeout = positive(&http, "idleTimeout");
        let requests = http.get("maxRequestsPerConnection").and_then(|field| field.unsigned());
        read.max_requests_per_connection = requests.filter(|requests| *requests > 0);
        let upgrade = http.get("h2UpgradePolicy").and_then(|field| {
            field.one_of(&[("DEFAULT", false), ("DO_NOT_UPGRADE", false), ("UPGRADE", true)])
        });
        read.h2_upgrade = upgrade.unwrap_or(false);
    }
    Some(read)
}

fn positive(object: &Object<'_>, name: &'static str) -> Option<Duration> {
    object.get(name).and_then(|field| super::retries::at_least_a_millisecond(&field))
}

/// Unknown fields are errors here: a mistyped one could turn TLS off.
fn read_tls(field: &Field<'_>) -> Option<ClientTls> {
    let tls = field.object()?.strict();
    let mode = tls.get("mode").map_or(Some(TlsMode::Disable), |field| {
        field.one_of(&[
            ("DISABLE", TlsMode::Disable),
            ("SIMPLE", TlsMode::Simple),
            ("MUTUAL", TlsMode::Mutual),
            ("ISTIO_MUTUAL", TlsMode::IstioMutual),
        ])
    });
    let path = |name| tls.text(name).filter(|path| !path.is_empty()).map(|path| PathBuf::from(&*path));
    let read = ClientTls {
        client_certificate: path("clientCertificate"),
        private_key: path("privateKey"),
        ca_certificates: path("caCertificates"),
        ca_crl: path("caCrl"),
        credential_name: tls.text("credentialName").filter(|name| !name.is_empty()),
        subject_alt_names: tls.texts("subjectAltNames"),
        sni: tls.text("sni").filter(|sni| !sni.is_empty()),
        insecure_skip_verify: tls.boolean("insecureSkipVerify").unwrap_or(false),
        mode: mode?,
        position: field.position(),
    };
    let files = [&read.client_certificate, &read.private_key, &read.ca_certificates, &read.ca_crl];
    let files = files.iter().any(|path| path.is_some());
    if read.credential_name.is_some() && files {
        field
            .error("cannot specify client certificates or CA certificate or CA CRL If credentialName is set");
    }
    if read.insecure_skip_verify && read.ca_crl.is_some() {
        field.error("cannot specify CaCrl when InsecureSkipVerify is set true: nothing would be verified");
    }
    if read.insecure_skip_verify && (read.ca_certificates.is_some() || !read.subject_alt_names.is_empty()) {
        field.error("cannot specify CaCertificates or SubjectAltNames when InsecureSkipVerify is set true");
    }
    if read.mode == TlsMode::IstioMutual && (files || read.credential_name.is_some()) {
        field.error("certificates and keys can't be given with mode ISTIO_MUTUAL");
    }
    Some(read)
}
