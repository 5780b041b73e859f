//! Reads the server name and the protocols offered from a TLS ClientHello, without IO.
//!
//! Nothing is verified that only the server can judge; what is read decides the route, so a name that
//! could be read in two ways is no name at all.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use super::Parsed;

const CONTENT_TYPE_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const NAME_TYPE_HOST: u8 = 0;

const RECORD_HEADER: usize = 5;
const RECORD_MAX: usize = 1 << 14;
const HANDSHAKE_HEADER: usize = 4;
const HANDSHAKE_OVERHEAD: usize = RECORD_HEADER + HANDSHAKE_HEADER;

/// A DNS name, without its trailing dot.
const SERVER_NAME_MAX: usize = 253;
/// Longer offers are cut: no registered protocol has a longer name, no client offers as many.
const ALPN_NAME_MAX: usize = 32;
const ALPN_NAMES_MAX: usize = 8;

/// What a ClientHello says about where the connection wants to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Lower-cased, without a trailing dot; `None` when absent, malformed, repeated or an IP address.
    pub sni: Option<Arc<str>>,
    /// In the client's order of preference; cut to eight names, names of more than 32 bytes left out.
    pub alpn: Vec<Arc<[u8]>>,
}

/// Parses the first bytes of a connection, of which `bytes_max` can be looked at.
///
/// A ClientHello that does not fit is TLS without a server name: still TLS for those who route by
/// protocol, and nothing that a name rule could match.
pub(super) fn parse(bytes: &[u8], bytes_max: usize) -> Parsed<ClientHello> {
    let bytes = bytes.get(..bytes_max).unwrap_or(bytes);
    let Some(handshake) = handshake_bytes(bytes, bytes_max) else { return Parsed::Unrecognised };
    if handshake.first().is_some_and(|kind| *kind != HANDSHAKE_CLIENT_HELLO) {
        return Parsed::Unrecognised;
    }
    let too_long = || Parsed::Complete(ClientHello::default());
    let body = match body_length(&handshake) {
        Some(length) if HANDSHAKE_OVERHEAD + length > bytes_max => return too_long(),
        Some(length) => handshake.get(HANDSHAKE_HEADER..HANDSHAKE_HEADER + length),
        None => None,
    };
    match body {
        Some(body) => parse_body(Reader(body)).map_or(Parsed::Unrecognised, Parsed::Complete),
        None if bytes.len() == bytes_max => too_long(),
        None => Parsed::Incomplete,
    }
}

/// The handshake bytes received so far, records joined, up to where no more are needed. `None` when this
/// is not TLS.
fn handshake_bytes(bytes: &[u8], bytes_max: usize) -> Option<Cow<'_, [u8]>> {
    let mut joined = Cow::Borrowed(&bytes[..0]);
    let mut rest = bytes;
    while !rest.is_empty() {
        let header = &rest[..rest.len().min(RECORD_HEADER)];
        // The minor version of the first flight is whatever the client's library likes.
        if header[0] != CONTENT_TYPE_HANDSHAKE || header.get(1).is_some_and(|major| *major != 3) {
            return None;
        }
        let [_, _, _, high, low] = *header else { break };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > RECORD_MAX {
            return None;
        }
        let payload = &rest[RECORD_HEADER..rest.len().min(RECORD_HEADER + length)];
        if joined.is_empty() {
            joined = Cow::Borrowed(payload);
        } else {
            joined.to_mut().extend_from_slice(payload);
        }
        // What comes after a ClientHello, or after the length of one that is too long, says nothing.
        let is_enough = body_length(&joined).is_some_and(|length| {
            joined.len() >= HANDSHAKE_HEADER + length || HANDSHAKE_OVERHEAD + length > bytes_max
        });
        if is_enough {
            break;
        }
        rest = &rest[RECORD_HEADER + payload.len()..];
    }
    Some(joined)
}

/// What the handshake header declares.
fn body_length(handshake: &[u8]) -> Option<usize> {
    let [_kind, high, middle, low, ..] = *handshake else { return None };
    Some(usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low))
}

/// RFC 8446 §4.1.2. `None` when malformed.
fn parse_body(mut body: Reader<'_>) -> Option<ClientHello> {
    let legacy_version = body.u16()?;
    body.take(32)?; // random
    let session_id = body.vector_u8()?;
    let cipher_suites = body.vector_u16()?;
    let compression_methods = body.vector_u8()?;
    if legacy_version >> 8 != 3
        || session_id.0.len() > 32
        || cipher_suites.0.is_empty()
        || !cipher_suites.0.len().is_multiple_of(2)
        || compression_methods.0.is_empty()
    {
        return None;
    }
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Some(hello); // TLS 1.2 without extensions
    }
    let mut extensions = body.vector_u16()?;
    if !body.0.is_empty() {
        return None;
    }
    let mut server_names = 0;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector_u16()?;
        match kind {
            EXTENSION_SERVER_NAME => {
                server_names += 1;
                hello.sni = server_name(content);
            }
            EXTENSION_ALPN if hello.alpn.is_empty() => hello.alpn = alpn(content)?,
            _ => {} // GREASE and all that only the server needs to know
        }
    }
    if server_names > 1 {
        hello.sni = None; // servers differ in which one they take
    }
    Some(hello)
}

/// RFC 6066 §3. Exactly one name, of type host_name, that could be a host's.
fn server_name(mut extension: Reader<'_>) -> Option<Arc<str>> {
    let mut list = extension.vector_u16()?;
    let kind = list.u8()?;
    let name = list.vector_u16()?;
    if kind != NAME_TYPE_HOST || !list.0.is_empty() || !extension.0.is_empty() {
        return None;
    }
    let name = std::str::from_utf8(name.0).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let plausible = !name.is_empty()
        && name.len() <= SERVER_NAME_MAX
        && name.split('.').all(|label| !label.is_empty() && label.len() <= 63)
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !plausible || name.parse::<IpAddr>().is_ok() {
        return None;
    }
    Some(name.to_ascii_lowercase().into())
}

/// RFC 7301 §3.1. `None` when malformed.
fn alpn(mut extension: Reader<'_>) -> Option<Vec<Arc<[u8]>>> {
    let mut list = extension.vector_u16()?;
    let mut names = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector_u8()?.0;
        if names.len() < ALPN_NAMES_MAX && name.len() <= ALPN_NAME_MAX {
            names.push(name.into());
        }
    }
    Some(names)
}

/// Bytes not read yet; every read fails at the end instead of reaching past it.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector_u8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(length.into()).map(Self)
    }

    fn vector_u16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length.into()).map(Self)
    }
}

#[cfg(test)]
#[path = "client_hello_tests.rs"]
mod tests;
