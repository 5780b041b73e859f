//! A connection that changes its protocol (WebSocket): from the 101 on, bytes pass as they are.

use std::time::Instant;

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::body::ResponseBody;
use super::headers;
use super::log::RequestLog;
use crate::proxy::upstream::pool::Lease;
use crate::snapshot::ProxyHeaders;

/// The 101 for the client; what follows it is copied both ways until both ends are done.
pub(super) fn switch(
    mut response: Response<Incoming>,
    lease: Lease,
    client: OnUpgrade,
    settings: &ProxyHeaders,
    started: Instant,
    mut log: RequestLog,
) -> Response<ResponseBody> {
    log.upgraded();
    let upstream = hyper::upgrade::on(&mut response);
    let (mut parts, _no_body) = response.into_parts();
    headers::prepare_response(&mut parts.headers, settings, started.elapsed(), true);
    parts.version = http::Version::HTTP_11;
    tokio::task::spawn_local(carry(client, upstream, lease, log));
    Response::from_parts(parts, ResponseBody::unlogged())
}

async fn carry(client: OnUpgrade, upstream: OnUpgrade, lease: Lease, mut log: RequestLog) {
    let (client, upstream) = match tokio::try_join!(client, upstream) {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "the protocol could not be changed");
            return;
        }
    };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    match tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
        Ok((received, sent)) => log.carried(received, sent),
        Err(error) => tracing::debug!(%error, "upgraded connection broke off"),
    }
    drop(lease);
}
