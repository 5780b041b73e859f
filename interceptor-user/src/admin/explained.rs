//! `/explain?pod=NAMESPACE/NAME`: what becomes of a connection of a pod, by what is in force.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};

use super::body::{self, Body};
use super::pods;
use super::query::Query;
use super::refusal::Refusal;
use crate::agent::view::View;
use crate::dns;
use crate::explain::{Asked, Outside, ServerFiles, Subject};
use crate::output::Output;
use crate::proxy;
use crate::proxy::upstream::look_at_files;
use crate::snapshot::TlsTermination;

/// `true`: the connection is carried or left alone; `false`: it, or a share of it, is refused or answered by the proxy
/// with an error.
pub const CARRIED: HeaderName = HeaderName::from_static("x-interceptor-carried");

/// What can't be used here can't be used at all.
fn look_at_server(tls: &TlsTermination) -> ServerFiles {
    match proxy::look_at_server(tls) {
        Ok(trust_domains) => ServerFiles::Usable { trust_domains },
        Err(reason) => ServerFiles::Unusable(reason),
    }
}

/// May block: names may be looked up, and files of certificates read.
pub(super) fn answer(view: &View, mut query: Query, request: &Bytes) -> Result<Response<Body>, Refusal> {
    let Some(pod) = query.take("pod") else {
        return Err(Refusal::bad_request("whose connection? Say ?pod=NAMESPACE/NAME"));
    };
    let output: Output = query.parsed("output")?.unwrap_or_default();
    query.finish()?;
    let asked: Asked = serde_json::from_slice(request).map_err(|error| {
        Refusal::bad_request(format!(
            "the question can't be read: {error}; {{\"target\": \"http://HOST\"}} is one"
        ))
    })?;
    let pod = pods::find(view, &pod)?;
    let compiled = pods::compiled(pod)?;
    asked.check(&compiled.settings).map_err(Refusal::bad_request)?;
    let subject = Subject {
        world: &view.world,
        snapshot: &compiled.snapshot,
        settings: &compiled.settings,
        redirect: &pod.redirect,
        redirect_by: &pod.redirect_by,
        in_use: &compiled.in_use(),
    };
    let outside = Outside { look_up: dns::look_up, look_at_server, look_at_files, is_proxy_here: true };
    let explanation = asked.answer(subject, outside);
    let text = output.render(&explanation, ToString::to_string)?;
    let mut response = body::rendered(text, output);
    let carried = if explanation.is_carried() { "true" } else { "false" };
    response.headers_mut().insert(CARRIED, HeaderValue::from_static(carried));
    Ok(response)
}
