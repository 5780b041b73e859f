//! Where the agent's world comes from: files, or an API server.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use super::configurations::Configurations;
use super::view::{SourceState, SourceStatus};
use crate::resource::World;
use crate::settings::AgentSource;
use crate::source::kubernetes::{self, Following, NodeChange, Reporter, Trouble, WatchState};
use crate::source::{FileSource, Texts, Unreadable, Watching};

/// Followed for as long as this lives.
pub(crate) enum Source {
    Files { _watching: Watching, unreadable: Unreadable },
    Kubernetes(Following),
}

/// What a source tells.
pub(crate) struct Told {
    /// `None` until everything that is there at the start is known.
    pub(crate) worlds: watch::Receiver<Option<Arc<World>>>,
    /// Pods and namespaces one by one; nothing ever comes from files.
    pub(crate) nodes: UnboundedReceiver<NodeChange>,
}

impl Source {
    pub(crate) fn start(
        source: &AgentSource,
        configurations: &Configurations,
    ) -> anyhow::Result<(Self, Told)> {
        let telling = configurations.clone();
        let (following, worlds) = watch::channel(None);
        let (changes, nodes) = unbounded_channel();
        let source = match source {
            AgentSource::Files { config, mesh_config } => {
                let (source, world, diagnostics) = FileSource::open(config.clone(), mesh_config.clone())?;
                telling.tell(diagnostics, source.texts().clone());
                following.send_replace(Some(world));
                let unreadable = source.unreadable();
                let watching = source.watch(move |world, diagnostics, texts| {
                    telling.tell(diagnostics, texts.clone());
                    following.send_replace(Some(Arc::clone(world)));
                })?;
                Self::Files { _watching: watching, unreadable }
            }
            AgentSource::Kubernetes(settings) => Self::Kubernetes(kubernetes::follow(
                settings.clone(),
                move |world, diagnostics| {
                    telling.tell(diagnostics, Texts::default());
                    following.send_replace(Some(Arc::clone(world)));
                },
                move |change| drop(changes.send(change)),
            )?),
        };
        Ok((source, Told { worlds, nodes }))
    }

    /// Whether pods and namespaces are told one by one, before the world that has them.
    pub(crate) fn tells_nodes(&self) -> bool {
        matches!(self, Self::Kubernetes(_))
    }

    /// Who writes Events.
    pub(crate) fn reporter(&self) -> Option<&Reporter> {
        match self {
            Self::Files { .. } => None,
            Self::Kubernetes(following) => Some(following.reporter()),
        }
    }

    pub(crate) fn status(&self) -> Vec<SourceStatus> {
        match self {
            Self::Files { unreadable, .. } => {
                let failing = unreadable.get().map(|(since, error)| SourceState::Failing { since, error });
                vec![SourceStatus { name: "files".into(), state: failing.unwrap_or(SourceState::Following) }]
            }
            Self::Kubernetes(following) => of_kubernetes(following),
        }
    }
}

fn of_kubernetes(following: &Following) -> Vec<SourceStatus> {
    let status = following.status();
    let failing =
        |trouble: &Trouble| SourceState::Failing { since: trouble.since, error: trouble.why.to_string() };
    let server = match status.api_server.as_ref().or(status.unusable.as_ref()) {
        Some(trouble) => failing(trouble),
        None if status.is_synced => SourceState::Following,
        None => SourceState::Starting,
    };
    let mut all = vec![SourceStatus { name: "API server".into(), state: server }];
    all.extend(status.watches.iter().map(|watch| SourceStatus {
        name: Arc::clone(&watch.what),
        state: match &watch.state {
            WatchState::Listing => SourceState::Starting,
            WatchState::Following => SourceState::Following,
            WatchState::Missing => SourceState::Missing,
            WatchState::Failing(trouble) => failing(trouble),
        },
    }));
    all
}

impl Told {
    /// What is there at the start, if it comes in time.
    pub(crate) async fn first_world(&mut self, patience: Duration) -> Option<Arc<World>> {
        let first = self.worlds.wait_for(Option::is_some);
        tokio::time::timeout(patience, first).await.ok()?.ok()?.clone()
    }
}
