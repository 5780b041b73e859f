//! Opens one connection to an endpoint: to its unix socket, or by TCP to one of its addresses (RFC 8305), of
//! which the next is tried as soon as the one before fails, or beside it when it is slow.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_quickack;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, ipproto, socket_with};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::endpoints::Pick;
use super::error::UpstreamError;
use crate::proxy::netns::Netns;
use crate::resource::UnixPath;
use crate::snapshot::{self, EndpointAddress};

/// How long an address has before the next one is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the address of `pick` that answers first within `connect_timeout`, from inside `netns`.
///
/// A unix socket is carried as a `TcpStream`, too: reading, writing, splicing, shutting down and polling are
/// the same system calls for every stream socket, and what is TCP's alone is done here.
///
/// `bytes_follow`: something is written as soon as it is connected, whatever the server says.
pub(super) async fn connect(
    pick: &Pick,
    netns: &Netns,
    connect_timeout: Duration,
    keepalive: snapshot::TcpKeepalive,
    bytes_follow: bool,
) -> Result<(TcpStream, EndpointAddress), UpstreamError> {
    let address = match &pick.address {
        EndpointAddress::Ip(address) => *address,
        EndpointAddress::Unix(path) => {
            let connected = connect_unix(path, netns).map_err(|error| UpstreamError::connect_at_once(&error));
            return Ok((connected?, pick.address.clone()));
        }
    };
    let deadline = Instant::now() + connect_timeout;
    let dial = Dial { netns, keepalive: probes(keepalive), bytes_follow };
    let connected = match pick.alternate {
        None => timeout_at(deadline, dial.one(address)).await,
        Some(alternate) => timeout_at(deadline, dial.race([address, alternate])).await,
    };
    match connected {
        Ok(Ok((stream, peer))) => Ok((stream, peer.into())),
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

/// What connections by TCP have in common.
struct Dial<'a> {
    netns: &'a Netns,
    keepalive: TcpKeepalive,
    bytes_follow: bool,
}

impl Dial<'_> {
    async fn one(&self, address: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            self.netns.inside(|| socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP)))??;
        if self.bytes_follow {
            // The handshake's last acknowledgement waits for them, a fifth of a second at most: a segment less.
            set_tcp_quickack(&socket, false)?;
        }
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from_std(socket.into())?;
        let ready = stream.ready(Interest::WRITABLE.add(Interest::ERROR)).await?;
        if ready.is_error()
            && let Some(error) = stream.take_error()?
        {
            return Err(error);
        }
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&self.keepalive)?;
        Ok((stream, address))
    }

    /// `first` with a head start, then both; the error is that of `first`.
    async fn race(&self, [first, second]: [SocketAddr; 2]) -> io::Result<(TcpStream, SocketAddr)> {
        let head_start = Instant::now() + ATTEMPT_DELAY;
        let attempt = self.one(first);
        tokio::pin!(attempt);
        tokio::select! {
            biased;
            connected = &mut attempt => return match connected {
                Ok(connected) => Ok(connected),
                Err(error) => self.one(second).await.map_err(|_second| error),
            },
            () = sleep_until(head_start) => {}
        }
        let other = self.one(second);
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
}

/// Connected when it returns: unix sockets have no handshake. A server whose backlog is full is EAGAIN. Abstract names
/// belong to a network namespace.
fn connect_unix(path: &UnixPath, netns: &Netns) -> io::Result<TcpStream> {
    let found;
    let address = match path.abstract_name() {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None if netns.is_own() => SocketAddrUnix::new(path.as_str())?,
        None => {
            found = without_links(path)?;
            SocketAddrUnix::new(format!("/proc/self/fd/{}", found.as_raw_fd()))?
        }
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = netns.inside(|| socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None))??;
    rustix::net::connect(&socket, &address)?;
    TcpStream::from_std(net::TcpStream::from(socket))
}

/// The socket at a path that was allowed to pods. Whoever may write there could put a link to any other in its place.
fn without_links(path: &UnixPath) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(CWD, path.as_str(), flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(
        |error| match error {
            Errno::LOOP => io::Error::other(
                "a symbolic link is on the way to the socket, which pods are not taken along",
            ),
            other => other.into(),
        },
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use socket2::SockRef;

    use super::{Netns, Pick, connect};
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
            let pick = Pick::of(address, None);
            let (stream, _) =
                connect(&pick, &Netns::default(), Duration::from_secs(10), keepalive, false).await.unwrap();
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
