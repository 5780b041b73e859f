//! MeshConfig: what holds for everything, in Istio's shape. Also as a ConfigMap with `data.mesh` and as
//! an IstioOperator's `spec.meshConfig`.

use std::sync::Arc;
use std::time::Duration;

use super::code;
use super::connection_pool::{self, H2Upgrade, TcpKeepalive};
use super::decode::{Field, Reader};
use super::destination_rule::{self, TrafficPolicy};
use super::diagnostic::{Diagnostic, Level, Origin};
use super::documents::{self, Document};
use super::locality::{self, LocalitySetting};
use super::log_format::{self, LogFormat};
use super::meta::{self, Labels};
use super::object::Object;
use super::retries::{self, Retries};
use super::visibility::{self, ExportTo};
use super::yaml;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshConfig {
    pub outbound_traffic_policy: Option<OutboundTrafficPolicyMode>,
    pub access_log_file: Option<Arc<str>>,
    pub access_log_json: bool,
    /// `None`: Istio's own.
    pub access_log_format: Option<Arc<LogFormat>>,
    pub connect_timeout: Duration,
    pub dns_refresh_rate: Duration,
    pub protocol_detection_timeout: Duration,
    pub default_http_retry_policy: Option<Retries>,
    pub root_namespace: Arc<str>,
    /// What an absent `exportTo` means, by kind.
    pub default_service_export_to: ExportTo,
    pub default_virtual_service_export_to: ExportTo,
    pub default_destination_rule_export_to: ExportTo,
    pub path_normalization: PathNormalization,
    /// What holds where no DestinationRule says anything; never TLS.
    pub default_traffic_policy: TrafficPolicy,
    pub proxy_headers: ProxyHeaders,
    /// defaultConfig.proxyMetadata
    pub proxy_metadata: Labels,
    pub tcp_keepalive: TcpKeepalive,
    /// Where no DestinationRule has its own.
    pub locality: LocalitySetting,
    pub h2_upgrade: Option<H2Upgrade>,
    /// tlsDefaults.minProtocolVersion is TLSV1_3.
    pub tls_1_3_only: bool,
    /// Of clients with an identity of the mesh, beside the one that our own identity is of.
    pub trust_domain_aliases: Vec<Arc<str>>,
    /// Istio answers the pods' DNS and gives hosts without addresses one: proxyMetadata of defaultConfig.
    pub dns_gives_addresses: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutboundTrafficPolicyMode {
    AllowAny,
    RegistryOnly,
    /// As ALLOW_ANY, but plain HTTP goes where its Host leads, not to the address asked for.
    AllowAnyDynamicDns,
}

/// pathNormalization.normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathNormalization {
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

/// ProxyConfig.proxyHeaders, as far as it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyHeaders {
    pub request_id_disabled: bool,
    pub attempt_count_disabled: bool,
    pub envoy_debug_headers_disabled: bool,
    pub server: Option<Arc<str>>,
    pub preserve_http1_header_case: bool,
}

impl Default for MeshConfig {
    /// Istio's defaults.
    fn default() -> Self {
        Self {
            outbound_traffic_policy: None,
            access_log_file: None,
            access_log_json: false,
            access_log_format: None,
            connect_timeout: Duration::from_secs(10),
            dns_refresh_rate: Duration::from_secs(60),
            protocol_detection_timeout: Duration::ZERO,
            default_http_retry_policy: None,
            root_namespace: "istio-system".into(),
            default_service_export_to: ExportTo::All,
            default_virtual_service_export_to: ExportTo::All,
            default_destination_rule_export_to: ExportTo::All,
            path_normalization: PathNormalization::Base,
            default_traffic_policy: TrafficPolicy::default(),
            proxy_headers: ProxyHeaders::default(),
            proxy_metadata: Labels::new(),
            tcp_keepalive: TcpKeepalive::default(),
            locality: LocalitySetting::default(),
            h2_upgrade: None,
            tls_1_3_only: false,
            trust_domain_aliases: Vec::new(),
            dns_gives_addresses: false,
        }
    }
}

impl MeshConfig {
    /// Whether clients are told the addresses that a controller has allocated.
    pub fn captures_dns(&self) -> bool {
        self.proxy_metadata
            .get("ISTIO_META_DNS_CAPTURE")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// Reads a MeshConfig file. `None` when it can't be used; the findings say why.
pub fn parse(file: &Arc<str>, source: &str) -> (Option<MeshConfig>, Vec<Diagnostic>) {
    let documents = documents::split(file, source).documents;
    let [document] = &documents[..] else {
        let message = format!("expected one document with MeshConfig, found {}", documents.len());
        return (None, vec![whole_file(file, message)]);
    };
    let (config, mut findings) = read_document(file, document);
    for finding in findings.iter_mut().filter(|finding| finding.level == Level::Error) {
        finding.effect = NOT_USED_AT_ALL.into();
    }
    (config, findings)
}

/// What an error in it leads to.
const NOT_USED_AT_ALL: &str =
    "`exec`, `explain` and `config` refuse to start; what runs already keeps its last good settings";

fn whole_file(file: &Arc<str>, message: String) -> Diagnostic {
    Diagnostic {
        level: Level::Error,
        code: Some(code::IST0106.id),
        origin: Some(Origin::of_file(file)),
        resource: "MeshConfig".into(),
        field: String::new(),
        message,
        effect: NOT_USED_AT_ALL.into(),
        mend: String::new(),
    }
}

fn read_document(file: &Arc<str>, document: &Document) -> (Option<MeshConfig>, Vec<Diagnostic>) {
    let reader = Reader::new(file);
    reader.name_resource("MeshConfig".into());
    let tree = match yaml::read(document) {
        Ok(tree) => tree,
        Err(mistake) => {
            reader.report(Level::Error, mistake.position, "", mistake.message);
            return (None, reader.into_findings());
        }
    };
    for (key, position) in &tree.duplicate_keys {
        reader.report(Level::Error, *position, key, format!("`{key}` stands here for the second time"));
    }
    let config = Field::root(&reader, &tree.root).object().and_then(|root| match root.peek("kind") {
        Some("ConfigMap") => read_config_map(file, &root, &reader),
        Some("IstioOperator") => {
            let spec = root.open_quietly().require("spec")?.object()?.open_quietly();
            Some(read(&spec.require("meshConfig")?.object()?))
        }
        Some(kind) => {
            root.field()
                .error(format!("expected MeshConfig, a ConfigMap or an IstioOperator, found kind {kind}"));
            root.open_quietly();
            None
        }
        None => Some(read(&root)),
    });
    let config = config.filter(|_| !reader.is_wrong());
    (config, reader.into_findings())
}

/// The text under `data.mesh` is a document of its own; its lines count from where it stands.
fn read_config_map(file: &Arc<str>, root: &Object<'_>, reader: &Reader) -> Option<MeshConfig> {
    root.ignore(&["apiVersion", "kind", "metadata"]);
    let data = root.require("data")?.object()?.open_quietly();
    let mesh = data.require("mesh")?;
    let text = mesh.text()?;
    let lines_before = mesh.position().line.saturating_sub(1);
    let document = Document { text: text.to_string(), lines_before, indent: 4, namespace: None };
    let (config, findings) = read_document(file, &document);
    for finding in findings {
        let position = finding.origin.map(|origin| origin.position).unwrap_or_default();
        reader.report(finding.level, position, &finding.field, finding.message);
    }
    config
}

/// What MeshConfig has beside what acts here.
const NOT_USED: [&str; 29] = [
    "authPolicy",
    "ca",
    "caCertificates",
    "certificates",
    "configSources",
    "defaultProviders",
    "disableEnvoyListenerLog",
    "discoverySelectors",
    "enableAutoMtls",
    "enableEnvoyAccessLogService",
    "enablePrometheusMerge",
    "enableTracing",
    "extensionProviders",
    "inboundClusterStatName",
    "inboundTrafficPolicy",
    "ingressClass",
    "ingressControllerMode",
    "ingressSelector",
    "ingressService",
    "meshMTLS",
    "outboundClusterStatName",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "serviceScopeConfigs",
    "serviceSettings",
    "thriftConfig",
    "trustDomain",
    "verifyCertificateAtClient",
];

fn read(mesh: &Object<'_>) -> MeshConfig {
    let defaults = MeshConfig::default();
    for name in NOT_USED {
        if let Some(field) = mesh.get(name) {
            field.info(format!("`{name}` is not used here"));
        }
    }
    mesh.not_applied(&["serviceEntryVisibility"], "exportTo alone says who sees a ServiceEntry");
    let policy = mesh.get("outboundTrafficPolicy").and_then(|field| field.object()).and_then(|policy| {
        policy.not_applied(&["tls"], "unknown hosts are reached as applications speak to them");
        // The enum's zero: that is what Istio makes of it.
        let Some(mode) = policy.get("mode") else {
            policy.field().coded_warning(
                &code::EGR0114,
                "`mode` is missing, which means REGISTRY_ONLY: hosts that nobody declared are blocked; write mode: \
                 ALLOW_ANY to let them through",
            );
            return Some(OutboundTrafficPolicyMode::RegistryOnly);
        };
        mode.one_of(&[
            ("ALLOW_ANY", OutboundTrafficPolicyMode::AllowAny),
            ("REGISTRY_ONLY", OutboundTrafficPolicyMode::RegistryOnly),
            ("ALLOW_ANY_DYNAMIC_DNS", OutboundTrafficPolicyMode::AllowAnyDynamicDns),
        ])
    });
    let json =
        mesh.get("accessLogEncoding").and_then(|field| field.one_of(&[("TEXT", false), ("JSON", true)]));
    let json = json.unwrap_or(defaults.access_log_json);
    let log_format = mesh.get("accessLogFormat").and_then(|field| log_format::read(&field, json));
    let retries = mesh.get("defaultHttpRetryPolicy").and_then(|field| retries::read(&field));
    let proxy = mesh.get("defaultConfig").and_then(|field| field.object()).map(Object::open);
    let proxy_part = |name| proxy.as_ref()?.get(name)?.object();
    let metadata = proxy.as_ref().map(|proxy| meta::labels(proxy, "proxyMetadata")).unwrap_or_default();
    let config = MeshConfig {
        outbound_traffic_policy: policy,
        access_log_file: mesh.text("accessLogFile").filter(|path| !path.is_empty()),
        access_log_json: json,
        access_log_format: log_format,
        connect_timeout: mesh.duration("connectTimeout").unwrap_or(defaults.connect_timeout),
        dns_refresh_rate: mesh.duration("dnsRefreshRate").unwrap_or(defaults.dns_refresh_rate),
        protocol_detection_timeout: mesh
            .duration("protocolDetectionTimeout")
            .unwrap_or(defaults.protocol_detection_timeout),
        default_http_retry_policy: retries,
        root_namespace: mesh.text("rootNamespace").unwrap_or(defaults.root_namespace),
        default_service_export_to: default_export_to(mesh, "defaultServiceExportTo"),
        default_virtual_service_export_to: default_export_to(mesh, "defaultVirtualServiceExportTo"),
        default_destination_rule_export_to: default_export_to(mesh, "defaultDestinationRuleExportTo"),
        path_normalization: read_path_normalization(mesh).unwrap_or(defaults.path_normalization),
        default_traffic_policy: mesh
            .get("defaultTrafficPolicy")
            .and_then(|field| read_default_policy(&field))
            .unwrap_or_default(),
        proxy_headers: proxy_part("proxyHeaders")
            .map(|headers| read_proxy_headers(&headers))
            .unwrap_or_default(),
        tcp_keepalive: mesh
            .get("tcpKeepalive")
            .and_then(|field| connection_pool::read_keepalive(&field))
            .unwrap_or_default(),
        // DestinationRules say whether endpoints can be unhealthy.
        locality: mesh
            .get("localityLbSetting")
            .and_then(|field| locality::read(&field, true))
            .unwrap_or_default(),
        h2_upgrade: mesh.get("h2UpgradePolicy").and_then(|field| connection_pool::read_h2_upgrade(&field)),
        tls_1_3_only: read_min_version(mesh, "tlsDefaults") == Some(true),
        trust_domain_aliases: mesh.texts("trustDomainAliases"),
        dns_gives_addresses: gives_addresses(&metadata),
        proxy_metadata: metadata,
    };
    // Left out, it would let through what it blocks.
    if mesh.is_misspelt("outboundTrafficPolicy") {
        mesh.refuse_unknown();
    }
    config
}

/// Whether nothing below TLS 1.3 is wanted. Those below 1.2 don't exist here, as with Istio.
fn read_min_version(mesh: &Object<'_>, name: &'static str) -> Option<bool> {
    let settings = mesh.get(name)?.object()?.open();
    settings.get("minProtocolVersion")?.one_of(&[("TLS_AUTO", false), ("TLSV1_2", false), ("TLSV1_3", true)])
}

fn read_path_normalization(mesh: &Object<'_>) -> Option<PathNormalization> {
    mesh.get("pathNormalization")?.object()?.get("normalization")?.one_of(&[
        ("DEFAULT", PathNormalization::Base),
        ("NONE", PathNormalization::None),
        ("BASE", PathNormalization::Base),
        ("MERGE_SLASHES", PathNormalization::MergeSlashes),
        ("DECODE_AND_MERGE_SLASHES", PathNormalization::DecodeAndMergeSlashes),
    ])
}

fn read_default_policy(field: &Field<'_>) -> Option<TrafficPolicy> {
    if field.contains("tls", "mode", &|mode| mode != Some("DISABLE")) {
        field
            .error("TLS for every service can't be meant for hosts outside: ask for it in a DestinationRule");
    }
    destination_rule::read_policy(field)
}

fn default_export_to(mesh: &Object<'_>, name: &'static str) -> ExportTo {
    let given = mesh.get(name).map_or(ExportTo::Unset, |field| visibility::read_field(&field));
    given.or(&ExportTo::All).clone()
}

fn gives_addresses(metadata: &Labels) -> bool {
    let is_on = |name| metadata.get(name).is_some_and(|value| matches!(&**value, "true" | "1"));
    is_on("ISTIO_META_DNS_CAPTURE")
        && (is_on("ISTIO_META_DNS_AUTO_ALLOCATE") || is_on("PILOT_ENABLE_IP_AUTOALLOCATE"))
}

fn read_proxy_headers(headers: &Object<'_>) -> ProxyHeaders {
    let disabled = |name| {
        let group = headers.get(name).and_then(|field| field.object());
        group.and_then(|group| group.boolean("disabled")).unwrap_or(false)
    };
    headers.ignore(&["forwardedClientCert", "setCurrentClientCertDetails", "metadataExchangeHeaders"]);
    let server = headers.get("server").and_then(|field| field.object());
    ProxyHeaders {
        request_id_disabled: disabled("requestId"),
        attempt_count_disabled: disabled("attemptCount"),
        envoy_debug_headers_disabled: disabled("envoyDebugHeaders"),
        server: server.and_then(|server| {
            server.ignore(&["disabled"]);
            server.text("value")
        }),
        preserve_http1_header_case: headers.boolean("preserveHttp1HeaderCase").unwrap_or(false),
    }
}
