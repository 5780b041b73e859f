//! Routes: which of a virtual host's takes a request, in the order in which they are asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{Row, name_of};
use crate::snapshot::{Route, RouteAction, RouteMatch, RouteTable, Snapshot, StringMatch, VirtualHost};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    /// The route table: `80`, or `host:port` of a service with an address of its own.
    pub name: String,
    pub vhost_name: String,
    pub domains: Vec<String>,
    #[serde(rename = "match")]
    pub condition: String,
    /// `name.namespace`; `404` where no route is; empty for a route that no VirtualService makes.
    pub virtual_service: String,
    /// As the access log has it.
    pub route: String,
    pub destination: String,
}

impl Row for RouteRow {
    const HEADS: &'static [&'static str] = &["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"];

    fn columns(&self) -> Vec<String> {
        let domains = match self.domains.as_slice() {
            [] => String::new(),
            [only] => only.clone(),
            [first, others @ ..] => format!("{first}, + {} more...", others.len()),
        };
        vec![
            self.name.clone(),
            self.vhost_name.clone(),
            domains,
            self.condition.clone(),
            self.virtual_service.clone(),
        ]
    }
}

/// Those of the route table `name`, or of all.
pub fn routes(snapshot: &Snapshot, name: Option<&str>) -> Vec<RouteRow> {
    let listeners = snapshot.by_address.values().chain(snapshot.by_port.values());
    let tables = listeners.chain([&snapshot.virtual_outbound]).filter_map(|listener| listener.http.as_ref());
    // Several listeners may share one; ports are told in their order as numbers.
    let tables: BTreeMap<(Option<u16>, &str), &Arc<RouteTable>> =
        tables.map(|table| ((table.name.parse().ok(), &*table.name), table)).collect();
    let wanted = tables.values().filter(|table| name.is_none_or(|name| *name == *table.name));
    wanted.flat_map(|table| of_table(table)).collect()
}

fn of_table(table: &RouteTable) -> Vec<RouteRow> {
    let mut domains: BTreeMap<&str, (Vec<String>, &Arc<VirtualHost>)> = BTreeMap::new();
    for (host, virtual_host) in table.hosts.iter() {
        domains.entry(&virtual_host.name).or_insert_with(|| (Vec::new(), virtual_host)).0.push(host);
    }
    let catch_all = (vec!["*".to_owned()], &table.catch_all);
    domains
        .into_values()
        .map(|(mut domains, virtual_host)| {
            // The service's own name first, then its addresses.
            domains.sort_by_key(|domain| {
                (!virtual_host.name.starts_with(&format!("{domain}:")), domain.clone())
            });
            (domains, virtual_host)
        })
        .chain([catch_all])
        .flat_map(|(domains, virtual_host)| of_virtual_host(table, domains, virtual_host))
        .collect()
}

fn of_virtual_host(table: &RouteTable, domains: Vec<String>, virtual_host: &VirtualHost) -> Vec<RouteRow> {
    let row = |condition: String, virtual_service: String, route: &str, destination: String| RouteRow {
        name: table.name.to_string(),
        vhost_name: virtual_host.name.to_string(),
        domains: domains.clone(),
        condition,
        virtual_service,
        route: route.to_owned(),
        destination,
    };
    if virtual_host.routes.is_empty() {
        return vec![row("/*".into(), "404".into(), "", String::new())];
    }
    let each = virtual_host.routes.iter().map(|route| {
        let rule = route.source.as_ref().filter(|source| source.rule.is_some());
        let by = rule.map(|source| name_of(&source.resource)).unwrap_or_default();
        row(condition(route), by, &route.name, destination(route))
    });
    each.collect()
}

fn destination(route: &Route) -> String {
    match &route.action {
        RouteAction::Forward(forward) => super::destination(&forward.clusters),
        RouteAction::Passthrough => crate::snapshot::ClusterName::PASSTHROUGH.to_owned(),
        RouteAction::DirectResponse(direct) => format!("Direct response: {}", direct.status),
        RouteAction::Redirect(redirect) => format!("Redirect: {}", redirect.status),
        RouteAction::Refused(refusal) => format!("Refused: {}", refusal.status().as_u16()),
    }
}

/// What a route takes: its paths as istioctl writes them, and with what else it wants.
fn condition(route: &Route) -> String {
    if route.matches.is_empty() {
        return "/*".into();
    }
    route.matches.iter().map(of_match).collect::<Vec<_>>().join(" or ")
}

fn of_match(wanted: &RouteMatch) -> String {
    let path = match &wanted.uri {
        None | Some(StringMatch::Present) => "/*".to_owned(),
        Some(StringMatch::Exact(path)) => path.to_string(),
        Some(StringMatch::Prefix(path)) => format!("{path}*"),
        Some(regex @ StringMatch::Regex(_)) => regex.to_string(),
    };
    let others = [("method", &wanted.method), ("authority", &wanted.authority), ("scheme", &wanted.scheme)];
    let others = others.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?)));
    let headers = wanted.headers.iter().map(ToString::to_string);
    let query = wanted.query_params.iter().map(|(name, value)| format!("queryParams {name} {value}"));
    let rest: Vec<String> = others.chain(headers).chain(query).collect();
    if rest.is_empty() { path } else { format!("{path} {}", rest.join("; ")) }
}
