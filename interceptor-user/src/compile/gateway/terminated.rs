//! A server that ends its clients' TLS: how, and where what was inside goes. Of protocol HTTPS it is HTTP, of protocol TLS it
//! is carried as it is.

use std::sync::Arc;

use super::{Inputs, Of, http, l4};
use crate::compile::{Files, tls_termination};
use crate::resource::service_entry::Protocol;
use crate::resource::{Level, code};
use crate::snapshot::{Terminated, Then};

/// `None` when what is inside would go nowhere. `number` is where the gateway itself listens.
pub(super) fn chain(inputs: Inputs<'_>, of: Of<'_>, number: u16) -> Option<Terminated> {
    let has_http = of.server.protocol == Protocol::Https;
    let settings = inputs.settings;
    let files = Files::of(&settings.client, &settings.tls_files);
    let aliases = &inputs.world.mesh.trust_domain_aliases;
    let tls = of.server.tls.as_ref()?;
    let tls = tls_termination::termination(tls, has_http, files, aliases)?;
    let then = if has_http {
        let (gateway, port_name) = (&of.gateway.meta, &of.server.port_name);
        // Istio's name of it.
        let name = format!("https.{number}.{port_name}.{}.{}", gateway.name(), gateway.namespace());
        Then::Http(Arc::new(http::table(inputs, name, &[of])))
    } else {
        Then::Tcp(l4::tcp(inputs, of)?)
    };
    if let Some(reason) = &tls.impossible {
        let message = format!("TLS can't be ended as this server asks: {reason}; each handshake fails");
        inputs.translator.findings.push(of.finding(&code::EGR0104, Level::Error, "tls", message));
    }
    Some(Terminated { tls: Arc::new(tls), then })
}
