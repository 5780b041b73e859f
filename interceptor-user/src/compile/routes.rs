//! Route tables: the virtual hosts of a port, or of one service (Istio's core/httproute.go).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::changed::Replaced;
use super::http_routes::Translator;
use super::registry::Service;
use super::virtual_services::VirtualServices;
use crate::hash::HashMap;
use crate::resource::service_entry::Protocol;
use crate::resource::{Diagnostic, ResourceKey, VirtualService};
use crate::snapshot::{
    CatchAll, Forward, Route, RouteAction, RouteTable, Source, VirtualHost, WeightedCluster,
};

/// The port on which a VirtualService acts on hosts that nobody declared.
const PORT_OF_UNKNOWN_HOSTS: u16 = 80;

pub(super) struct Routes<'a> {
    catch_all: &'a CatchAll,
    translator: &'a Translator<'a>,
    virtual_services: &'a VirtualServices,
    /// The services of each port, whatever its protocol.
    by_port: HashMap<u16, Vec<&'a Service>>,
    tables: RefCell<HashMap<u16, Arc<RouteTable>>>,
    previous: Option<&'a Translations>,
    translations: RefCell<Translations>,
}

/// What was made of VirtualServices and services, kept for the next compile from the same MeshConfig.
#[derive(Debug, Default)]
pub(super) struct Translations {
    /// By VirtualService and port.
    routes: HashMap<(ResourceKey, u16), Translation>,
    /// By host and port.
    virtual_hosts: HashMap<(Arc<str>, u16), Arc<VirtualHost>>,
}

/// The routes of a VirtualService on a port.
#[derive(Clone, Debug)]
struct Translation {
    service: Arc<VirtualService>,
    routes: Arc<[Route]>,
    /// What was found out on the way.
    findings: Vec<Diagnostic>,
}

impl Translations {
    /// The tables that are others when nothing but these routes is, by port. `None` when that concerns who has routes at
    /// all; then nothing has changed here.
    pub(super) fn patch(
        &mut self,
        translator: &Translator<'_>,
        tables: &HashMap<u16, &Arc<RouteTable>>,
        replaced: &[Replaced],
    ) -> Option<HashMap<u16, Arc<RouteTable>>> {
        let mut new = Vec::new();
        for service in replaced.iter().map(|replaced| &replaced.new) {
            for port in tables.keys() {
                let key = (service.meta.key.clone(), *port);
                let Some(before) = self.routes.get(&key) else { continue };
                let translation = Translation::of(translator, service, *port);
                if before.routes.is_empty() != translation.routes.is_empty() {
                    return None;
                }
                new.push((key, translation));
            }
        }
        let mut routes: HashMap<u16, HashMap<*const Route, Arc<[Route]>>> = HashMap::default();
        for (key, translation) in new {
            let (port, now) = (key.1, Arc::clone(&translation.routes));
            if let Some(before) =
                self.routes.insert(key, translation).filter(|before| !before.routes.is_empty())
            {
                routes.entry(port).or_default().insert(before.routes.as_ptr(), now);
            }
        }
        // What stays is as it was found to be.
        let findings = self.routes.values().flat_map(|translation| &translation.findings);
        translator.findings.extend(findings.cloned());
        let patch = |(port, routes)| Some((port, self.patch_table(port, tables.get(&port)?, &routes)));
        Some(routes.into_iter().filter_map(patch).collect())
    }

    /// A table with other routes in the place of some.
    fn patch_table(
        &mut self,
        port: u16,
        table: &RouteTable,
        routes: &HashMap<*const Route, Arc<[Route]>>,
    ) -> Arc<RouteTable> {
        let mut table = table.clone();
        let mut others: HashMap<*const VirtualHost, Arc<VirtualHost>> = HashMap::default();
        for host in table.hosts.values_mut() {
            let Some(routes) = routes.get(&host.routes.as_ptr()) else { continue };
            let new = || Arc::new(VirtualHost { routes: Arc::clone(routes), ..(**host).clone() });
            let other = Arc::clone(others.entry(Arc::as_ptr(host)).or_insert_with(new));
            *host = other;
        }
        for ((_, of_port), host) in &mut self.virtual_hosts {
            if *of_port == port
                && let Some(other) = others.get(&Arc::as_ptr(host))
            {
                *host = Arc::clone(other);
            }
        }
        Arc::new(table)
    }
}

impl Translation {
    fn of(translator: &Translator<'_>, service: &Arc<VirtualService>, port: u16) -> Self {
        let (routes, findings) = translator.findings.capture(|| translator.routes(service, port));
        Self { service: Arc::clone(service), routes: routes.into(), findings }
    }
}

impl<'a> Routes<'a> {
    pub(super) fn new(
        catch_all: &'a CatchAll,
        translator: &'a Translator<'a>,
        virtual_services: &'a VirtualServices,
        previous: Option<&'a Translations>,
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
                    let name = format!("{}:{port}", host.value).into();
                    let source = Some(Source::whole(&service.meta.key));
                    let host_routes = VirtualHost { name, routes, source };
                    table.hosts.insert(Arc::clone(&host.value), Arc::new(host_routes));
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
        let key = (Arc::clone(&service.host), port);
        let before = self.previous.and_then(|previous| previous.virtual_hosts.get(&key)).filter(|before| {
            let is_of_service =
                before.source.as_ref().is_some_and(|source| source.resource == service.entry.meta.key);
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
        let virtual_host = before.cloned().unwrap_or_else(|| {
            Arc::new(VirtualHost {
                name: format!("{}:{port}", service.host).into(),
                routes: routes.unwrap_or_else(|| [self.default_route(service, port)].into()),
                source: Some(Arc::clone(&service.source)),
            })
        });
        self.translations.borrow_mut().virtual_hosts.insert(key, Arc::clone(&virtual_host));
        (virtual_host, index)
    }

    fn routes_of(&self, index: usize, port: u16) -> Arc<[Route]> {
        let service = &self.virtual_services.all[index];
        let key = (service.meta.key.clone(), port);
        if let Some(translation) = self.translations.borrow().routes.get(&key) {
            return Arc::clone(&translation.routes);
        }
        let translation =
            self.kept(&key, service).unwrap_or_else(|| Translation::of(self.translator, service, port));
        let routes = Arc::clone(&translation.routes);
        self.translations.borrow_mut().routes.insert(key, translation);
        routes
    }

    /// What the compile before made of a VirtualService, when nothing that it depends on has changed.
    fn kept(&self, key: &(ResourceKey, u16), service: &Arc<VirtualService>) -> Option<Translation> {
        let before = self.previous?.routes.get(key)?;
        let clusters = self.translator.clusters;
        let same =
            before.service == *service && service.destination_hosts().all(|host| clusters.is_unchanged(host));
        let before = same.then(|| before.clone())?;
        before.findings.iter().for_each(|finding| self.translator.findings.push(finding.clone()));
        Some(before)
    }

    fn default_route(&self, service: &Service, port: u16) -> Route {
        let cluster = self.translator.clusters.named(port, "", &service.host);
        let clusters = vec![WeightedCluster::new(cluster, 1)];
        let retries = super::retries::policy(self.translator.default_retries, None);
        let forward = Forward {
            retries: retries.map(|policy| self.translator.retries.get(policy)),
            ..Forward::to(clusters, format!("{}:{port}/*", service.host).into())
        };
        Route {
            source: Some(Arc::clone(&service.source)),
            ..Route::new("default".into(), RouteAction::Forward(Arc::new(forward)))
        }
    }
}

/// The routes of a host that no VirtualService speaks of.
fn is_default(host: &VirtualHost) -> bool {
    matches!(&*host.routes, [only] if only.source == host.source)
}

fn has_http(service: &Service, port: u16) -> bool {
    service.port(port).is_some_and(|port| port.protocol.is_http() || port.protocol == Protocol::Auto)
}
