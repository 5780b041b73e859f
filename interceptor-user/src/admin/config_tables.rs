//! `/config/TABLE?pod=NAMESPACE/NAME`: what a pod's resources are compiled to, as `interceptor config` shows it.

use std::net::IpAddr;

use http::Response;

use super::body::{self, Body};
use super::pods;
use super::query::Query;
use super::refusal::Refusal;
use crate::agent::view::View;
use crate::output::Output;
use crate::tables::{self, ClusterFilter, EndpointFilter, ListenerFilter, RegistryFilter, Row};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Listeners,
    Routes,
    Clusters,
    Endpoints,
    Registry,
}

pub(super) fn answer(view: &View, table: Table, mut query: Query) -> Result<Response<Body>, Refusal> {
    let Some(pod) = query.take("pod") else {
        return Err(Refusal::bad_request("whose? Say ?pod=NAMESPACE/NAME"));
    };
    let output = query.parsed("output")?.unwrap_or_default();
    let compiled = pods::compiled(pods::find(view, &pod)?)?;
    let snapshot = &*compiled.snapshot;
    match table {
        Table::Listeners => {
            let address = query.parsed::<IpAddr>("address")?.map(|address| address.to_string());
            let filter = ListenerFilter { address, port: query.parsed("port")? };
            query.finish()?;
            render(&tables::listeners(snapshot, &filter), output)
        }
        Table::Routes => {
            let name = query.take("name");
            query.finish()?;
            render(&tables::routes(snapshot, name.as_deref()), output)
        }
        Table::Clusters => {
            let fqdn = query.take("fqdn");
            let filter = ClusterFilter { fqdn, port: query.parsed("port")?, subset: query.take("subset") };
            query.finish()?;
            render(&tables::clusters(snapshot, &filter), output)
        }
        Table::Endpoints => {
            let filter = EndpointFilter {
                cluster: query.take("cluster"),
                status: query.take("status"),
                address: query.take("address"),
                port: query.parsed("port")?,
            };
            query.finish()?;
            render(&tables::endpoints(snapshot, Some(&compiled.in_use()), &filter), output)
        }
        Table::Registry => {
            let filter = RegistryFilter { fqdn: query.take("fqdn"), port: query.parsed("port")? };
            query.finish()?;
            render(&tables::registry(&view.world, snapshot, &filter), output)
        }
    }
}

fn render<R: Row>(rows: &Vec<R>, output: Output) -> Result<Response<Body>, Refusal> {
    Ok(body::rendered(output.render(rows, |rows| tables::text(rows))?, output))
}
