//! Whether a strict policy refuses a name at the address that was asked for, as far as that is known here: the rule is
//! `proxy::names`.

use std::net::{IpAddr, SocketAddr};

use http::header::HOST;

use super::Context;
use super::target::Spoken;
use crate::snapshot::Cluster;
use crate::snapshot::route::host_of;

/// Where the original address is used; `cluster`: who uses it.
pub(super) fn refuses(context: Context<'_>, destination: SocketAddr, cluster: Option<&Cluster>) -> bool {
    let question = context.question;
    let (true, Some(_), Some(name)) = (context.snapshot.strict, &question.address, name(context)) else {
        return false;
    };
    let (address, port) = (destination.ip(), destination.port());
    if context.snapshot.listener(address, port).server_first {
        // Nothing is read of what the client says.
        return false;
    }
    let literal: Option<IpAddr> = name.trim_start_matches('[').trim_end_matches(']').parse().ok();
    if let Some(literal) = literal {
        return literal.to_canonical() != address;
    }
    // What other names are is not looked up.
    let Some(addresses) = question.resolved.as_ref().filter(|_| name == question.target.host) else {
        return false;
    };
    let is_declared = context.snapshot.by_address.get(&(address, port)).is_some_and(|own| {
        own.tls.get(&name).is_some() || cluster.is_some_and(|cluster| *cluster.host == *name)
    });
    !is_declared && !addresses.contains(&address)
}

/// What the client calls its destination.
fn name(context: Context<'_>) -> Option<String> {
    match context.spoken().0 {
        Spoken::Tcp => None,
        Spoken::Tls => context.server_name(),
        Spoken::Http => {
            let given = context.question.headers.get(HOST).and_then(|host| host.to_str().ok());
            Some(given.map_or(&*context.question.target.host, host_of).to_ascii_lowercase())
        }
    }
}
