//! A server that accepts on the proxies' port and closes at once: what connect() is measured against.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::time::Duration;

use anyhow::Context;

use crate::lab::PROXY;

/// Between two looks at the listener. A server blocked in accept() would be woken within each connect(), which
/// then takes the scheduler's time too: more than what is measured, and never the same.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PROXY)).context("cannot listen")?;
    // Nobody connects there; the interceptor warns when a proxy takes only one family.
    let _six = TcpListener::bind((Ipv6Addr::LOCALHOST, PROXY));
    listener.set_nonblocking(true).context("cannot make the listener non-blocking")?;
    loop {
        match listener.accept() {
            Ok(accepted) => drop(accepted),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(error) => return Err(error).context("cannot accept"),
        }
    }
}
