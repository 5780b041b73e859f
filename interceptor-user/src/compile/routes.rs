//! Route tables: the virtual hosts of a port, or of one service (Istio's core/httproute.go).

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::http_routes::Translator;
use super::registry::Service;
use super::virtual_services::VirtualServices;
use crate::resource::service_entry::Protocol;
use crate::snapshot::{
    Forward, OutboundTrafficPolicy, Route, RouteAction, RouteTable, Source, VirtualHost, WeightedCluster,
};

/// The port on which a VirtualService acts on hosts that nobody declared.
const PORT_OF_UNKNOWN_HOSTS: u16 = 80;

/// The routes of a VirtualService, by its index, on a port.
type Translated = HashMap<(usize, u16), Arc<[Route]>>;

pub(super) struct Routes<'a> {
    policy: OutboundTrafficPolicy,
    translator: &'a Translator<'a>,
    virtual_services: &'a VirtualServices,
    /// The services of each port, whatever its protocol.
    by_port: HashMap<u16, Vec<&'a Service>>,
    tables: RefCell<HashMap<u16, Arc<RouteTable>>>,
    translated: RefCell<Translated>,
}

impl<'a> Routes<'a> {
    pub(super) fn new(
        policy: OutboundTrafficPolicy,
        translator: &'a Translator<'a>,
        virtual_services: &'a VirtualServices,
    ) -> Self {
        let mut by_port: HashMap<u16, Vec<_>> = HashMap::new();
        for service in &translator.registry.services {
            for port in &service.entry.ports {
                by_port.entry(port.number).or_default().push(service);
            }
        }
        let tables = RefCell::default();
        Self { policy, translator, virtual_services, by_port, tables, translated: RefCell::default() }
    }

    /// All hosts with HTTP on `port`: route table `80`.
    pub(super) fn table_of_port(&self, port: u16) -> Arc<RouteTable> {
        if let Some(table) = self.tables.borrow().get(&port) {
            return Arc::clone(table);
        }
        let mut table = RouteTable::new(port.to_string().into(), self.policy);
        let mut acting = BTreeSet::new();
        for service in self.by_port.get(&port).into_iter().flatten() {
            if !has_http(service, port) {
                continue;
            }
            let (virtual_host, by) = self.virtual_host(service, port);
            acting.extend(by);
            let virtual_host = Arc::new(virtual_host);
            if table.hosts.insert(&service.host, Arc::clone(&virtual_host)) {
                for address in service.entry.addresses.iter().filter(|range| range.value.is_single_host()) {
                    table.hosts.insert(&address.value.to_string(), Arc::clone(&virtual_host));
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
                    let host_routes = VirtualHost { name, routes: routes.to_vec(), source };
                    table.hosts.insert(&host.value, Arc::new(host_routes));
                }
            }
        }
    }

    fn is_on_port(&self, host: &str, port: u16) -> bool {
        let registry = self.translator.registry;
        if host.starts_with('*') {
            return registry.matching(host).any(|service| service.port(port).is_some());
        }
        registry.of_host(host).any(|service| service.port(port).is_some())
    }

    /// One service, whatever the request's Host says: route table `host:port`.
    pub(super) fn table_of_service(&self, service: &Service, port: u16) -> Arc<RouteTable> {
        let mut table = RouteTable::new(format!("{}:{port}", service.host).into(), self.policy);
        table.catch_all = Arc::new(self.virtual_host(service, port).0);
        Arc::new(table)
    }

    /// A service's routes, and the VirtualService that gives them.
    fn virtual_host(&self, service: &Service, port: u16) -> (VirtualHost, Option<usize>) {
        let name = format!("{}:{port}", service.host).into();
        let source = Some(Source::whole(&service.entry.meta.key));
        if let Some(index) = self.virtual_services.most_specific(&service.host) {
            let routes = self.routes_of(index, port);
            if !routes.is_empty() {
                return (VirtualHost { name, routes: routes.to_vec(), source }, Some(index));
            }
        }
        (VirtualHost { name, routes: vec![self.default_route(service, port)], source }, None)
    }

    fn routes_of(&self, index: usize, port: u16) -> Arc<[Route]> {
        if let Some(routes) = self.translated.borrow().get(&(index, port)) {
            return Arc::clone(routes);
        }
        let routes: Arc<[Route]> = self.translator.routes(&self.virtual_services.all[index], port).into();
        self.translated.borrow_mut().insert((index, port), Arc::clone(&routes));
        routes
    }

    fn default_route(&self, service: &Service, port: u16) -> Route {
        let cluster = self.translator.clusters.named(port, "", &service.host);
        let forward = Forward {
            clusters: vec![WeightedCluster { cluster, weight: 1 }],
            timeout: None,
            retries: super::retries::policy(self.translator.default_retries),
            decorator_operation: format!("{}:{port}/*", service.host).into(),
        };
        Route {
            source: Some(Source::whole(&service.entry.meta.key)),
            ..Route::new("default".into(), RouteAction::Forward(Arc::new(forward)))
        }
    }
}

fn has_http(service: &Service, port: u16) -> bool {
    service.port(port).is_some_and(|port| port.protocol.is_http() || port.protocol == Protocol::Auto)
}
