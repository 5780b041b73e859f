//! World to Snapshot: pure and total. What can't act is left out with a finding; the rest stands. The
//! result depends on the resources alone, not on the order they came in.

mod clusters;
mod listeners;
mod registry;
mod retries;
mod routes;

use std::sync::Arc;

use crate::resource::mesh_config::OutboundTrafficPolicyMode;
use crate::resource::{Diagnostic, MeshConfig, World};
use crate::snapshot::{
    AccessLogEncoding, Listener, MeshSettings, OutboundTrafficPolicy, ProxyHeaders, Snapshot,
};

/// For whom a snapshot is made, and what the command line overrides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileSettings {
    /// The client's namespace.
    pub namespace: Arc<str>,
    /// Instead of MeshConfig.outboundTrafficPolicy.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

impl Default for CompileSettings {
    fn default() -> Self {
        Self { namespace: "default".into(), outbound_traffic_policy: None }
    }
}

/// Compiles what a client in `settings.namespace` gets.
pub fn compile(world: &World, settings: &CompileSettings) -> (Snapshot, Vec<Diagnostic>) {
    let policy = settings.outbound_traffic_policy.unwrap_or_else(|| policy(&world.mesh));
    let registry = registry::Registry::new(world, &settings.namespace);
    let clusters = clusters::Clusters::new(world, &registry);
    let routes = routes::Routes::new(policy, &registry, &clusters);
    let mut listeners = listeners::Listeners::new(policy, &clusters, &routes);
    listeners.add_all(&registry);
    let (by_address, by_port, mut diagnostics) = listeners.finish();
    diagnostics.sort();
    let snapshot = Snapshot {
        outbound_traffic_policy: policy,
        mesh: mesh_settings(&world.mesh),
        by_address,
        by_port,
        virtual_outbound: Arc::new(Listener::virtual_outbound(policy)),
        clusters: clusters.into_map(),
    };
    (snapshot, diagnostics)
}

fn policy(mesh: &MeshConfig) -> OutboundTrafficPolicy {
    match mesh.outbound_traffic_policy {
        Some(OutboundTrafficPolicyMode::RegistryOnly) => OutboundTrafficPolicy::RegistryOnly,
        Some(OutboundTrafficPolicyMode::AllowAny) | None => OutboundTrafficPolicy::AllowAny,
    }
}

fn mesh_settings(mesh: &MeshConfig) -> MeshSettings {
    let headers = &mesh.proxy_headers;
    MeshSettings {
        access_log_file: mesh.access_log_file.as_deref().map(str::to_owned),
        access_log_encoding: if mesh.access_log_json {
            AccessLogEncoding::Json
        } else {
            AccessLogEncoding::Text
        },
        protocol_detection_timeout: mesh.protocol_detection_timeout,
        dns_refresh_rate: mesh.dns_refresh_rate,
        proxy_headers: ProxyHeaders {
            request_id: !headers.request_id_disabled,
            attempt_count: !headers.attempt_count_disabled,
            envoy_debug_headers: !headers.envoy_debug_headers_disabled,
            server: headers.server.clone(),
            preserve_http1_header_case: headers.preserve_http1_header_case,
        },
    }
}
