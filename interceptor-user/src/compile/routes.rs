//! Route tables: the virtual hosts of a port, or of one service (Istio's core/httproute.go).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::http_routes::Translator;
use super::listeners::ByPort;
use super::registry::Service;
use super::virtual_services::VirtualServices;
use crate::hash::HashMap;
use crate::resource::service_entry::Protocol;
use crate::resource::{Diagnostic, ResourceKey, VirtualService};
use crate::shared_map::SharedMap;
use crate::snapshot::{
    CatchAll, Forward, Route, RouteAction, RouteTable, Source, VirtualHost, WeightedCluster,
};

/// The port on which a VirtualService acts on hosts that nobody declared.
pub(super) const PORT_OF_UNKNOWN_HOSTS: u16 = 80;

pub(super) struct Routes<'a> {
    catch_all: &'a CatchAll,
    translator: &'a Translator<'a>,
    virtual_services: &'a VirtualServices,
    /// The services of each port, whatever its protocol.
    by_port: HashMap<u16, Vec<&'a Arc<Service>>>,
    tables: RefCell<HashMap<u16, Arc<RouteTable>>>,
    previous: Option<Made<'a>>,
    translations: RefCell<Translations>,
}

/// What was made of VirtualServices, by VirtualService and port, kept for the next compile from the same MeshConfig.
pub(super) type Translations = SharedMap<(ResourceKey, u16), Translation>;

/// What the compile before made.
#[derive(Clone, Copy)]
pub(super) struct Made<'a> {
    pub(super) translations: &'a Translations,
    pub(super) by_port: &'a ByPort,
}

/// The routes of a VirtualService on a port.
#[derive(Clone, Debug)]
pub(super) struct Translation {
    service: Arc<VirtualService>,
    pub(super) routes: Arc<[Route]>,
    /// What was found out on the way.
    pub(super) findings: Vec<Diagnostic>,
}

impl Translation {
    pub(super) fn of(translator: &Translator<'_>, service: &Arc<VirtualService>, port: u16) -> Self {
        let (routes, findings) = translator.findings.capture(|| translator.routes(service, port));
        Self { service: Arc::clone(service), routes: routes.into(), findings }
    }
}

impl<'a> Routes<'a> {
    pub(super) fn new(
        catch_all: &'a CatchAll,
        translator: &'a Translator<'a>,
        virtual_services: &'a VirtualServices,
        previous: Option<Made<'a>>,
    ) -> Self {
        let mut by_port: HashMap<u16, Vec<_>> = HashMap::default();
        for service in &translator.registry.services {
            for port in &service.entry.ports {
                by_port.entry(port.number).or_default().push(service);
            }
        }
        let (tables, translations) = (RefCell::default(), RefCell::default());
        Self { catch_all, translator, virtual_services, by_port, tables, previous, translations }
    }

    pub(super) fn into_translations(self) -> Translations {
        self.translations.into_inner()
    }

    /// All hosts with HTTP on `port`: route table `80`.
    pub(super) fn table_of_port(&self, port: u16) -> Arc<RouteTable> {
        if let Some(table) = self.tables.borrow().get(&port) {
            return Arc::clone(table);
        }
        let mut table = RouteTable::new(port.to_string().into(), self.catch_all);
        let mut acting = BTreeSet::new();
        for service in self.by_port.get(&port).into_iter().flatten() {
            if !has_http(service, port) || !service.port(port).is_some_and(|port| service.is_listed_on(port))
            {
                continue;
            }
            let (virtual_host, by) = self.virtual_host(service, port);
            acting.extend(by);
            if table.hosts.insert(Arc::clone(&service.host), Arc::clone(&virtual_host)) {
                for name in service.other_names(&self.translator.client.namespace) {
                    table.hosts.insert(name, Arc::clone(&virtual_host));
                }
            }
        }
        self.add_unknown_hosts(&mut table, port, acting);
        let table = Arc::new(table);
        self.tables.borrow_mut().insert(port, Arc::clone(&table));
        table
    }

    /// Hosts of VirtualServices that no service on this port has: only on port 80, and where the
    /// VirtualService acts for another of its hosts.
    fn add_unknown_hosts(&self, table: &mut RouteTable, port: u16, acting: BTreeSet<usize>) {
        let everyone = 0..self.virtual_services.all.len();
        let candidates: Vec<usize> =
            if port == PORT_OF_UNKNOWN_HOSTS { everyone.collect() } else { acting.into_iter().collect() };
        for index in candidates {
            let service = &self.virtual_services.all[index];
            for host in service.hosts.iter().filter(|host| !self.is_on_port(&host.value, port)) {
                let routes = self.routes_of(index, port);
                if !routes.is_empty() {
                    let unknown = unknown_host(service, (&host.value, port), routes);
                    table.hosts.insert(Arc::clone(&host.value), unknown);
                }
            }
        }
    }

    fn is_on_port(&self, host: &str, port: u16) -> bool {
        let registry = self.translator.registry;
        let is_listed = |service: &Service| service.port(port).is_some_and(|port| service.is_listed_on(port));
        if host.starts_with('*') {
            return registry.matching(host).any(is_listed);
        }
        registry.of_host(host).any(is_listed)
    }

    /// One service, whatever the request's Host says: route table `host:port`.
    pub(super) fn table_of_service(&self, service: &Service, port: u16) -> Arc<RouteTable> {
        let mut table = RouteTable::new(format!("{}:{port}", service.host).into(), self.catch_all);
        table.catch_all = self.virtual_host(service, port).0;
        Arc::new(table)
    }

    /// A service's routes, and the VirtualService that gives them.
    fn virtual_host(&self, service: &Service, port: u16) -> (Arc<VirtualHost>, Option<usize>) {
        let of_rule = self.virtual_services.most_specific(&service.host).and_then(|index| {
            let routes = self.routes_of(index, port);
            (!routes.is_empty()).then_some((index, routes))
        });
        let before = self.host_before(service, port).filter(|before| {
            let is_of_service = before.source.as_ref() == Some(&service.source)
                && *before.name == *format!("{}:{port}", service.host);
            is_of_service
                && match &of_rule {
                    Some((_, routes)) => Arc::ptr_eq(routes, &before.routes),
                    None => is_default(before) && self.translator.clusters.is_unchanged(&service.host),
                }
        });
        let (index, routes) = match of_rule {
            Some((index, routes)) => (Some(index), Some(routes)),
            None => (None, None),
        };
        let virtual_host =
            before.cloned().unwrap_or_else(|| known_host(self.translator, (service, port), routes));
        (virtual_host, index)
    }

    fn host_before(&self, service: &Service, port: u16) -> Option<&'a Arc<VirtualHost>> {
        self.previous?.by_port.get(&port)?.http.as_ref()?.hosts.own(&service.host)
    }

    fn routes_of(&self, index: usize, port: u16) -> Arc<[Route]> {
        let service = &self.virtual_services.all[index];
        let key = (service.meta.key.clone(), port);
        if let Some(translation) = self.translations.borrow().get(&key) {
            return Arc::clone(&translation.routes);
        }
        let translation =
            self.kept(&key, service).unwrap_or_else(|| Translation::of(self.translator, service, port));
        let routes = Arc::clone(&translation.routes);
        self.translations.borrow_mut().insert(key, translation);
        routes
    }

    /// What the compile before made of a VirtualService, when nothing that it depends on has changed.
    fn kept(&self, key: &(ResourceKey, u16), service: &Arc<VirtualService>) -> Option<Translation> {
        let before = self.previous?.translations.get(key)?;
        let clusters = self.translator.clusters;
        let same =
            before.service == *service && service.destination_hosts().all(|host| clusters.is_unchanged(host));
        let before = same.then(|| before.clone())?;
        before.findings.iter().for_each(|finding| self.translator.findings.push(finding.clone()));
        Some(before)
    }
}

/// A host of a VirtualService that no service has.
pub(super) fn unknown_host(
    service: &VirtualService,
    (host, port): (&Arc<str>, u16),
    routes: Arc<[Route]>,
) -> Arc<VirtualHost> {
    let source = Some(Source::whole(&service.meta.key));
    Arc::new(VirtualHost { name: format!("{host}:{port}").into(), routes, source })
}

/// A service's, with the routes of its VirtualService, if it has one.
pub(super) fn known_host(
    translator: &Translator<'_>,
    (service, port): (&Service, u16),
    routes: Option<Arc<[Route]>>,
) -> Arc<VirtualHost> {
    Arc::new(VirtualHost {
        name: format!("{}:{port}", service.host).into(),
        routes: routes.unwrap_or_else(|| [default_route(translator, service, port)].into()),
        source: Some(Arc::clone(&service.source)),
    })
}

fn default_route(translator: &Translator<'_>, service: &Service, port: u16) -> Route {
    let cluster = translator.clusters.named(port, "", &service.host);
    let clusters = vec![WeightedCluster::new(cluster, 1)];
    let retries = super::retries::policy(translator.default_retries, None);
    let forward = Forward {
        retries: retries.map(|policy| translator.retries.get(policy)),
        ..Forward::to(clusters, format!("{}:{port}/*", service.host).into())
    };
    Route {
        source: Some(Arc::clone(&service.source)),
        ..Route::new("default".into(), RouteAction::Forward(Arc::new(forward)))
    }
}

/// The routes of a host that no VirtualService speaks of.
pub(super) fn is_default(host: &VirtualHost) -> bool {
    matches!(&*host.routes, [only] if only.source == host.source)
}

pub(super) fn has_http(service: &Service, port: u16) -> bool {
    service.port(port).is_some_and(|port| port.protocol.is_http() || port.protocol == Protocol::Auto)
}
