//! What is redirected in one run, once it is known whether the egress gateway is enforced: the client's annotation or its
//! Namespace's says so.

use std::path::Path;

use anyhow::bail;

use crate::dns;
use crate::resource::ENFORCE;
use crate::settings::ExecSettings;
use crate::snapshot::Snapshot;
use crate::workload::{Enforced, IncludeIpRanges, RedirectPolicy};

/// Where the command finds its name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// # Errors
/// When the run is enforced, and something else that was asked for would go around the gateway.
pub(super) fn redirect(settings: &ExecSettings, snapshot: &Snapshot) -> anyhow::Result<RedirectPolicy> {
    let redirect = settings.redirect.clone();
    if !snapshot.enforced {
        return Ok(redirect);
    }
    if settings.external_proxy.is_some() {
        bail!(
            "{ENFORCE} can't be had with --external-proxy: that proxy does not know what goes to the gateway"
        );
    }
    let leaves_anything = !redirect.exclude_ip_ranges.is_empty()
        || !redirect.exclude_ports.is_empty()
        || !redirect.exclude_interfaces.is_empty()
        || redirect.include_ip_ranges != IncludeIpRanges::All;
    if leaves_anything {
        bail!(
            "{ENFORCE} and excluded or included destinations contradict each other: what is left alone would go around \
             the gateway; remove one of them (flags and annotations both count)"
        );
    }
    let name_servers = dns::name_servers(Path::new(RESOLV_CONF)).unwrap_or_else(|error| {
        tracing::warn!("the command can't ask any name server itself: {error}");
        Vec::new()
    });
    Ok(RedirectPolicy { enforced: Some(Enforced::new(name_servers)), ..redirect })
}
