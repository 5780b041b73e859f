//! Opens one TCP connection to one of several addresses of the same endpoint (RFC 8305): the next
//! address is tried as soon as the one before fails, or beside it when it is slow.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::UpstreamError;
use crate::snapshot;

/// How long an address has before the next one is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that answers within `connect_timeout`. `addresses` holds the
/// preferred address and at most one of the other family.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    connect_timeout: Duration,
    keepalive: snapshot::TcpKeepalive,
) -> Result<(TcpStream, SocketAddr), UpstreamError> {
    let deadline = Instant::now() + connect_timeout;
    let keepalive = &probes(keepalive);
    let connected = match addresses {
        [] => return Err(UpstreamError::NoHealthyUpstream(None)),
        [only] => timeout_at(deadline, connect_one(*only, keepalive)).await,
        [first, second, ..] => timeout_at(deadline, race(*first, *second, keepalive)).await,
    };
    match connected {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(UpstreamError::connect(&error)),
        Err(_elapsed) => Err(UpstreamError::ConnectTimeout),
    }
}

/// Within what the kernel takes: whole seconds up to 2^15 - 1, and 127 probes.
fn probes(keepalive: snapshot::TcpKeepalive) -> TcpKeepalive {
    let seconds = |duration: Duration| {
        let rounded_up = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
        Duration::from_secs(rounded_up.clamp(1, 32_767))
    };
    TcpKeepalive::new()
        .with_time(seconds(keepalive.time))
        .with_interval(seconds(keepalive.interval))
        .with_retries(keepalive.probes.clamp(1, 127))
}

async fn connect_one(address: SocketAddr, keepalive: &TcpKeepalive) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(keepalive)?;
    Ok((stream, address))
}

/// `first` with a head start, then both; the error is that of `first`.
async fn race(
    first: SocketAddr,
    second: SocketAddr,
    keepalive: &TcpKeepalive,
) -> io::Result<(TcpStream, SocketAddr)> {
    let head_start = Instant::now() + ATTEMPT_DELAY;
    let attempt = connect_one(first, keepalive);
    tokio::pin!(attempt);
    tokio::select! {
        biased;
        connected = &mut attempt => return match connected {
            Ok(connected) => Ok(connected),
            Err(error) => connect_one(second, keepalive).await.map_err(|_second| error),
        },
        () = sleep_until(head_start) => {}
    }
    let other = connect_one(second, keepalive);
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
    use crate::snapshot::TcpKeepalive;

    #[tokio::test]
    async fn idle_connections_are_probed_as_configured() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let millis = Duration::from_millis;
        let set = |probes, time, interval| TcpKeepalive { probes, time, interval };
        for (keepalive, expected) in [
            (TcpKeepalive::default(), (60, 15, 4)),
            (set(9, millis(7_200_000), millis(75_000)), (7200, 75, 9)),
            // What the kernel would refuse.
            (set(u32::MAX, millis(1), Duration::MAX), (1, 32_767, 127)),
        ] {
            let (stream, _) = connect(&[address], Duration::from_secs(10), keepalive).await.unwrap();
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            let found = (
                socket.tcp_keepalive_time().unwrap().as_secs(),
                socket.tcp_keepalive_interval().unwrap().as_secs(),
                socket.tcp_keepalive_retries().unwrap(),
            );
            assert_eq!(found, expected, "{keepalive:?}");
        }
    }
}
