//! What `explain` and `config` are about: a pod of this node's agent, or resources read and compiled without anything
//! being run.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};

use super::agent_socket::{PodFlags, PodOfAgent};
use super::client::ClientFlags;
use super::exec::policies;
use crate::analysis::misnamed;
use crate::compile::{Client, CompileSettings, NodePaths, Role, compile};
use crate::exec::findings::Findings;
use crate::explain::{Place, Subject, redirect_places};
use crate::proxy::upstream::InUse;
use crate::resource::{
    Annotations, CAPTURE_DNS, ClientPolicy, Diagnostic, ENFORCE, Labels, Level, Meta, POLICY, Resource,
    World, code, parse_capture_dns, parse_enforce,
};
use crate::snapshot::{OutboundTrafficPolicy, Snapshot};
use crate::source::FileSource;
use crate::workload::{Annotation, Enforced, RedirectPolicy};

/// Of which pod, or which resources, and for whom.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("about").args(["config", "pod"]))]
pub(super) struct ResourceFlags {
    #[command(flatten)]
    pod: PodFlags,

    #[command(flatten)]
    files: FileFlags,
}

/// Who is asked.
#[derive(Debug)]
pub(super) enum Of {
    Files(FileFlags),
    /// The agent, of a pod.
    Pod(PodOfAgent),
}

/// Resources that are read, and for whom.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FileFlags {
    /// Resources to read: a YAML file, a directory of them, or - for standard input; may be repeated. Without any the
    /// registry is empty, as with `exec`
    #[arg(short, long, value_name = "FILE-OR-DIR|-", value_hint = clap::ValueHint::AnyPath)]
    config: Vec<PathBuf>,

    /// Istio's mesh configuration (MeshConfig), as a YAML file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    mesh_config: Option<PathBuf>,

    /// What becomes of hosts that no ServiceEntry names; overrides the mesh configuration
    #[arg(long, value_name = "POLICY", value_parser = policies())]
    outbound_traffic_policy: Option<OutboundTrafficPolicy>,

    /// Names are learned from the client's DNS answers, as with `exec --capture-dns`
    #[arg(long)]
    capture_dns: bool,

    /// SNI and Host must fit the address asked for, as with `exec --strict`
    #[arg(long)]
    strict: bool,

    /// The client is the pod of an egress gateway, by its namespace and labels: what comes to it, not what it sends
    #[arg(long, conflicts_with = "outbound_traffic_policy", help_heading = super::client::CLIENT)]
    gateway: bool,

    /// The client is this Pod of the files, or a pod of this Deployment (or its like): its labels and annotations count
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_from, conflicts_with = "namespace",
        help_heading = super::client::CLIENT)]
    from: Option<(String, String)>,

    #[command(flatten)]
    client: ClientFlags,
}

/// What the files hold, compiled for the client.
#[derive(Debug)]
pub(super) struct Resources {
    pub(super) world: Arc<World>,
    pub(super) snapshot: Snapshot,
    pub(super) settings: CompileSettings,
    pub(super) redirect: RedirectPolicy,
    /// The annotations that `redirect` is from.
    pub(super) redirect_by: Vec<Place>,
}

fn parse_from(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        Some(_) | None => Err("expected NAMESPACE/NAME of a Pod or Deployment in the files".into()),
    }
}

impl ResourceFlags {
    pub(super) fn of(self) -> Of {
        match self.pod.of() {
            Some(pod) => Of::Pod(pod),
            None => Of::Files(self.files),
        }
    }
}

impl Resources {
    pub(super) fn subject<'a>(&'a self, in_use: &'a InUse) -> Subject<'a> {
        Subject {
            world: &self.world,
            snapshot: &self.snapshot,
            settings: &self.settings,
            redirect: &self.redirect,
            redirect_by: &self.redirect_by,
            in_use,
        }
    }
}

impl FileFlags {
    /// Fails when a path can't be read or the client isn't there. What can't be used is told on stderr and left out.
    /// `address`: of the gateway, if it is one.
    pub(super) fn compile(&self, address: Option<IpAddr>) -> anyhow::Result<Resources> {
        let (source, world, mut diagnostics) =
            FileSource::open(self.config.clone(), self.mesh_config.clone())?;
        self.client.tell_misnamed();
        let mut found = Vec::new();
        let (client, redirect, redirect_by) = self.client_in(&world, &mut found)?;
        let settings = CompileSettings {
            client,
            role: if self.gateway {
                Role::Gateway { own_addresses: address.into_iter().collect() }
            } else {
                Role::Workload
            },
            outbound_traffic_policy: self.outbound_traffic_policy,
            unix_endpoints: NodePaths::Any,
            tls_files: NodePaths::Any,
        };
        let (snapshot, of_compiling) = compile(&world, &settings);
        found.extend(of_compiling);
        let redirect = RedirectPolicy { enforced: snapshot.enforced.then(Enforced::default), ..redirect };
        let is_of_name = |finding: &Diagnostic| finding.code == Some(code::IST0108.id);
        // What the resources do is told in full; what of them can't be used would be missed there.
        let is_shown = |finding: &Diagnostic| {
            let is_told = finding.level == Level::Error
                || is_of_name(finding)
                || tracing::enabled!(tracing::Level::INFO);
            is_told && !(self.gateway && self.is_of_certificates(finding))
        };
        diagnostics.retain(is_shown);
        found.retain(is_shown);
        Findings::default().tell(diagnostics, found, source.texts());
        Ok(Resources { world, snapshot, settings, redirect, redirect_by })
    }

    /// Whether a finding is about certificates of a gateway's server, which need not be where this command runs.
    fn is_of_certificates(&self, finding: &Diagnostic) -> bool {
        !self.client.has_certificates()
            && finding.code == Some(code::EGR0104.id)
            && finding.resource.starts_with("Gateway ")
    }

    /// `found`: with what is wrong about the names of the pod's annotations.
    fn client_in(
        &self,
        world: &World,
        found: &mut Vec<Diagnostic>,
    ) -> anyhow::Result<(Client, RedirectPolicy, Vec<Place>)> {
        let mut client = self.client.client();
        client.policy.strict |= self.strict;
        client.learned_names |= self.capture_dns;
        let mut annotations: Vec<(&str, &str)> = Vec::new();
        let mut by: Vec<Place> = Vec::new();
        if let Some((namespace, name)) = &self.from {
            let (meta, labels, of_pod) = pod(world, namespace, name)?;
            found.extend(misnamed(meta, of_pod, labels));
            client.namespace = namespace.as_str().into();
            if let Some(annotation) = of_pod.get(POLICY) {
                let own = ClientPolicy::parse(&annotation.value)
                    .with_context(|| format!("{}: annotation {POLICY}", annotation.origin(meta)))?;
                client.policy = client.policy.within(own);
            }
            let of_namespace = world.namespaces().find(|other| **other.meta.name() == **namespace);
            for (meta, annotations) in std::iter::once((meta, of_pod))
                .chain(of_namespace.map(|namespace| (&namespace.meta, &namespace.meta.annotations)))
            {
                let Some(annotation) = annotations.get(CAPTURE_DNS) else { continue };
                let says = parse_capture_dns(&annotation.value)
                    .with_context(|| format!("{}: annotation {CAPTURE_DNS}", annotation.origin(meta)))?;
                if let Some(says) = says {
                    client.learned_names |= says;
                    break;
                }
            }
            if let Some(annotation) = of_pod.get(ENFORCE) {
                client.enforced |= parse_enforce(&annotation.value)
                    .with_context(|| format!("{}: annotation {ENFORCE}", annotation.origin(meta)))?;
            }
            let own = std::mem::take(&mut client.labels);
            client.labels =
                labels.iter().map(|(name, value)| (name.clone(), value.clone())).chain(own).collect();
            let of_redirect = of_pod.iter().filter(|(name, _)| Annotation::of_name(name).is_some());
            annotations.extend(of_redirect.map(|(name, annotation)| (&**name, &*annotation.value)));
            by.extend(redirect_places(meta, of_pod));
        }
        let given = self.client.annotations();
        for (name, value) in given.iter().filter(|(name, _)| Annotation::of_name(name).is_some()) {
            by.retain(|place| place.field.as_deref() != Some(&*format!("annotation {name}")));
            annotations.push((name, value));
            by.push(Place { resource: "--annotations".into(), field: Some(name.to_string()), at: None });
        }
        let redirect = RedirectPolicy::from_annotations(annotations)?;
        Ok((client, redirect, by))
    }
}

/// A Pod, else the one thing of that name that makes pods.
fn pod<'a>(
    world: &'a World,
    namespace: &str,
    name: &str,
) -> anyhow::Result<(&'a Meta, &'a Labels, &'a Annotations)> {
    let is_it = |meta: &Meta| **meta.namespace() == *namespace && **meta.name() == *name;
    if let Some(pod) = world.pods().find(|pod| is_it(&pod.meta)) {
        return Ok((&pod.meta, &pod.meta.labels, &pod.meta.annotations));
    }
    let templates: Vec<_> = world.pod_templates().filter(|template| is_it(&template.meta)).collect();
    match templates.as_slice() {
        [only] => Ok((&only.meta, &only.labels, &only.annotations)),
        [] => {
            let mut there: Vec<String> = world
                .resources
                .values()
                .filter(|resource| matches!(resource, Resource::Pod(_) | Resource::PodTemplate(_)))
                .map(|resource| format!("{}/{}", resource.meta().namespace(), resource.meta().name()))
                .collect();
            there.dedup();
            if there.is_empty() {
                bail!("--from {namespace}/{name}: the files hold no Pod and no Deployment (or its like)");
            }
            bail!(
                "--from {namespace}/{name}: there is no such Pod or Deployment (or its like); there are {}",
                there.join(", ")
            )
        }
        several => {
            let kinds: Vec<String> = several.iter().map(|template| template.meta.key.to_string()).collect();
            bail!("--from {namespace}/{name}: could be {}", kinds.join(" or "))
        }
    }
}
