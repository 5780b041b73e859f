//! World to Snapshot: pure and total. What can't act is left out with a finding; the rest stands. The
//! result depends on the resources alone, not on the order they came in.

mod allow_from;
mod changed;
mod changes;
mod client_labels;
mod clusters;
mod connection_pool;
pub(crate) mod delegates;
pub(crate) mod destination_rules;
mod discovery;
mod findings;
pub(crate) mod gateway;
mod hand_made;
mod http_filters;
mod http_routes;
pub(crate) mod kubernetes;
mod l4_routes;
mod listeners;
mod load_balancing;
mod locality;
mod node_paths;
mod outbound;
mod patch;
mod policy;
pub(crate) mod registry;
mod retries;
mod routes;
pub(crate) mod scope;
mod shared;
pub(crate) mod tls;
pub mod tls_termination;
pub(crate) mod unix_endpoints;
mod virtual_services;
mod workloads;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use changed::{Changed, VirtualServiceChanges};
pub use client_labels::ClientLabels;
use clusters::Clusters;
use destination_rules::DestinationRules;
use findings::Findings;
use hand_made::HandMade;
use http_routes::Entrance;
use outbound::Listening;
use policy::Policy;
use registry::Registry;
use routes::Translations;
use scope::Scope;
use shared::Shared;
use virtual_services::VirtualServices;

pub use node_paths::NodePaths;
pub use tls::Files;

use crate::resource::{ClientPolicy, Diagnostic, Labels, MeshConfig, World, mesh_config};
use crate::snapshot::{
    AccessLogEncoding, Listener, MeshSettings, OffLimits, OutboundTrafficPolicy, PathNormalization,
    ProxyHeaders, Snapshot, Svid,
};

/// The workload that a snapshot is made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub namespace: Arc<str>,
    pub labels: Labels,
    /// `region/zone/subzone`, as much of it as is known; its label `istio-locality` goes before.
    pub locality: Arc<str>,
    /// What its own annotation says; its namespace's counts where this says nothing.
    pub policy: ClientPolicy,
    /// Its own annotation, or its namespace's as far as it is told apart from the world, sends it outside only through the
    /// egress gateway.
    pub enforced: bool,
    /// Names are learned from its DNS answers, and tell TCP services apart.
    pub learned_names: bool,
    /// Where credentialName finds the secrets of its namespace: directories of files.
    pub credentials_dir: Option<PathBuf>,
    /// Where its identity in the mesh is, for ISTIO_MUTUAL: a directory of files.
    pub identity_dir: Option<PathBuf>,
    /// The same from a Workload API; goes before.
    pub svid: Option<Svid>,
}

impl Client {
    /// A workload without labels.
    pub fn in_namespace(namespace: &str) -> Self {
        Self {
            namespace: namespace.into(),
            labels: Labels::new(),
            locality: "".into(),
            policy: ClientPolicy::default(),
            enforced: false,
            learned_names: false,
            credentials_dir: None,
            identity_dir: None,
            svid: None,
        }
    }

    fn locality(&self) -> Arc<str> {
        match self.labels.get(client_labels::LOCALITY) {
            // A label can't hold slashes.
            Some(label) => label.replace('.', "/").into(),
            None => Arc::clone(&self.locality),
        }
    }

    /// Whether it has all of these labels.
    pub fn has_labels(&self, wanted: &Labels) -> bool {
        wanted.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::in_namespace("default")
    }
}

/// Whose connections a snapshot is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Those that the client makes.
    #[default]
    Workload,
    /// Those that others make to it: it is the pod of an egress gateway, with the servers of the Gateways that select it.
    Gateway {
        /// Those of its network interfaces.
        own_addresses: BTreeSet<IpAddr>,
    },
}

impl Role {
    pub fn is_gateway(&self) -> bool {
        matches!(self, Self::Gateway { .. })
    }
}

/// For whom a snapshot is made, and what the command line overrides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompileSettings {
    pub client: Client,
    pub role: Role,
    /// Instead of what annotations, Sidecar and MeshConfig say.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// Unix sockets that may be endpoints.
    pub unix_endpoints: NodePaths,
    /// Files that DestinationRules may name as certificates, keys and CAs.
    pub tls_files: NodePaths,
}

/// Compiles what `settings.client` gets.
pub fn compile(world: &World, settings: &CompileSettings) -> (Snapshot, Vec<Diagnostic>) {
    Compiler::new(settings.clone()).compile(&Arc::new(world.clone()))
}

/// Compiles one world after another for the same client, doing again only what a change touches. What it
/// answers is what [`compile`] would answer.
#[derive(Debug)]
pub struct Compiler {
    settings: CompileSettings,
    previous: Option<Previous>,
    /// Of the compile before that.
    outdated: Option<Previous>,
}

/// What the compile before leaves.
#[derive(Debug)]
struct Previous {
    world: Arc<World>,
    registry: Arc<Registry>,
    rules: Arc<DestinationRules>,
    virtual_services: VirtualServices,
    clusters: Clusters,
    off_limits: Option<Arc<OffLimits>>,
    translations: Translations,
    snapshot: Snapshot,
    /// What was found out about routes of TLS and TCP.
    l4_findings: Vec<Diagnostic>,
}

impl Compiler {
    pub fn new(settings: CompileSettings) -> Self {
        Self { settings, previous: None, outdated: None }
    }

    pub fn settings(&self) -> &CompileSettings {
        &self.settings
    }

    pub fn compile(&mut self, world: &Arc<World>) -> (Snapshot, Vec<Diagnostic>) {
        // What is shared with it can't be changed in place.
        self.let_go();
        let settings = &self.settings;
        let client = &settings.client;
        let findings = Findings::default();
        let scope = Scope::of(world, settings);
        scope.report(&findings);
        let policy = Policy::of(world, settings, &scope, &findings);
        let mut previous = self.previous.take().filter(|previous| {
            previous.world.mesh == world.mesh && previous.snapshot.enforced == policy.enforced
        });
        let changed =
            previous.as_ref().map_or(Changed::ALL, |previous| Changed::between(&previous.world, world));
        let inputs = patch::Inputs { world, settings, scope: &scope, policy };
        let patched = previous.as_mut().and_then(|previous| previous.patch(&changed, inputs, &findings));
        if let Some(snapshot) = patched {
            self.previous = previous;
            return (snapshot, findings.into_sorted());
        }
        let virtual_services = match (&mut previous, &changed.virtual_services) {
            (Some(previous), VirtualServiceChanges::Routes { replaced, turned }) if turned.is_empty() => {
                previous.virtual_services.replace(replaced);
                previous.virtual_services.clone()
            }
            (Some(_) | None, _) => VirtualServices::new(world, &settings.role, &scope),
        };
        let outdated = previous;
        let previous = outdated.as_ref();
        let no_virtual_service_changed = changed.virtual_services == VirtualServiceChanges::default();
        // A Sidecar lets in what its VirtualServices lead to.
        let registry_changed = changed.registry || (scope.narrows() && !no_virtual_service_changed);
        let registry = match previous {
            Some(previous) if !registry_changed => Arc::clone(&previous.registry),
            Some(_) | None => Arc::new(Registry::new((world, settings), &scope, &virtual_services)),
        };
        let rules = match previous {
            Some(previous) if !changed.rules => Arc::clone(&previous.rules),
            Some(_) | None => Arc::new(DestinationRules::new(world, client)),
        };
        let allow_from = match previous {
            Some(previous) if !changed.registry => Arc::clone(&previous.snapshot.allow_from),
            Some(_) | None => allow_from::by_host(world, settings, &scope),
        };
        virtual_services.report(&findings);
        findings.extend(registry.refused.iter().cloned());
        let off_limits = gateway::upstream::off_limits(world, settings);
        let clusters = match previous {
            Some(previous) if !registry_changed && !changed.rules => previous.clusters.unchanged(),
            Some(_) | None => {
                let before = previous.filter(|previous| previous.off_limits == off_limits);
                let before = before.map(|previous| &previous.clusters);
                let off_limits = off_limits.as_ref();
                let hand_made = policy.enforced.then(|| HandMade::of(world));
                let enforced = hand_made.as_ref();
                let common = clusters::Common { mesh: &world.mesh, settings, off_limits, enforced };
                Clusters::new((common, policy.outbound_traffic), &registry, &rules, before)
            }
        };
        let retries = Shared::default();
        let translator = http_routes::Translator {
            registry: &registry,
            clusters: &clusters,
            findings: &findings,
            default_retries: world.mesh.default_http_retry_policy.as_ref(),
            retries: &retries,
            client,
            entrance: Entrance::Mesh,
        };
        let listening = match settings.role {
            Role::Workload => outbound::listeners(outbound::Inputs {
                translator: &translator,
                virtual_services: &virtual_services,
                policy,
                settings,
                before: previous.map(|previous| outbound::Before {
                    snapshot: &previous.snapshot,
                    translations: &previous.translations,
                    l4_findings: &previous.l4_findings,
                    is_l4_same: !registry_changed && !changed.rules && !changed.l4_routes,
                }),
            }),
            Role::Gateway { .. } => gateway::listeners(gateway::Inputs {
                world,
                settings,
                translator: &translator,
                virtual_services: &virtual_services,
            }),
        };
        let Listening { by_address, by_port, catch_all, translations, l4_findings } = listening;
        let snapshot = Snapshot {
            outbound_traffic_policy: policy.outbound_traffic,
            strict: policy.strict,
            enforced: policy.enforced,
            around_gateway: clusters.around_gateway(),
            mesh: MeshSettings {
                proxy_headers: ProxyHeaders {
                    is_edge: matches!(settings.role, Role::Gateway { .. }),
                    ..proxy_headers(&world.mesh)
                },
                ..mesh_settings(&world.mesh)
            },
            by_address,
            by_port,
            virtual_outbound: Arc::new(Listener::virtual_outbound(&catch_all)),
            catch_all: catch_all.virtual_host,
            clusters: clusters.by_name(),
            allow_from,
        };
        self.previous = Some(Previous {
            world: Arc::clone(world),
            registry,
            rules,
            virtual_services,
            clusters: clusters.unchanged(),
            off_limits,
            translations,
            snapshot: snapshot.clone(),
            l4_findings,
        });
        self.outdated = outdated;
        (snapshot, findings.into_sorted())
    }

    /// Lets go of what nothing needs any more. With many services that takes a while, for which a new snapshot need not wait.
    pub fn let_go(&mut self) {
        self.outdated = None;
    }
}

pub(crate) fn mesh_settings(mesh: &MeshConfig) -> MeshSettings {
    MeshSettings {
        access_log_file: mesh.access_log_file.as_deref().map(str::to_owned),
        access_log_encoding: if mesh.access_log_json {
            AccessLogEncoding::Json
        } else {
            AccessLogEncoding::Text
        },
        access_log_format: mesh.access_log_format.clone(),
        protocol_detection_timeout: mesh.protocol_detection_timeout,
        dns_refresh_rate: mesh.dns_refresh_rate,
        path_normalization: match mesh.path_normalization {
            mesh_config::PathNormalization::None => PathNormalization::None,
            mesh_config::PathNormalization::Base => PathNormalization::Base,
            mesh_config::PathNormalization::MergeSlashes => PathNormalization::MergeSlashes,
            mesh_config::PathNormalization::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
        },
        proxy_headers: proxy_headers(mesh),
    }
}

fn proxy_headers(mesh: &MeshConfig) -> ProxyHeaders {
    let headers = &mesh.proxy_headers;
    ProxyHeaders {
        request_id: !headers.request_id_disabled,
        attempt_count: !headers.attempt_count_disabled,
        envoy_debug_headers: !headers.envoy_debug_headers_disabled,
        server: headers.server.clone(),
        preserve_http1_header_case: headers.preserve_http1_header_case,
        is_edge: false,
    }
}
