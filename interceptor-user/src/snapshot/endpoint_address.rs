//! Where an endpoint is reached: an IP address and port, or a unix socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::resource::UnixPath;

/// Displays as Envoy logs it: `10.0.0.1:80`, `[fd00::1]:80`, or the bare path (`PipeInstance::asString`).
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    Ip(SocketAddr),
    Unix(UnixPath),
}

impl EndpointAddress {
    /// `None` for unix sockets.
    pub fn as_ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.as_ip().map(|address| address.ip())
    }

    pub fn is_ipv6(&self) -> bool {
        matches!(self, Self::Ip(SocketAddr::V6(_)))
    }

    /// As resources name it, and istioctl: `unix:///run/a.sock`.
    pub fn written(&self) -> String {
        match self {
            Self::Ip(address) => address.to_string(),
            Self::Unix(path) => format!("{}{}", UnixPath::PREFIX, path),
        }
    }
}

impl From<SocketAddr> for EndpointAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<UnixPath> for EndpointAddress {
    fn from(path: UnixPath) -> Self {
        Self::Unix(path)
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(formatter),
            Self::Unix(path) => path.fmt(formatter),
        }
    }
}

/// As resources name it.
impl fmt::Debug for EndpointAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.written())
    }
}

#[cfg(test)]
mod tests {
    use super::EndpointAddress;
    use crate::resource::UnixPath;

    /// Requests carry them.
    #[test]
    fn an_address_is_no_larger_than_that_of_a_socket() {
        assert_eq!(size_of::<EndpointAddress>(), size_of::<std::net::SocketAddr>());
    }

    #[test]
    fn an_address_is_logged_as_envoy_does_and_told_as_it_is_written() {
        let ip: std::net::SocketAddr = "[fd00::1]:80".parse().unwrap();
        let unix = |address| UnixPath::of_address(address).unwrap().unwrap();
        for (address, logged, written) in [
            (EndpointAddress::from(ip), "[fd00::1]:80", "[fd00::1]:80"),
            (unix("unix:///run/a.sock").into(), "/run/a.sock", "unix:///run/a.sock"),
            (unix("unix://@a").into(), "@a", "unix://@a"),
        ] {
            assert_eq!((address.to_string().as_str(), address.written().as_str()), (logged, written));
        }
    }
}
