//! Names and name servers as any program of this host sees them: for answers to people, and for what enforced workloads may
//! ask.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use hickory_resolver::system_conf::parse_resolv_conf;

/// Blocks as long as the C library's resolver does. The error is one sentence.
pub fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.dedup();
    Ok(addresses)
}

/// The name servers that a resolv.conf names. The error is one sentence.
pub fn name_servers(resolv_conf: &Path) -> Result<Vec<IpAddr>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", resolv_conf.display());
    let content = std::fs::read(resolv_conf).map_err(|error| failed(&error))?;
    let (config, _) = parse_resolv_conf(content).map_err(|error| failed(&error))?;
    let mut servers: Vec<IpAddr> = config.name_servers().iter().map(|server| server.ip).collect();
    servers.dedup();
    Ok(servers)
}
