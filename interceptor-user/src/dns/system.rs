//! Names as any program of this host sees them, by the C library: for answers to people, not for connections.

use std::net::{IpAddr, ToSocketAddrs};

/// Blocks as long as the C library's resolver does. The error is one sentence.
pub fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.dedup();
    Ok(addresses)
}
