//! Opens one TCP connection to one of several addresses of the same endpoint (RFC 8305): the next
//! address is tried as soon as the one before fails, or beside it when it is slow.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::UpstreamError;

/// How long an address has before the next one is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that answers within `connect_timeout`. `addresses` holds the
/// preferred address and at most one of the other family.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    connect_timeout: Duration,
) -> Result<(TcpStream, SocketAddr), UpstreamError> {
    let deadline = Instant::now() + connect_timeout;
    let connected = match addresses {
        [] => return Err(UpstreamError::NoHealthyUpstream(None)),
        [only] => timeout_at(deadline, connect_one(*only)).await,
        [first, second, ..] => timeout_at(deadline, race(*first, *second)).await,
    };
    match connected {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(UpstreamError::connect(&error)),
        Err(_elapsed) => Err(UpstreamError::ConnectTimeout),
    }
}

async fn connect_one(address: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok((stream, address))
}

/// `first` with a head start, then both; the error is that of `first`.
async fn race(first: SocketAddr, second: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let head_start = Instant::now() + ATTEMPT_DELAY;
    let attempt = connect_one(first);
    tokio::pin!(attempt);
    tokio::select! {
        biased;
        connected = &mut attempt => return match connected {
            Ok(connected) => Ok(connected),
            Err(error) => connect_one(second).await.map_err(|_second| error),
        },
        () = sleep_until(head_start) => {}
    }
    let other = connect_one(second);
    tokio::pin!(other);
    tokio::select! {
        connected = &mut attempt => match connected {
            Ok(connected) => Ok(connected),
            Err(error) => other.await.map_err(|_second| error),
        },
        connected = &mut other => match connected {
            Ok(connected) => Ok(connected),
            Err(_second) => attempt.await,
        },
    }
}
