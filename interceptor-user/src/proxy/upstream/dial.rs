//! Opens one TCP connection to one of several addresses of the same endpoint (RFC 8305): the next
//! address is tried as soon as the one before fails, or beside it when it is slow.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::UpstreamError;

/// What idle connections are probed with. Envoy's default is not to probe, but here an application's own
/// keepalive ends at loopback: NATs and firewalls on the way would forget what it means to keep.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

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
    SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use socket2::SockRef;

    use super::connect;

    #[tokio::test]
    async fn idle_connections_are_probed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stream, _) = connect(&[address], Duration::from_secs(10)).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
    }
}
