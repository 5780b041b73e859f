//! `/config_dump`: all that is in force, as JSON. Written while it is sent: of the tables one at a time is in memory.

use std::io::{self, Write};
use std::sync::Arc;

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use super::body::ChunkWriter;
use crate::agent::view::{Check, Compiled, PodView, SourceStatus, View};
use crate::explain::Client;
use crate::report::Entry;
use crate::resource::World;
use crate::tables::{self, ClusterFilter, EndpointFilter, ListenerFilter, RegistryFilter};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dump<'a> {
    version: &'static str,
    ready: bool,
    checks: &'a [Check],
    sources: &'a [SourceStatus],
    #[serde(serialize_with = "resources")]
    resources: &'a World,
    diagnostics: Vec<Entry<'a>>,
    pods: &'a [Arc<PodView>],
    clients: Vec<Tables<'a>>,
}

/// What one client gets.
struct Tables<'a> {
    world: &'a World,
    compiled: &'a Compiled,
    /// `namespace/name` of those that are this client.
    pods: Vec<String>,
}

/// Of all pods, or of one.
pub(super) fn write(view: &View, pod: Option<&Arc<PodView>>, mut to: ChunkWriter) {
    let pods = pod.map_or(&*view.pods, std::slice::from_ref);
    let dump = Dump {
        version: env!("CARGO_PKG_VERSION"),
        ready: view.is_ready(),
        checks: &view.checks,
        sources: &view.sources,
        resources: &view.world,
        diagnostics: view.diagnostics.iter().map(Entry::of).collect(),
        pods,
        clients: clients(view, pods),
    };
    let written = serde_json::to_writer_pretty(&mut to, &dump).map_err(io::Error::from);
    let outcome = written.and_then(|()| to.write_all(b"\n"));
    to.finish(outcome);
}

fn clients<'a>(view: &'a View, pods: &'a [Arc<PodView>]) -> Vec<Tables<'a>> {
    let mut clients: Vec<Tables<'a>> = Vec::new();
    for pod in pods {
        let Some(compiled) = &pod.compiled else { continue };
        let name = format!("{}/{}", pod.namespace, pod.name);
        match clients.iter_mut().find(|tables| tables.compiled.settings == compiled.settings) {
            Some(tables) => tables.pods.push(name),
            None => clients.push(Tables { world: &view.world, compiled, pods: vec![name] }),
        }
    }
    clients
}

impl Serialize for Tables<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let (snapshot, in_use) = (&self.compiled.snapshot, Some(&self.compiled.in_use()));
        let mut fields = serializer.serialize_struct("Tables", 9)?;
        fields.serialize_field("client", &Client::from(&self.compiled.settings.client))?;
        fields.serialize_field("pods", &self.pods)?;
        fields.serialize_field("outboundTrafficPolicy", snapshot.outbound_traffic_policy.name())?;
        fields.serialize_field("strict", &snapshot.strict)?;
        fields.serialize_field("listeners", &tables::listeners(snapshot, &ListenerFilter::default()))?;
        fields.serialize_field("routes", &tables::routes(snapshot, None))?;
        fields.serialize_field("clusters", &tables::clusters(snapshot, &ClusterFilter::default()))?;
        fields
            .serialize_field("endpoints", &tables::endpoints(snapshot, in_use, &EndpointFilter::default()))?;
        fields.serialize_field(
            "registry",
            &tables::registry(self.world, snapshot, &RegistryFilter::default()),
        )?;
        fields.end()
    }
}

#[derive(Serialize)]
struct Resource<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    name: &'a str,
    /// Where it is written: file, line and column, or its name and version at the API server.
    at: String,
}

fn resources<S: Serializer>(world: &&World, serializer: S) -> Result<S::Ok, S::Error> {
    let mut all = serializer.serialize_seq(Some(world.resources.len()))?;
    for resource in world.resources.values() {
        let key = &resource.meta().key;
        let at = resource.meta().origin.to_string();
        all.serialize_element(&Resource {
            kind: key.kind.name(),
            namespace: &key.namespace,
            name: &key.name,
            at,
        })?;
    }
    all.end()
}
