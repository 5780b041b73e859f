//! Route tables: the virtual hosts of a port, or of one service.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::clusters::Clusters;
use super::registry::{Registry, Service};
use crate::resource::service_entry::{Protocol, ServicePort};
use crate::snapshot::{
    Forward, OutboundTrafficPolicy, Route, RouteAction, RouteTable, VirtualHost, WeightedCluster,
};

pub(super) struct Routes<'a> {
    policy: OutboundTrafficPolicy,
    clusters: &'a Clusters,
    /// The services with HTTP on a port.
    by_port: HashMap<u16, Vec<(&'a Service, &'a ServicePort)>>,
    tables: RefCell<HashMap<u16, Arc<RouteTable>>>,
}

impl<'a> Routes<'a> {
    pub(super) fn new(policy: OutboundTrafficPolicy, registry: &'a Registry, clusters: &'a Clusters) -> Self {
        let mut by_port: HashMap<u16, Vec<_>> = HashMap::new();
        for service in &registry.services {
            for port in &service.entry.ports {
                if port.protocol.is_http() || port.protocol == Protocol::Auto {
                    by_port.entry(port.number).or_default().push((service, port));
                }
            }
        }
        Self { policy, clusters, by_port, tables: RefCell::default() }
    }

    /// All hosts with HTTP on `port`: route table `80`.
    pub(super) fn table_of_port(&self, port: u16) -> Arc<RouteTable> {
        if let Some(table) = self.tables.borrow().get(&port) {
            return Arc::clone(table);
        }
        let mut table = RouteTable::new(port.to_string().into(), self.policy);
        for (service, _) in self.by_port.get(&port).into_iter().flatten() {
            let host = Arc::new(self.virtual_host(service, port));
            if table.hosts.insert(&service.host, Arc::clone(&host)) {
                for address in service.entry.addresses.iter().filter(|range| range.value.is_single()) {
                    table.hosts.insert(&address.value.to_string(), Arc::clone(&host));
                }
            }
        }
        let table = Arc::new(table);
        self.tables.borrow_mut().insert(port, Arc::clone(&table));
        table
    }

    /// One service, whatever the request's Host says: route table `host:port`.
    pub(super) fn table_of_service(&self, service: &Service, port: u16) -> Arc<RouteTable> {
        let mut table = RouteTable::new(format!("{}:{port}", service.host).into(), self.policy);
        table.catch_all = Arc::new(self.virtual_host(service, port));
        Arc::new(table)
    }

    fn virtual_host(&self, service: &Service, port: u16) -> VirtualHost {
        VirtualHost {
            name: format!("{}:{port}", service.host).into(),
            routes: vec![self.default_route(service, port)],
        }
    }

    fn default_route(&self, service: &Service, port: u16) -> Route {
        Route {
            name: "default".into(),
            matches: Vec::new(),
            action: RouteAction::Forward(Arc::new(Forward {
                clusters: vec![WeightedCluster {
                    cluster: self.clusters.named(port, "", &service.host),
                    weight: 1,
                }],
                timeout: None,
                retries: Some(super::retries::default_policy()),
                decorator_operation: format!("{}:{port}/*", service.host).into(),
            })),
        }
    }
}
