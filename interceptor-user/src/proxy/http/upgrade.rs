//! A connection that changes its protocol (WebSocket): from the 101 on, bytes pass as they are.

use std::time::{Duration, Instant};

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::body::ResponseBody;
use super::headers;
use super::log::RequestLog;
use super::tapped_stream::TappedStream;
use crate::proxy::copy::{self, CopyEnd, Transferred};
use crate::proxy::maybe_tls::ClientIo;
use crate::proxy::outcome::ResponseFlag;
use crate::proxy::upstream::UpstreamIo;
use crate::proxy::upstream::pool::{AnsweringIo, Lease};
use crate::snapshot::ProxyHeaders;

/// As Istio sets it for streams: none.
const NO_IDLE_TIMEOUT: Duration = Duration::ZERO;

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
    let client = client.downcast::<TokioIo<TappedStream>>();
    let upstream = upstream.downcast::<TokioIo<AnsweringIo>>();
    let (Ok(client), Ok(upstream)) = (client, upstream) else {
        tracing::error!("an upgraded connection is not one of ours");
        return;
    };
    // What came right behind the heads.
    let (received, sent) = (client.read_buf, upstream.read_buf);
    let (client, mut upstream) = (client.io.into_inner().take(), upstream.io.into_inner().into_inner());
    let Some(mut client) = client else { return };
    if let Err(error) = tokio::try_join!(upstream.write_all(&received), client.write_all(&sent)) {
        tracing::debug!(%error, "upgraded connection broke off");
        return;
    }
    log.carried(received.len() as u64, sent.len() as u64);
    let progress = Transferred::default();
    let end = match (&mut client, &mut upstream) {
        (ClientIo::Plain(client), UpstreamIo::Plain(upstream)) => {
            copy::splice_bidirectional(client, upstream, NO_IDLE_TIMEOUT, &progress).await
        }
        (ClientIo::Tls(client), upstream) => {
            let end =
                copy::copy_bidirectional_any(&mut **client, &mut *upstream, NO_IDLE_TIMEOUT, &progress).await;
            match &end {
                CopyEnd::Closed | CopyEnd::IdleTimeout => {}
                CopyEnd::DownstreamReset | CopyEnd::DownstreamFailed(_) => reset_on_close(upstream.socket()),
                CopyEnd::UpstreamReset | CopyEnd::UpstreamFailed(_) => reset_on_close(client.get_ref().0),
            }
            end
        }
        (ClientIo::Plain(client), UpstreamIo::Tls(upstream)) => {
            let end = copy::copy_bidirectional_io(client, &mut **upstream, NO_IDLE_TIMEOUT, &progress).await;
            if matches!(end, CopyEnd::DownstreamReset | CopyEnd::DownstreamFailed(_)) {
                reset_on_close(upstream.get_ref().0);
            }
            end
        }
    };
    log.carried(progress.received.get(), progress.sent.get());
    match end {
        CopyEnd::Closed | CopyEnd::IdleTimeout => {}
        CopyEnd::DownstreamReset | CopyEnd::DownstreamFailed(_) => {
            log.broke_off(ResponseFlag::DownstreamConnectionTermination, "downstream_remote_disconnect");
        }
        CopyEnd::UpstreamReset | CopyEnd::UpstreamFailed(_) => log.broke_off(
            ResponseFlag::UpstreamConnectionTermination,
            "upstream_reset_after_response_started{connection_termination}",
        ),
    }
    drop(lease);
}

fn reset_on_close(socket: &TcpStream) {
    if let Err(error) = socket.set_zero_linger() {
        tracing::debug!(%error, "a reset is passed on as an end: SO_LINGER");
    }
}
