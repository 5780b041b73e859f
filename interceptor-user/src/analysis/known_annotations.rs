//! The annotations that Istio knows (istio/api annotation/annotations.yaml): on which kinds they are read, and
//! what becomes of them.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Alpha,
    Beta,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: &'static str,
    /// Empty for any.
    pub(super) kinds: &'static [&'static str],
    pub(super) stage: Stage,
    pub(super) deprecated: bool,
    pub(super) replaced_by_label: Option<&'static str>,
}

const fn known(name: &'static str, kinds: &'static [&'static str], stage: Stage) -> Known {
    Known { name, kinds, stage, deprecated: false, replaced_by_label: None }
}

const fn deprecated(name: &'static str, kinds: &'static [&'static str]) -> Known {
    Known { name, kinds, stage: Stage::Alpha, deprecated: true, replaced_by_label: None }
}

const POD: &[&str] = &["Pod"];
const SERVICE: &[&str] = &["Service"];
const ENTRY: &[&str] = &["WorkloadEntry"];
const ANY: &[&str] = &[];

pub(super) const KNOWN: &[Known] = &[
    deprecated("alpha.istio.io/canonical-serviceaccounts", SERVICE),
    deprecated("alpha.istio.io/identity", POD),
    deprecated("alpha.istio.io/kubernetes-serviceaccounts", SERVICE),
    known("ambient.istio.io/bypass-inbound-capture", POD, Stage::Alpha),
    known("ambient.istio.io/dns-capture", POD, Stage::Alpha),
    known("ambient.istio.io/redirection", POD, Stage::Alpha),
    known("ambient.istio.io/waypoint-inbound-binding", &["GatewayClass"], Stage::Alpha),
    known("galley.istio.io/analyze-suppress", ANY, Stage::Alpha),
    known("inject.istio.io/templates", POD, Stage::Alpha),
    known("install.operator.istio.io/chart-owner", ANY, Stage::Alpha),
    known("install.operator.istio.io/owner-generation", ANY, Stage::Alpha),
    known("install.operator.istio.io/version", ANY, Stage::Alpha),
    known("internal.istio.io/parents", ANY, Stage::Alpha),
    known("internal.istio.io/route-semantics", ANY, Stage::Alpha),
    known("internal.istio.io/service-account-name", ANY, Stage::Alpha),
    known("istio.io/autoRegistrationGroup", ENTRY, Stage::Alpha),
    known("istio.io/connectedAt", ENTRY, Stage::Alpha),
    known("istio.io/disconnectedAt", ENTRY, Stage::Alpha),
    known("istio.io/dry-run", &["AuthorizationPolicy"], Stage::Alpha),
    known("istio.io/for-service-account", ANY, Stage::Alpha),
    known("istio.io/reroute-virtual-interfaces", POD, Stage::Alpha),
    known("istio.io/rev", POD, Stage::Beta),
    known("istio.io/workloadController", ENTRY, Stage::Alpha),
    known("kubernetes.io/ingress.class", &["Ingress"], Stage::Beta),
    known("networking.istio.io/address-type", &["Gateway"], Stage::Alpha),
    known("networking.istio.io/exportTo", SERVICE, Stage::Alpha),
    known("networking.istio.io/service-type", &["Gateway"], Stage::Alpha),
    known("networking.istio.io/traffic-distribution", ANY, Stage::Alpha),
    known("prometheus.istio.io/merge-metrics", POD, Stage::Alpha),
    known("proxy.istio.io/config", POD, Stage::Beta),
    known("proxy.istio.io/overrides", POD, Stage::Alpha),
    known("readiness.status.sidecar.istio.io/applicationPorts", POD, Stage::Alpha),
    known("readiness.status.sidecar.istio.io/failureThreshold", POD, Stage::Alpha),
    known("readiness.status.sidecar.istio.io/initialDelaySeconds", POD, Stage::Alpha),
    known("readiness.status.sidecar.istio.io/periodSeconds", POD, Stage::Alpha),
    known("sidecar.istio.io/agentLogLevel", POD, Stage::Alpha),
    known("sidecar.istio.io/bootstrapOverride", POD, Stage::Alpha),
    known("sidecar.istio.io/componentLogLevel", POD, Stage::Alpha),
    deprecated("sidecar.istio.io/controlPlaneAuthPolicy", POD),
    deprecated("sidecar.istio.io/discoveryAddress", POD),
    deprecated("sidecar.istio.io/enableCoreDump", POD),
    known("sidecar.istio.io/extraStatTags", POD, Stage::Alpha),
    Known {
        name: "sidecar.istio.io/inject",
        kinds: POD,
        stage: Stage::Beta,
        deprecated: true,
        replaced_by_label: Some("sidecar.istio.io/inject"),
    },
    known("sidecar.istio.io/interceptionMode", POD, Stage::Alpha),
    known("sidecar.istio.io/logLevel", POD, Stage::Alpha),
    known("sidecar.istio.io/nativeSidecar", POD, Stage::Alpha),
    known("sidecar.istio.io/proxyCPU", POD, Stage::Alpha),
    known("sidecar.istio.io/proxyCPULimit", POD, Stage::Alpha),
    known("sidecar.istio.io/proxyImage", POD, Stage::Alpha),
    known("sidecar.istio.io/proxyImageType", POD, Stage::Alpha),
    known("sidecar.istio.io/proxyMemory", POD, Stage::Alpha),
    known("sidecar.istio.io/proxyMemoryLimit", POD, Stage::Alpha),
    known("sidecar.istio.io/rewriteAppHTTPProbers", POD, Stage::Alpha),
    known("sidecar.istio.io/statsCompression", POD, Stage::Alpha),
    known("sidecar.istio.io/statsEvictionInterval", POD, Stage::Alpha),
    known("sidecar.istio.io/statsHistogramBuckets", POD, Stage::Alpha),
    deprecated("sidecar.istio.io/statsInclusionPrefixes", POD),
    deprecated("sidecar.istio.io/statsInclusionRegexps", POD),
    deprecated("sidecar.istio.io/statsInclusionSuffixes", POD),
    known("sidecar.istio.io/status", POD, Stage::Alpha),
    known("sidecar.istio.io/userVolume", POD, Stage::Alpha),
    known("sidecar.istio.io/userVolumeMount", POD, Stage::Alpha),
    known("status.sidecar.istio.io/port", POD, Stage::Alpha),
    known("topology.istio.io/controlPlaneClusters", &["Namespace"], Stage::Alpha),
    known("traffic.istio.io/nodeSelector", SERVICE, Stage::Beta),
    known("traffic.sidecar.istio.io/excludeInboundPorts", POD, Stage::Alpha),
    known("traffic.sidecar.istio.io/excludeInterfaces", POD, Stage::Alpha),
    known("traffic.sidecar.istio.io/excludeOutboundIPRanges", POD, Stage::Alpha),
    known("traffic.sidecar.istio.io/excludeOutboundPorts", POD, Stage::Alpha),
    known("traffic.sidecar.istio.io/includeInboundPorts", POD, Stage::Alpha),
    known("traffic.sidecar.istio.io/includeOutboundIPRanges", POD, Stage::Alpha),
    known("traffic.sidecar.istio.io/includeOutboundPorts", POD, Stage::Alpha),
    deprecated("traffic.sidecar.istio.io/kubevirtInterfaces", POD),
];
