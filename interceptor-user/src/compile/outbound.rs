//! The listeners of a workload's own connections, as far as possible those of the compile before.

use super::CompileSettings;
use super::findings::Findings;
use super::http_routes::Translator;
use super::l4_routes::L4Routes;
use super::listeners::{ByAddress, ByPort, Listeners};
use super::policy::Policy;
use super::routes::{Made, Routes, Translations};
use super::virtual_services::VirtualServices;
use crate::resource::Diagnostic;
use crate::snapshot::{CatchAll, Snapshot};

/// What [`listeners`] reads.
pub(super) struct Inputs<'a> {
    pub(super) translator: &'a Translator<'a>,
    pub(super) virtual_services: &'a VirtualServices,
    pub(super) policy: Policy<'a>,
    pub(super) settings: &'a CompileSettings,
    pub(super) before: Option<Before<'a>>,
}

/// What the compile before made.
pub(super) struct Before<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) translations: &'a Translations,
    pub(super) l4_findings: &'a [Diagnostic],
    /// Nothing that routes of TLS and TCP depend on has changed since then.
    pub(super) is_l4_same: bool,
}

/// Listeners, and what the next compile may keep.
pub(super) struct Listening {
    pub(super) by_address: ByAddress,
    pub(super) by_port: ByPort,
    pub(super) catch_all: CatchAll,
    pub(super) translations: Translations,
    /// What was found out about routes of TLS and TCP.
    pub(super) l4_findings: Vec<Diagnostic>,
}

pub(super) fn listeners(inputs: Inputs<'_>) -> Listening {
    let Inputs { translator, virtual_services, policy, settings, before } = inputs;
    let catch_all = policy.catch_all(translator.clusters, translator.findings);
    let made = before
        .as_ref()
        .map(|before| Made { translations: before.translations, by_port: &before.snapshot.by_port });
    let routes = Routes::new(&catch_all, translator, virtual_services, made);
    let (by_address, by_port, l4_findings) = match before.as_ref().filter(|before| before.has_same_l4()) {
        Some(before) => {
            let by_port = Listeners::with_routes(&before.snapshot.by_port, &routes);
            (before.snapshot.by_address.clone(), by_port, before.l4_findings.to_vec())
        }
        None => {
            let l4_findings = Findings::default();
            let l4_translator = Translator { findings: &l4_findings, ..*translator };
            let l4_routes = L4Routes { translator: &l4_translator, virtual_services };
            let names = settings.client.learned_names;
            let mut listeners =
                Listeners::new((&catch_all, policy.strict), names, &routes, &l4_routes, &l4_findings);
            listeners.add_all(translator.registry);
            let (by_address, by_port) = listeners.finish();
            (by_address, by_port, l4_findings.into_sorted())
        }
    };
    translator.findings.extend(l4_findings.iter().cloned());
    let translations = routes.into_translations();
    Listening { by_address, by_port, catch_all, translations, l4_findings }
}

impl Before<'_> {
    /// Routes of one address are those of one service, which its listener does not tell.
    fn has_same_l4(&self) -> bool {
        self.is_l4_same && !has_own_tables(self.snapshot)
    }
}

/// Whether an address has routes of its own.
pub(super) fn has_own_tables(snapshot: &Snapshot) -> bool {
    snapshot.by_address.values().any(|listener| listener.http.is_some())
}
