//! A compile in a time that the change decides and not all that is there: where nothing but ServiceEntries, DestinationRules
//! and http routes of VirtualServices has changed, and what they are about is found by its name alone. Where a change may
//! reach further than is followed here (wildcards, addresses, TCP, Sidecars …), everything is compiled.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::changed::{Changed, Replaced, Turned, VirtualServiceChanges};
use super::clusters;
use super::findings::Findings;
use super::http_routes::{Entrance, Translator};
use super::listeners::ByPort;
use super::policy::Policy;
use super::registry::{Census, Service};
use super::routes::{self, PORT_OF_UNKNOWN_HOSTS, Translation, Translations};
use super::scope::Scope;
use super::shared::Shared;
use super::virtual_services::VirtualServices;
use super::{CompileSettings, Previous, Role, l4_routes, outbound, unix_endpoints};
use crate::hash::HashMap;
use crate::resource::{ServiceEntry, VirtualService, World};
use crate::snapshot::{Listener, Route, RouteTable, Snapshot, VirtualHost};

/// Of more hosts everything is compiled.
const HOSTS_MAX: usize = 256;

/// What a compile is for.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) world: &'a Arc<World>,
    pub(super) settings: &'a CompileSettings,
    pub(super) scope: &'a Scope<'a>,
    pub(super) policy: Policy<'a>,
}

type Services = Vec<Arc<Service>>;

impl Previous {
    /// Makes this what a compile of the world of now leaves, and gives its snapshot. `None` where the change may reach further
    /// than is followed: then what has changed is not to be taken from here any more.
    pub(super) fn patch(
        &mut self,
        changed: &Changed,
        inputs: Inputs<'_>,
        findings: &Findings,
    ) -> Option<Snapshot> {
        let VirtualServiceChanges::Routes { replaced, turned } = &changed.virtual_services else {
            return None;
        };
        let Inputs { world, settings, scope, policy } = inputs;
        let is_other = changed.others || settings.role != Role::Workload;
        if is_other
            || outbound::has_own_tables(&self.snapshot)
            || (scope.narrows() && !(replaced.is_empty() && turned.is_empty()))
        {
            return None;
        }
        let entries = seen(&changed.entries, scope);
        let hosts = self.hosts(&entries, changed)?;
        let is_followed = !policy.enforced && policy.egress_proxy.is_none() && scope.is_open();
        if !hosts.is_empty() && !is_followed {
            return None;
        }
        let (before, ports) = (self.services(&hosts), ports(&entries));
        let takers = self.census(&ports);
        self.take_up(&entries, changed, inputs)?;
        let after = self.services(&hosts);
        if !takers_stay(&takers, &self.census(&ports)) {
            return None;
        }

        let mut clusters = self.clusters.clone();
        let common = clusters::Common { mesh: &world.mesh, settings, off_limits: None, enforced: None };
        clusters.take_up_all(common, &self.registry, &self.rules, hosts.iter());
        let (scratch, retries) = (Findings::default(), Shared::default());
        let translator = Translator {
            registry: &self.registry,
            clusters: &clusters,
            findings: &scratch,
            default_retries: world.mesh.default_http_retry_policy.as_ref(),
            retries: &retries,
            client: &settings.client,
            entrance: Entrance::Mesh,
        };
        let mut patch = Patch {
            translator: &translator,
            virtual_services: &self.virtual_services,
            by_port: &self.snapshot.by_port,
            touched: BTreeMap::new(),
            translations: self.translations.clone(),
        };
        patch.translate(replaced)?;
        for host in clusters.changed_hosts() {
            let of_host =
                |services: &HashMap<Arc<str>, Services>| services.get(host).cloned().unwrap_or_default();
            patch.host(host, &of_host(&before), &of_host(&after))?;
        }
        for (old, new) in turned {
            old.iter().for_each(|old| patch.forget(old));
            for service in old.iter().chain(new) {
                service.hosts.iter().try_for_each(|host| patch.reroute(&host.value))?;
            }
        }
        let (by_port, translations) = patch.finish();
        self.snapshot = Snapshot { by_port, clusters: clusters.by_name(), ..self.snapshot.clone() };
        (self.clusters, self.translations) = (clusters.unchanged(), translations);
        self.world = Arc::clone(world);
        self.report(policy, findings);
        Some(self.snapshot.clone())
    }

    /// The hosts that the changes are about; `None` when they can't be followed by their names.
    fn hosts(&self, entries: &[Turned<ServiceEntry>], changed: &Changed) -> Option<BTreeSet<Arc<str>>> {
        let mut hosts = BTreeSet::new();
        for (old, new) in entries {
            for entry in old.iter().chain(new) {
                hosts.extend(entry.hosts.iter().map(|host| Arc::clone(&host.value)));
                // A Service has its entry's subjectAltNames, too.
                let is_kubernetes = |host: &Arc<str>| self.registry.of_host(host).any(Service::is_kubernetes);
                if entry.workload_selector.is_some()
                    || entry.hosts.iter().any(|host| is_kubernetes(&host.value))
                {
                    return None;
                }
            }
        }
        if let VirtualServiceChanges::Routes { turned, .. } = &changed.virtual_services {
            let services = turned.iter().flat_map(|(old, new)| old.iter().chain(new));
            hosts.extend(services.flat_map(|service| &service.hosts).map(|host| Arc::clone(&host.value)));
        }
        let rules = changed.destination_rules.iter().flat_map(|(old, new)| old.iter().chain(new));
        hosts.extend(rules.map(|rule| Arc::clone(&rule.host)));
        let is_name = |host: &Arc<str>| !host.starts_with('*') && !self.virtual_services.concern_l4(host);
        (hosts.len() <= HOSTS_MAX && hosts.iter().all(is_name)).then_some(hosts)
    }

    fn services(&self, hosts: &BTreeSet<Arc<str>>) -> HashMap<Arc<str>, Services> {
        let of_host = |host: &Arc<str>| (Arc::clone(host), self.registry.all_of_host(host).to_vec());
        hosts.iter().map(of_host).collect()
    }

    fn census(&self, ports: &BTreeSet<u16>) -> Vec<Census> {
        ports.iter().map(|port| self.registry.census(*port)).collect()
    }

    /// Takes up what was written.
    fn take_up(
        &mut self,
        entries: &[Turned<ServiceEntry>],
        changed: &Changed,
        Inputs { world, settings, scope, .. }: Inputs<'_>,
    ) -> Option<()> {
        if let VirtualServiceChanges::Routes { replaced, turned } = &changed.virtual_services {
            self.virtual_services.replace(replaced);
            self.virtual_services.turn(turned, scope)?;
        }
        let registry = Arc::get_mut(&mut self.registry)?;
        for (old, new) in entries {
            registry.replace((old.as_ref(), new.as_ref()), world, scope);
        }
        if changed.registry {
            let is_seen = |entry: &ServiceEntry| scope.is_exported(entry);
            registry.refused = unix_endpoints::findings(&settings.unix_endpoints, world, is_seen);
        }
        let rules = Arc::get_mut(&mut self.rules)?;
        for (old, new) in &changed.destination_rules {
            rules.replace((old.as_ref(), new.as_ref()), world, &settings.client);
        }
        Some(())
    }

    /// Tells what was found out now and before.
    fn report(&self, policy: Policy<'_>, findings: &Findings) {
        self.virtual_services.report(findings);
        findings.extend(self.registry.refused.iter().cloned());
        findings.extend(self.l4_findings.iter().cloned());
        let of_routes = self.translations.values().flat_map(|translation| &translation.findings);
        findings.extend(of_routes.cloned());
        // What becomes of hosts that nobody declared is as before.
        policy.catch_all(&self.clusters, findings);
    }
}

/// Those that the client sees, as they were and as they are.
fn seen(entries: &[Turned<ServiceEntry>], scope: &Scope<'_>) -> Vec<Turned<ServiceEntry>> {
    let is_seen = |entry: &Arc<ServiceEntry>| !entry.refused && scope.is_exported(entry);
    let seen = entries.iter().map(|(old, new)| (old.clone().filter(is_seen), new.clone().filter(is_seen)));
    seen.filter(|(old, new)| old.is_some() || new.is_some()).collect()
}

fn ports(entries: &[Turned<ServiceEntry>]) -> BTreeSet<u16> {
    let entries = entries.iter().flat_map(|(old, new)| old.iter().chain(new));
    entries.flat_map(|entry| &entry.ports).map(|port| port.number).collect()
}

/// Whether each port goes on having a listener, with routes or without, and nobody's server speaks first there.
fn takers_stay(before: &[Census], after: &[Census]) -> bool {
    before.iter().zip(after).all(|(before, after)| {
        (before.all > 0) == (after.all > 0)
            && (before.http > 0) == (after.http > 0)
            && before.server_first + after.server_first == 0
    })
}

/// The listeners of ports while they are made others.
struct Patch<'a> {
    translator: &'a Translator<'a>,
    virtual_services: &'a VirtualServices,
    by_port: &'a ByPort,
    /// Those that are others now, with their routes.
    touched: BTreeMap<u16, (Listener, Option<RouteTable>)>,
    translations: Translations,
}

impl Patch<'_> {
    fn listener(&mut self, port: u16) -> Option<&mut (Listener, Option<RouteTable>)> {
        let copy = |listener: &Arc<Listener>| {
            let table = listener.http.as_ref().map(|table| (**table).clone());
            ((**listener).clone(), table)
        };
        match self.touched.entry(port) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(new) => Some(new.insert(copy(self.by_port.get(&port)?))),
        }
    }

    fn table(&mut self, port: u16) -> Option<&mut RouteTable> {
        self.listener(port)?.1.as_mut()
    }

    /// Translates VirtualServices that are others, or lead to what is another now.
    fn translate(&mut self, replaced: &[Replaced]) -> Option<()> {
        let changed_hosts = self.translator.clusters.changed_hosts();
        let is_replaced = |service: &VirtualService| {
            replaced.iter().any(|replaced| replaced.new.meta.key == service.meta.key)
        };
        let others = self.virtual_services.leading_to(changed_hosts);
        let others = others.into_iter().filter(|service| !is_replaced(service));
        let ports: Vec<u16> = self.by_port.keys().copied().collect();
        for service in replaced.iter().map(|replaced| &replaced.new).chain(others) {
            for port in &ports {
                let key = (service.meta.key.clone(), *port);
                let Some(before) = self.translations.get(&key) else { continue };
                let (before, now) =
                    (Arc::clone(&before.routes), Translation::of(self.translator, service, *port));
                // Who has routes at all decides about other hosts, too.
                if before.is_empty() != now.routes.is_empty() {
                    return None;
                }
                if !before.is_empty() {
                    self.replace_routes(service, *port, (&before, &now.routes));
                }
                self.translations.insert(key, now);
            }
        }
        Some(())
    }

    /// Gives the hosts that have these routes others.
    fn replace_routes(
        &mut self,
        service: &VirtualService,
        port: u16,
        (before, now): (&Arc<[Route]>, &Arc<[Route]>),
    ) {
        let names = self.names(service);
        let Some(table) = self.table(port) else { return };
        let mut others: HashMap<*const VirtualHost, Arc<VirtualHost>> = HashMap::default();
        let mut other = |host: &Arc<VirtualHost>| {
            let new = || Arc::new(VirtualHost { routes: Arc::clone(now), ..(**host).clone() });
            let is_one = Arc::ptr_eq(&host.routes, before);
            is_one.then(|| Arc::clone(others.entry(Arc::as_ptr(host)).or_insert_with(new)))
        };
        let Some(names) = names else { return table.hosts.replace_values(other) };
        for name in names {
            if let Some(other) = table.hosts.own(&name).and_then(&mut other) {
                table.hosts.set_exact(&name, Some(other));
            }
        }
    }

    /// What its hosts are called in tables; `None` when that is for all names to tell.
    fn names(&self, service: &VirtualService) -> Option<Vec<Arc<str>>> {
        let hosts = service.hosts.iter().map(|host| &host.value);
        if hosts.clone().any(|host| host.starts_with('*')) {
            return None;
        }
        let namespace = &self.translator.client.namespace;
        let services = hosts.clone().flat_map(|host| self.translator.registry.of_host(host));
        let others = services.flat_map(|service| service.other_names(namespace)).map(Arc::from);
        Some(hosts.cloned().chain(others).collect())
    }

    /// What connections and requests to a host get. `None` where its services, as they were or as they are, may concern others.
    fn host(&mut self, host: &Arc<str>, before: &[Arc<Service>], after: &[Arc<Service>]) -> Option<()> {
        let mut all = before.iter().chain(after);
        let is_same = before.len() == after.len()
            && before.iter().zip(after).all(|(before, after)| before.is_found_like(after));
        if !all.clone().all(|service| service.is_found_by_name()) {
            return None;
        }
        let ports: BTreeSet<u16> =
            all.clone().flat_map(|service| &service.entry.ports).map(|port| port.number).collect();
        if is_same {
            after.iter().for_each(|service| self.follow(service));
        } else {
            let is_plain = all.all(|service| service.is_plain());
            if !is_plain || has_other_meaning(host, self.translator) {
                return None;
            }
            for port in &ports {
                self.reshape(host, *port)?;
            }
        }
        for port in ports {
            let is_tls =
                |service: &Arc<Service>| service.port(port).is_some_and(|port| port.protocol.is_tls());
            if before.iter().chain(after).any(is_tls) {
                let first = after.iter().find(|service| is_tls(service));
                let route = first.and_then(|service| {
                    Some(l4_routes::default_route(self.translator.clusters, service, service.port(port)?))
                });
                self.listener(port)?.0.tls.set_exact(host, route);
            }
        }
        Some(())
    }

    /// A service's own routes where it is known already, by all its names.
    fn follow(&mut self, service: &Service) {
        for port in service.entry.ports.iter().map(|port| port.number) {
            if !routes::has_http(service, port) {
                continue;
            }
            let new = routes::known_host(self.translator, (service, port), None);
            let names = service.other_names(&self.translator.client.namespace);
            let Some(table) = self.table(port) else { continue };
            for name in names.into_iter().map(Arc::from).chain([Arc::clone(&service.host)]) {
                let known = table.hosts.own(&name).filter(|known| routes::is_default(known));
                if known.is_some_and(|known| known.name == new.name && known.source == new.source) {
                    table.hosts.set_exact(&name, Some(Arc::clone(&new)));
                }
            }
        }
    }

    /// What a VirtualService that has gone was translated to.
    fn forget(&mut self, service: &VirtualService) {
        for port in self.by_port.keys() {
            self.translations.remove(&(service.meta.key.clone(), *port));
        }
    }

    /// A host's routes where its VirtualServices came or went. `None` where it may be another's, too.
    fn reroute(&mut self, host: &Arc<str>) -> Option<()> {
        let services = self.translator.registry.all_of_host(host);
        if !services.iter().all(|service| service.is_plain()) || has_other_meaning(host, self.translator) {
            return None;
        }
        let ports = services.iter().flat_map(|service| &service.entry.ports).map(|port| port.number);
        let mut ports: BTreeSet<u16> = ports.collect();
        ports.insert(PORT_OF_UNKNOWN_HOSTS);
        ports.into_iter().try_for_each(|port| self.reshape(host, port))
    }

    /// A host's routes on a port, where services came or went.
    fn reshape(&mut self, host: &Arc<str>, port: u16) -> Option<()> {
        let (translator, virtual_services) = (self.translator, self.virtual_services);
        let of_host = virtual_services.alone_with(host).ok()?;
        if self.table(port).is_none() {
            return Some(());
        }
        let service = translator.registry.of_host(host).find(|service| routes::has_http(service, port));
        let is_known = translator.registry.of_host(host).any(|service| service.port(port).is_some());
        let is_asked = service.is_some() || (port == PORT_OF_UNKNOWN_HOSTS && !is_known);
        let routes = of_host.and_then(|of_host| {
            let key = (of_host.meta.key.clone(), port);
            if !is_asked {
                self.translations.remove(&key);
                return None;
            }
            let known = self.translations.get(&key).cloned();
            let known = known.unwrap_or_else(|| Translation::of(translator, of_host, port));
            let routes = Arc::clone(&known.routes);
            self.translations.insert(key, known);
            (!routes.is_empty()).then_some(routes)
        });
        let value = match (service, of_host.zip(routes.clone())) {
            (Some(service), _) => Some(routes::known_host(translator, (service, port), routes)),
            (None, Some((of_host, routes))) => Some(routes::unknown_host(of_host, (host, port), routes)),
            (None, None) => None,
        };
        self.table(port)?.hosts.set_exact(host, value);
        Some(())
    }

    fn finish(self) -> (ByPort, Translations) {
        let mut by_port = self.by_port.clone();
        for (port, (listener, table)) in self.touched {
            by_port.insert(port, Arc::new(Listener { http: table.map(Arc::new), ..listener }));
        }
        (by_port, self.translations)
    }
}

/// Whether a host may be another service's address, or its name for short.
fn has_other_meaning(host: &Arc<str>, translator: &Translator<'_>) -> bool {
    let Translator { registry, client, .. } = translator;
    let whole = |end: &str| registry.of_host(&format!("{host}{end}")).any(Service::is_kubernetes);
    host.parse::<std::net::IpAddr>().is_ok()
        || [".cluster.local", ".svc.cluster.local", &format!(".{}.svc.cluster.local", client.namespace)]
            .into_iter()
            .any(whole)
}
