//! What is wrong with resources that are well written: each rule looks at the whole [`World`] and says what
//! will happen at run time and how to mend it. Pure; one file for each family of rules.
//!
//! The rules hold for the mesh, whoever the client is; a lookup that needs a client takes one of the
//! resource's own namespace. For one client, only what it sees counts.

mod allow_from;
mod annotations;
mod delegates;
mod destination_rules;
mod destinations;
mod findings;
mod gateway_leads;
mod gateway_loops;
mod gateway_routes;
mod gateway_workloads;
mod gateways;
mod known_annotations;
mod kubernetes_services;
mod merged_rules;
mod mesh;
mod own_annotations;
mod ports;
mod reachability;
mod service_entries;
mod sidecars;
mod virtual_services;
mod workloads;

use std::path::Path;

use findings::Findings;
use mesh::Mesh;

use crate::compile::tls::Files;
use crate::compile::{Client, CompileSettings, NodePaths, Role};
use crate::resource::{Diagnostic, World};
use crate::snapshot::Svid;

pub use annotations::misnamed;
pub use destination_rules::unusable_files;

/// For whom the resources are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience<'a> {
    /// Everybody: all rules.
    Mesh(Flags<'a>),
    /// This client, whose snapshot is compiled, too: what compiling tells is not told again, and
    /// nothing is said of gateways and of what only a whole cluster can tell.
    Client(&'a Client),
}

/// What the proxies that the resources are for are started with, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags<'a> {
    /// Where `credentialName` is looked for.
    pub credentials_dir: Option<&'a Path>,
    /// Where the identity for ISTIO_MUTUAL is.
    pub identity_dir: Option<&'a Path>,
    /// Where it is if it is from a Workload API.
    pub svid: Option<&'a Svid>,
    /// `None`: they may be `exec`, which allows all, or an agent that allows none.
    pub unix_endpoints: Option<&'a NodePaths>,
    /// The same of certificates and keys.
    pub tls_files: Option<&'a NodePaths>,
    /// Whether it is an egress gateway.
    pub is_gateway: bool,
}

impl<'a> Flags<'a> {
    /// Those of a proxy on this machine.
    pub fn of(settings: &'a CompileSettings) -> Self {
        let client = &settings.client;
        Self {
            credentials_dir: client.credentials_dir.as_deref(),
            identity_dir: client.identity_dir.as_deref(),
            svid: client.svid.as_ref(),
            unix_endpoints: Some(&settings.unix_endpoints),
            tls_files: Some(&settings.tls_files),
            is_gateway: matches!(settings.role, Role::Gateway { .. }),
        }
    }

    /// What is known of the files that TLS is made of: those that rules name may be anywhere.
    fn files(self) -> Files<'a> {
        let Self { credentials_dir, identity_dir, svid, tls_files, .. } = self;
        Files { credentials_dir, identity_dir, svid, allowed: tls_files.unwrap_or(&NodePaths::Any) }
    }
}

/// Every finding, by place.
pub fn find(world: &World, audience: Audience<'_>) -> Vec<Diagnostic> {
    let mesh = Mesh::new(world, audience);
    let mut findings = Findings::default();
    service_entries::check(&mesh, &mut findings);
    workloads::check_service_entries(&mesh, &mut findings);
    ports::check_addresses_required(&mesh, &mut findings);
    destination_rules::check(&mesh, &mut findings);
    merged_rules::check(&mesh, &mut findings);
    virtual_services::check(&mesh, &mut findings);
    match audience {
        Audience::Mesh(_) => {
            virtual_services::check_left_over(&mesh, &mut findings);
            ports::check(&mesh, &mut findings);
            destinations::check(&mesh, &mut findings);
            reachability::check(&mesh, &mut findings);
            delegates::check(&mesh, &mut findings);
            gateways::check(&mesh, &mut findings);
            gateway_routes::check(&mesh, &mut findings);
            gateway_workloads::check(&mesh, &mut findings);
            let leads = gateway_leads::of(&mesh);
            gateway_loops::check(&mesh, &leads, &mut findings);
            allow_from::check(&mesh, &leads, &mut findings);
            sidecars::check(&mesh, &mut findings);
            annotations::check(&mesh, &mut findings);
            workloads::check_users(&mesh, &mut findings);
            kubernetes_services::check(&mesh, &mut findings);
        }
        Audience::Client(client) => mesh::check_visible(world, &client.namespace, &mut findings),
    }
    findings.into_sorted()
}
