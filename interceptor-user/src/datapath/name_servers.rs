//! Which name server a query at the relay was sent to, by the stand-in that it arrived at.

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc};

use aya::maps::{HashMap, IterableMap, MapData, MapError};
use interceptor_common::{
    addr::{Ip16, socket_addr},
    name_server::{NAME_SERVER_PORT, NameServerKey, SLOTS_V4, SLOTS_V6},
};

use super::{
    DatapathError,
    programs::{self, Maps},
    sys::Raw,
    workloads::{absent_is_fine, read_failed},
};

type Servers = HashMap<MapData, Raw<NameServerKey>, Raw<Ip16>>;

pub(super) struct NameServers {
    servers: Servers,
    pub(super) reader: NameServerReader,
}

impl NameServers {
    pub(super) fn take(maps: &mut Maps<'_>) -> Result<Self, DatapathError> {
        const NAME: &str = "NAME_SERVERS";
        let servers: Servers = maps.take(NAME)?;
        let copy = programs::duplicate(NAME, servers.map())?;
        Ok(Self { reader: NameServerReader { servers: Arc::new(copy) }, servers })
    }

    /// Forgets those of namespaces that are not enrolled any more.
    pub(super) fn retain(&mut self, enrolled: &BTreeSet<u64>) -> Result<(), DatapathError> {
        let keys = self.servers.keys().map(|key| key.map(|Raw(key)| key.netns_cookie));
        let known: BTreeSet<u64> = keys.collect::<Result<_, _>>().map_err(read_failed("NAME_SERVERS"))?;
        for cookie in known.difference(enrolled) {
            self.remove(*cookie)?;
        }
        Ok(())
    }

    /// Forgets the name servers that the namespace has asked.
    pub(super) fn remove(&mut self, netns_cookie: u64) -> Result<(), DatapathError> {
        for (slots, is_v6) in [(SLOTS_V4, false), (SLOTS_V6, true)] {
            for slot in 0..slots {
                let key = Raw(NameServerKey::new(netns_cookie, slot, is_v6));
                absent_is_fine("NAME_SERVERS", self.servers.remove(&key))?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub struct NameServerReader {
    servers: Arc<Servers>,
}

impl NameServerReader {
    /// Which name server stands behind a socket of [`super::QuerySockets`], by its index: IPv4 ones before IPv6 ones.
    pub fn of_socket(&self, netns_cookie: u64, sockets_v4: usize, index: usize) -> Option<SocketAddr> {
        let (slot, is_v6) = match index.checked_sub(sockets_v4) {
            Some(slot) => (slot, true),
            None => (index, false),
        };
        let found = self.get(netns_cookie, u16::try_from(slot).ok()?, is_v6);
        found.unwrap_or_else(|error| {
            tracing::warn!("can't tell which name server a query is for: {error}");
            None
        })
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
