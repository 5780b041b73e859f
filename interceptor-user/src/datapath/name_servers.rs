//! Which name server a query at the relay was sent to, by the stand-in that it arrived at.

use std::{io, net::SocketAddr, sync::Arc};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use interceptor_common::{
    addr::{Ip16, socket_addr},
    name_server::{NAME_SERVER_PORT, NameServerKey},
};

use super::{DatapathError, programs, sys::Raw};

#[derive(Clone, Debug)]
pub struct NameServerReader {
    servers: Arc<HashMap<MapData, Raw<NameServerKey>, Raw<Ip16>>>,
}

impl NameServerReader {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self { servers: Arc::new(programs::take_map(ebpf, "NAME_SERVERS")?) })
    }

    /// None: no query of this namespace was sent there (somebody asked the stand-in itself).
    pub fn get(&self, netns_cookie: u64, slot: u16, is_v6: bool) -> io::Result<Option<SocketAddr>> {
        match self.servers.get(&Raw(NameServerKey::new(netns_cookie, slot, is_v6)), 0) {
            Ok(Raw(server)) => Ok(Some(socket_addr(server, NAME_SERVER_PORT))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(MapError::SyscallError(error)) => Err(error.io_error),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
