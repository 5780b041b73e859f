//! The step about a cluster's endpoints: their addresses, or the names whose addresses they are.

use std::net::SocketAddr;

use super::explanation::{Explanation, PassedOver, Step};
use super::now::Now;
use super::off_limits::{self, Way};
use super::{Context, places, words};
use crate::compile::unix_endpoints;
use crate::resource::Resource;
use crate::snapshot::{Discovery, EndpointAddress};

pub(super) fn step(context: Context<'_>, way: Way<'_>, now: &Now, explanation: &Explanation) -> Step {
    let Way { cluster, destination, name: goes_on, .. } = way;
    let mut step = match &cluster.discovery {
        Discovery::OriginalDst { port } => {
            original_address(explanation, port.unwrap_or(destination.port()), destination)
        }
        Discovery::Static(endpoints) if endpoints.is_empty() => {
            Step::new("endpoints", "none: there is nobody to send to")
        }
        Discovery::Static(endpoints) => {
            let weights = endpoints.iter().any(|endpoint| endpoint.weight != 1);
            let each = endpoints.iter().map(|endpoint| match weights {
                true => format!("{} (weight {})", endpoint.address.written(), endpoint.weight),
                false => endpoint.address.written(),
            });
            let mut step = Step::new("endpoints", words::few(each));
            if endpoints.iter().any(|endpoint| matches!(endpoint.address, EndpointAddress::Unix(_))) {
                step.notes.push(
                    "unix sockets are looked for in the mount namespace of the proxy, not in the workload's"
                        .into(),
                );
            }
            step
        }
        Discovery::StrictDns(targets) => {
            let each = targets.iter().map(|target| format!("{}:{}", target.host, target.port));
            Step::new("endpoints", format!("every address of {}", words::few(each)))
        }
        Discovery::LogicalDns(target) => {
            Step::new("endpoints", format!("an address of {}:{}", target.host, target.port))
        }
        Discovery::DynamicDns { port } => {
            let name = goes_on.unwrap_or(&context.question.target.host);
            let port = port.unwrap_or(destination.port());
            Step::new("endpoints", format!("an address of {name}:{port}: the name that is asked for"))
        }
    };
    step.notes.extend(off_limits::notes(context, way));
    if let Some(Resource::ServiceEntry(entry)) =
        cluster.source.as_ref().and_then(|source| context.world.resources.get(&source.service))
    {
        step.notes.push(format!("{} has resolution {}", entry.meta.key, entry.resolution));
        let refused = unix_endpoints::refused(&context.settings.unix_endpoints, entry, context.world);
        step.passed_over.extend(refused.into_iter().map(|refused| PassedOver {
            place: places::place(refused.meta, Some(refused.field), refused.endpoint.position),
            why: format!("{}: --allow-unix-endpoints does not allow it", refused.endpoint.address),
        }));
    }
    step.notes.extend(now.notes.iter().cloned());
    step
}

/// Where the application asked to go to.
pub(super) fn original_address(explanation: &Explanation, port: u16, destination: SocketAddr) -> Step {
    let whom = match explanation.destination.address {
        Some(_) => SocketAddr::new(destination.ip(), port).to_string(),
        None => format!("the address that was asked for, port {port}"),
    };
    Step::new("endpoints", whom)
}
