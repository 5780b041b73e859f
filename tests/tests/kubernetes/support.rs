//! A server that is followed, with all that was told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use interceptor_tests::{ApiServer, wait_for};
use interceptor_user::resource::{Diagnostic, World};
use interceptor_user::source::kubernetes::{
    Audience, ConfigMapKey, Following, KubernetesSettings, NodeChange, Status, WatchState, follow,
};

/// The node whose pods are told.
pub(crate) const NODE: &str = "node-a";

#[derive(Default)]
struct Told {
    worlds: Vec<(World, Vec<Diagnostic>, Instant)>,
    node: Vec<(NodeChange, Instant)>,
}

pub(crate) struct Followed {
    pub(crate) following: Following,
    told: Arc<Mutex<Told>>,
}

pub(crate) fn settings(server: &ApiServer) -> KubernetesSettings {
    KubernetesSettings {
        kubeconfig: Some(server.kubeconfig().to_owned()),
        audience: Audience::Node(NODE.into()),
        mesh_config_map: ConfigMapKey::default(),
        credentials_dir: None,
    }
}

/// Follows the server, and waits for nothing.
pub(crate) fn start(server: &ApiServer) -> anyhow::Result<Followed> {
    start_with(settings(server))
}

pub(crate) fn start_with(settings: KubernetesSettings) -> anyhow::Result<Followed> {
    let told = Arc::new(Mutex::new(Told::default()));
    let (of_worlds, of_node) = (Arc::clone(&told), Arc::clone(&told));
    let following = follow(
        settings,
        move |world, diagnostics| {
            let mut told = of_worlds.lock().unwrap_or_else(PoisonError::into_inner);
            told.worlds.push((World::clone(world), diagnostics, Instant::now()));
        },
        move |change| {
            of_node.lock().unwrap_or_else(PoisonError::into_inner).node.push((change, Instant::now()));
        },
    )?;
    Ok(Followed { following, told })
}

/// Follows the server until the first World is there.
pub(crate) fn synced(server: &ApiServer) -> anyhow::Result<Followed> {
    let followed = start(server)?;
    followed.wait_for("the first World", |_, _| true)?;
    Ok(followed)
}

impl Followed {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many Worlds were handed over.
    pub(crate) fn worlds(&self) -> usize {
        self.told().worlds.len()
    }

    /// The keys of the latest World, as text.
    pub(crate) fn keys(&self) -> Vec<String> {
        let told = self.told();
        let latest = told.worlds.last();
        latest.map(|(world, ..)| keys(world)).unwrap_or_default()
    }

    /// The latest World.
    pub(crate) fn world(&self) -> World {
        self.told().worlds.last().map(|(world, ..)| world.clone()).unwrap_or_default()
    }

    /// The latest findings, as text.
    pub(crate) fn findings(&self) -> Vec<String> {
        let told = self.told();
        told.worlds
            .last()
            .map(|(_, found, _)| found.iter().map(ToString::to_string).collect())
            .unwrap_or_default()
    }

    pub(crate) fn diagnostics(&self) -> Vec<Diagnostic> {
        self.told().worlds.last().map(|(_, found, _)| found.clone()).unwrap_or_default()
    }

    /// When a World came that satisfies it.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        is_it: impl Fn(&World, &[Diagnostic]) -> bool,
    ) -> anyhow::Result<Instant> {
        let found = wait_for(what, Duration::from_secs(20), || {
            let told = self.told();
            let (world, found, when) = told.worlds.last()?;
            is_it(world, found).then_some(*when)
        });
        found.map_err(|error| anyhow::anyhow!("{error}; have {:?}, {:#?}", self.keys(), self.status()))
    }

    pub(crate) fn wait_for_keys(&self, expected: &[&str]) -> anyhow::Result<Instant> {
        self.wait_for(&format!("{expected:?}"), |world, _| keys(world) == expected)
    }

    pub(crate) fn node_changes(&self) -> Vec<NodeChange> {
        self.told().node.iter().map(|(change, _)| change.clone()).collect()
    }

    /// When this change was told for the first time.
    pub(crate) fn wait_for_node(
        &self,
        what: &str,
        is_it: impl Fn(&NodeChange) -> bool,
    ) -> anyhow::Result<Instant> {
        let found = wait_for(what, Duration::from_secs(20), || {
            self.told().node.iter().find(|(change, _)| is_it(change)).map(|(_, when)| *when)
        });
        found
            .map_err(|error| anyhow::anyhow!("{error}; have {:?}, {:#?}", self.node_changes(), self.status()))
    }

    pub(crate) fn status(&self) -> Arc<Status> {
        self.following.status()
    }

    /// The state of a watch.
    pub(crate) fn state(&self, what: &str) -> Option<WatchState> {
        let status = self.status();
        status.watches.iter().find(|watch| &*watch.what == what).map(|watch| watch.state.clone())
    }

    /// Waits until a watch fails with this reason.
    pub(crate) fn wait_for_failure(&self, what: &str, why: &str) -> anyhow::Result<()> {
        let is_it = || match self.state(what)? {
            WatchState::Failing(trouble) => trouble.why.contains(why).then_some(()),
            WatchState::Listing | WatchState::Following | WatchState::Missing => None,
        };
        wait_for(&format!("{what} fails: {why}"), Duration::from_secs(20), is_it)
            .map_err(|error| anyhow::anyhow!("{error}; {:#?}", self.status()))
    }

    pub(crate) fn wait_for_state(&self, what: &str, state: &WatchState) -> anyhow::Result<()> {
        wait_for(&format!("{what} is {state:?}"), Duration::from_secs(20), || {
            (self.state(what).as_ref() == Some(state)).then_some(())
        })
        .map_err(|error| anyhow::anyhow!("{error}; {:#?}", self.status()))
    }
}

pub(crate) fn keys(world: &World) -> Vec<String> {
    world.resources.keys().map(ToString::to_string).collect()
}

pub(crate) fn namespace(name: &str, labels: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n")
}

pub(crate) fn service_entry(name: &str, host: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  hosts: [{host}]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: DNS\n"
    )
}

pub(crate) fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.0.1, ports: [{{name: http, port: 80}}]}}\n"
    )
}

pub(crate) fn pod(name: &str, node: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: app}}]}}\n{more}\n"
    )
}
