//! Makes a connection for the pool: dialled, its HTTP version spoken, driven by a task of its own.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::before_answer::{AnsweringIo, BeforeAnswer};
use super::{ConnectionFacts, LocalExecutor, PoolKey, Pools, Wanted};
use crate::proxy::http::upload::RequestBody;
use crate::proxy::upstream::bounds::ConnectionSlot;
use crate::proxy::upstream::error::{ResetReason, UpstreamError};
use crate::proxy::upstream::{ClusterRuntime, Connected, Pick};

/// What a connection may buffer while reading, which is also the largest response head.
const READ_BUFFER_MAX: usize = 64 * 1024;

const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
const HTTP2_SEND_BUFFER_MAX: usize = 64 * 1024;
const HTTP2_HEADER_LIST_MAX: u32 = 60 * 1024;

pub(super) async fn connect_http1(
    pools: &Rc<Pools>,
    runtime: &Arc<ClusterRuntime>,
    pick: &Pick,
    key: &PoolKey,
    wanted: &Wanted<'_>,
    slot: Option<ConnectionSlot>,
) -> Result<(http1::SendRequest<RequestBody>, Rc<ConnectionFacts>), UpstreamError> {
    let connected = runtime.open(pick, wanted).await?;
    let facts = facts(runtime, key, wanted, &connected, slot);
    let mut builder = http1::Builder::new();
    builder.max_buf_size(READ_BUFFER_MAX);
    builder.preserve_header_case(key.preserve_header_case);
    let (sender, connection) = builder
        .handshake(TokioIo::new(AnsweringIo::new(connected.io, facts.before_answer.clone())))
        .await
        .map_err(|_error| UpstreamError::Reset(ResetReason::ConnectionTermination))?;
    drive(pools, &facts, connection.with_upgrades());
    Ok((sender, facts))
}

pub(super) async fn connect_http2(
    pools: &Rc<Pools>,
    runtime: &Arc<ClusterRuntime>,
    pick: &Pick,
    key: &PoolKey,
    wanted: &Wanted<'_>,
    slot: Option<ConnectionSlot>,
) -> Result<(http2::SendRequest<RequestBody>, Rc<ConnectionFacts>), UpstreamError> {
    let connected = runtime.open(pick, wanted).await?;
    let facts = facts(runtime, key, wanted, &connected, slot);
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(HTTP2_SEND_BUFFER_MAX)
        .max_header_list_size(HTTP2_HEADER_LIST_MAX);
    if let Some(keepalive) = runtime.cluster().http2_keepalive {
        builder.keep_alive_interval(keepalive.interval).keep_alive_timeout(keepalive.timeout);
    }
    let (sender, connection) = builder
        .handshake(TokioIo::new(connected.io))
        .await
        .map_err(|_error| UpstreamError::Reset(ResetReason::ProtocolError))?;
    drive(pools, &facts, connection);
    Ok((sender, facts))
}

fn facts(
    runtime: &Arc<ClusterRuntime>,
    key: &PoolKey,
    wanted: &Wanted<'_>,
    connected: &Connected,
    slot: Option<ConnectionSlot>,
) -> Rc<ConnectionFacts> {
    let cluster = runtime.cluster();
    // A connection that was announced as one client's is nobody else's.
    let requests_max =
        if cluster.proxy_protocol.is_some() { Some(1) } else { cluster.max_requests_per_connection };
    let age_max =
        [cluster.http_max_connection_duration, runtime.identity_remaining()].into_iter().flatten().min();
    Rc::new(ConnectionFacts {
        key: key.clone(),
        server_name: wanted.server_name.map(Into::into),
        tls_version: wanted.tls_version,
        peer: connected.peer.clone(),
        local: connected.local,
        requests_max,
        requests: Cell::new(0),
        misdirected: Cell::new(false),
        idle_timeout: cluster.http_idle_timeout,
        expires: age_max.and_then(|max| Instant::now().checked_add(max)),
        slot,
        before_answer: BeforeAnswer::default(),
    })
}

/// Runs a connection beside the requests that use it. Its errors reach them through their responses.
fn drive(
    pools: &Rc<Pools>,
    facts: &Rc<ConnectionFacts>,
    connection: impl Future<Output = Result<(), hyper::Error>> + 'static,
) {
    let bounded = facts.slot.is_some().then(|| (Rc::downgrade(pools), Rc::clone(facts)));
    tokio::task::spawn_local(async move {
        let ended = match bounded {
            None => connection.await,
            Some((pools, facts)) => super::bounded::drive(connection, &pools, facts).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
}
