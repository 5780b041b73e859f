//! The route table of a gateway's HTTP port (Istio's buildGatewayHTTPRouteConfig).

use std::collections::HashMap;
use std::sync::Arc;

use super::{Inputs, Of};
use crate::compile::http_routes::{Entrance, Translator};
use crate::resource::ResourceKey;
use crate::snapshot::{
    CatchAll, Redirect, Route, RouteAction, RouteMatch, RouteTable, Source, StringMatch, VirtualHost,
};

/// A host's routes in the making.
struct Draft {
    name: Arc<str>,
    routes: Vec<Route>,
    /// The first that gives it routes.
    source: Option<Arc<Source>>,
    redirects_to_https: bool,
    /// What has given it routes, and through which Gateway.
    given: Vec<(ResourceKey, ResourceKey)>,
}

impl Draft {
    fn new(host: &str, port: u16) -> Self {
        let name = format!("{host}:{port}").into();
        Self { name, routes: Vec::new(), source: None, redirects_to_https: false, given: Vec::new() }
    }

    fn finish(self) -> VirtualHost {
        let mut routes = self.routes;
        // Stable: what takes every request comes last, whoever gives it.
        routes.sort_by_key(takes_all);
        let routes = if self.redirects_to_https { vec![to_https()] } else { routes };
        VirtualHost { name: self.name, routes: routes.into(), source: self.source }
    }
}

/// All hosts of servers on one port. Unlike in the mesh, the routes of several VirtualServices for a host add up.
pub(super) fn table(inputs: Inputs<'_>, name: String, servers: &[Of<'_>]) -> RouteTable {
    let mut hosts: HashMap<Arc<str>, Draft> = HashMap::new();
    for of in servers {
        add_routes(inputs, *of, &mut hosts);
        if of.server.tls.as_ref().is_some_and(|tls| tls.https_redirect) {
            for host in &of.server.hosts {
                let new = || Draft::new(&host.host, of.server.port);
                hosts.entry(Arc::clone(&host.host)).or_insert_with(new).redirects_to_https = true;
            }
        }
    }
    let port = servers.first().map(|of| of.server.port).unwrap_or_default();
    let catch_all = CatchAll::gateway(format!("blackhole:{port}").into());
    let mut table = RouteTable::new(name.into(), catch_all);
    for (host, draft) in hosts {
        table.hosts.insert(host, Arc::new(draft.finish()));
    }
    table
}

fn add_routes(inputs: Inputs<'_>, of: Of<'_>, hosts: &mut HashMap<Arc<str>, Draft>) {
    let entrance = Entrance::Gateway(&of.gateway.meta.key);
    let translator = Translator { entrance, ..*inputs.translator };
    let redirects = of.server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
    for (service, taken) in of.bound(inputs.virtual_services) {
        let routes = translator.routes(service, of.server.port);
        let given = (service.meta.key.clone(), of.gateway.meta.key.clone());
        for host in taken {
            let new = || Draft::new(&host, of.server.port);
            let draft = hosts.entry(Arc::clone(&host)).or_insert_with(new);
            draft.redirects_to_https |= redirects;
            if draft.given.contains(&given) {
                continue;
            }
            draft.source.get_or_insert_with(|| Source::whole(&service.meta.key));
            draft.routes.extend(routes.iter().cloned());
            draft.given.push(given.clone());
        }
    }
}

/// Whether every request matches, by the conditions alone (Istio's isCatchAllRoute).
fn takes_all(route: &Route) -> bool {
    let is_any_path = |condition: &RouteMatch| {
        let path = match &condition.uri {
            Some(StringMatch::Prefix(prefix)) => &**prefix == "/",
            Some(StringMatch::Regex(regex)) => matches!(regex.as_str(), ".*" | "^(?:.*)$"),
            Some(StringMatch::Exact(_)) => false,
            Some(StringMatch::Present) | None => true,
        };
        path && *condition == RouteMatch { uri: condition.uri.clone(), ..RouteMatch::default() }
    };
    route.matches.is_empty() || route.matches.iter().any(is_any_path)
}

/// `httpsRedirect` (Envoy's require_tls).
fn to_https() -> Route {
    let redirect =
        Redirect { status: 301, scheme: Some("https".into()), authority: None, port: None, path: None };
    Route::new("".into(), RouteAction::Redirect(Arc::new(redirect)))
}
