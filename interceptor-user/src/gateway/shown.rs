//! What a gateway shows of itself: it is the one pod of its view.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use super::listeners::Listeners;
use crate::admin::{Family, Heartbeat};
use crate::agent::Source;
use crate::agent::view::{Check, Compiled, PodState, PodView, SharedView, View};
use crate::resource::{Diagnostic, World};
use crate::settings::GatewaySettings;
use crate::workload::RedirectPolicy;

/// Whether each port that is wanted is open.
type Ports = Arc<ArcSwap<Vec<(SocketAddr, bool)>>>;

/// Where the loop puts it, for everybody who reads; and what it puts there.
pub(super) struct Shown {
    pub(super) view: SharedView,
    pub(super) heartbeat: Heartbeat,
    pub(super) workers_alive: Arc<AtomicBool>,
    pub(super) ports: Ports,
    pub(super) world: Arc<World>,
    pub(super) diagnostics: Arc<[Diagnostic]>,
    /// What is there at the start is known.
    pub(super) is_configured: bool,
    pub(super) is_ending: bool,
    settings: GatewaySettings,
}

impl Shown {
    pub(super) fn new(settings: &GatewaySettings) -> Self {
        Self {
            view: View::shared(),
            heartbeat: Heartbeat::new(),
            workers_alive: Arc::new(AtomicBool::new(true)),
            ports: Arc::default(),
            world: Arc::default(),
            diagnostics: [].into(),
            is_configured: false,
            is_ending: false,
            settings: settings.clone(),
        }
    }

    pub(super) fn show(&self, source: &Source, listeners: &Listeners) {
        self.heartbeat.beat();
        self.workers_alive.store(!listeners.proxy.failed(), Ordering::Relaxed);
        let ports = listeners.ports().map(|(address, failure)| (address, failure.is_none()));
        self.ports.store(Arc::new(ports.collect()));
        self.view.store(Arc::new(View {
            world: Arc::clone(&self.world),
            diagnostics: Arc::clone(&self.diagnostics),
            pods: vec![Arc::new(self.pod(listeners))],
            checks: self.checks(listeners),
            sources: source.status(),
        }));
    }

    fn pod(&self, listeners: &Listeners) -> PodView {
        let own = self.settings.source_workload();
        let compiled = listeners.configured().map(|configured| {
            let settings = self.settings.compile_settings(Default::default());
            let snapshot = Arc::clone(&configured.active().snapshot);
            Arc::new(Compiled { settings, snapshot, configured: Some(configured.clone()) })
        });
        PodView {
            namespace: own.namespace.into(),
            name: own.pod.into(),
            uid: "".into(),
            state: PodState::LeftAlone("it is the gateway itself".to_owned()),
            netns_cookie: None,
            listener_port: None,
            redirect: RedirectPolicy::default(),
            redirect_by: Vec::new(),
            annotation_mistakes: Vec::new(),
            not_enforced: None,
            compiled,
        }
    }

    /// A port that can't be had is no reason to keep others from being used. One counts as had where it is open at every
    /// address: who comes by IPv4 must not find another program when IPv6 is ours.
    fn checks(&self, listeners: &Listeners) -> Vec<Check> {
        let start = match self.is_configured && listeners.configured().is_some() {
            true => Check::holds("start"),
            false => Check::fails("start", "what is configured is not known yet"),
        };
        let failures: Vec<&str> = listeners.ports().filter_map(|(_, failure)| failure).collect();
        let mut is_open_everywhere = BTreeMap::new();
        for (address, failure) in listeners.ports() {
            *is_open_everywhere.entry(address.port()).or_insert(true) &= failure.is_none();
        }
        let is_any_open = is_open_everywhere.into_values().any(|is_open| is_open);
        let ports = match failures.is_empty() || is_any_open {
            true => Check::holds("ports"),
            false => Check::fails("ports", failures.join("; ")),
        };
        let ending = match self.is_ending {
            false => Check::holds("end"),
            true => Check::fails("end", "the gateway is ending"),
        };
        vec![start, ports, ending]
    }
}

/// As a metric.
pub(super) fn append_ports(ports: &[(SocketAddr, bool)], out: &mut String) {
    let mut family = Family::gauge(
        out,
        "interceptor_gateway_port_open",
        "Whether a port that the gateway's servers ask for is listened on.",
    );
    for (address, is_open) in ports {
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        family.sample(&[("address", &*host), ("port", &*port)], u64::from(*is_open));
    }
}
