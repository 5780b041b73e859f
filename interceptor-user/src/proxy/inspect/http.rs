//! Tells an HTTP request line and the HTTP/2 preface from other bytes, without IO.
//!
//! Only the first line is looked at; whether the request is well-formed, the HTTP server judges.

use super::{Parsed, Protocol};

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const METHOD_MAX: usize = 24;
/// A request line without its end by then is HTTP all the same: nothing else looks like it for so long.
const REQUEST_LINE_MAX: usize = 8 << 10;

/// Parses the first bytes of a connection.
pub(super) fn parse(bytes: &[u8]) -> Parsed<Protocol> {
    if bytes.starts_with(HTTP2_PREFACE) {
        return Parsed::Complete(Protocol::Http2);
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Parsed::Incomplete;
    }
    match request_line_minor_version(bytes) {
        Parsed::Complete(minor) => Parsed::Complete(Protocol::Http1 { minor }),
        Parsed::Incomplete => Parsed::Incomplete,
        Parsed::Unrecognised => Parsed::Unrecognised,
    }
}

/// `METHOD SP request-target SP HTTP/1.x`, up to the end of the line (RFC 9112 §3).
fn request_line_minor_version(bytes: &[u8]) -> Parsed<u8> {
    let is_cut = bytes.len() >= REQUEST_LINE_MAX;
    let bytes = &bytes[..bytes.len().min(REQUEST_LINE_MAX)];

    let method_end = bytes.iter().position(|byte| !is_method_byte(*byte)).unwrap_or(bytes.len());
    if method_end > METHOD_MAX || bytes.first().is_some_and(|byte| !byte.is_ascii_uppercase()) {
        return Parsed::Unrecognised;
    }
    let target = match &bytes[method_end..] {
        [] => return Parsed::Incomplete,
        [b' ', target @ ..] if method_end > 0 => target,
        _ => return Parsed::Unrecognised,
    };
    match target.first() {
        None => return Parsed::Incomplete,
        // origin-form, asterisk-form, absolute-form and authority-form, the last one with an IPv6 address
        Some(b'/' | b'*' | b'[') => {}
        Some(byte) if byte.is_ascii_alphanumeric() => {}
        Some(_) => return Parsed::Unrecognised,
    }
    let target_end = target.iter().position(|byte| *byte <= b' ' || *byte == 0x7f);
    let version = match target_end {
        None if is_cut => return Parsed::Complete(1),
        None => return Parsed::Incomplete,
        Some(end) if target[end] == b' ' => &target[end + 1..],
        Some(_) => return Parsed::Unrecognised, // HTTP/0.9, or another protocol's command
    };
    match version {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b'\r' | b'\n', ..] => {
            Parsed::Complete(*minor - b'0')
        }
        _ if version.len() < 9 && is_version_prefix(version) => {
            if is_cut {
                Parsed::Complete(1)
            } else {
                Parsed::Incomplete
            }
        }
        _ => Parsed::Unrecognised,
    }
}

fn is_version_prefix(bytes: &[u8]) -> bool {
    b"HTTP/1.0".starts_with(bytes) || b"HTTP/1.1".starts_with(bytes)
}

fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{HTTP2_PREFACE, REQUEST_LINE_MAX, parse};
    use crate::proxy::inspect::{Parsed, Protocol};

    const HTTP10: Parsed<Protocol> = Parsed::Complete(Protocol::Http1 { minor: 0 });
    const HTTP11: Parsed<Protocol> = Parsed::Complete(Protocol::Http1 { minor: 1 });
    const HTTP2: Parsed<Protocol> = Parsed::Complete(Protocol::Http2);

    #[test]
    fn first_lines() {
        let rows: &[(&[u8], Parsed<Protocol>)] = &[
            (b"GET / HTTP/1.1\r\n", HTTP11),
            (b"GET / HTTP/1.1\n", HTTP11),
            (b"GET / HTTP/1.0\r\n", HTTP10),
            (b"GET /a?b=c%20d&e=[1] HTTP/1.1\r\nHost: a\r\n\r\n", HTTP11),
            (b"GET /\xc3\xa9 HTTP/1.1\r\n", HTTP11),
            (b"OPTIONS * HTTP/1.1\r\n", HTTP11),
            (b"CONNECT example.com:443 HTTP/1.1\r\n", HTTP11),
            (b"CONNECT [::1]:443 HTTP/1.1\r\n", HTTP11),
            (b"GET http://example.com/ HTTP/1.1\r\n", HTTP11),
            (b"VERSION-CONTROL /x HTTP/1.1\r\n", HTTP11),
            (b"PROPFIND /x HTTP/1.1\r\n", HTTP11),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", HTTP2),
            (b"PRI * HTTP/1.1\r\n", HTTP11),
            (b"", Parsed::Incomplete),
            (b"G", Parsed::Incomplete),
            (b"GET ", Parsed::Incomplete),
            (b"GET /", Parsed::Incomplete),
            (b"GET / HTTP/1.1", Parsed::Incomplete),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", Parsed::Incomplete),
            (b"GET /\r\n", Parsed::Unrecognised),
            (b"GET / HTTP/2.0\r\n", Parsed::Unrecognised),
            (b"GET / HTTP/1.2\r\n", Parsed::Unrecognised),
            (b"GET / HTTP/1.1x", Parsed::Unrecognised),
            (b"GET / FTP", Parsed::Unrecognised),
            (b"GET  / HTTP/1.1\r\n", Parsed::Unrecognised),
            (b"GET /\0 HTTP/1.1\r\n", Parsed::Unrecognised),
            (b"get / HTTP/1.1\r\n", Parsed::Unrecognised),
            (b" GET / HTTP/1.1\r\n", Parsed::Unrecognised),
            (b"-GET / HTTP/1.1\r\n", Parsed::Unrecognised),
            (b"PRI * HTTP/2.0\r\n\r\nSN", Parsed::Unrecognised),
            (b"EHLO mail.example.com\r\n", Parsed::Unrecognised),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Parsed::Unrecognised),
            (b"PING\r\n", Parsed::Unrecognised),
            (b"*1\r\n$4\r\nPING\r\n", Parsed::Unrecognised),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXY", Parsed::Unrecognised),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Parsed::Unrecognised),
        ];
        for (bytes, expected) in rows {
            assert_eq!(&parse(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_request_line_that_does_not_end_is_http_after_8_kib() {
        let mut line = b"GET /".to_vec();
        line.resize(REQUEST_LINE_MAX - 1, b'a');
        assert_eq!(parse(&line), Parsed::Incomplete);
        line.push(b'a');
        assert_eq!(parse(&line), HTTP11);
        // the same answer, however much arrives at once
        line.extend_from_slice(b" HTTP/1.0\r\n");
        assert_eq!(parse(&line), HTTP11);
    }

    fn first_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            "[A-Z-]{0,26}[ \r]?[/a-z*]{0,8}[ \n]?(HTTP/)?[12]?[.]?[0-3]?[\r\n]?".prop_map(String::into_bytes),
            (0..=HTTP2_PREFACE.len(), proptest::collection::vec(any::<u8>(), 0..8))
                .prop_map(|(end, tail)| [&HTTP2_PREFACE[..end], &tail[..]].concat()),
        ]
    }

    proptest! {
        #[test]
        fn what_is_decided_stays_decided(bytes in first_bytes(), more in first_bytes()) {
            let decided = parse(&bytes);
            if decided != Parsed::Incomplete {
                prop_assert_eq!(parse(&[bytes, more].concat()), decided);
            }
        }

        #[test]
        fn a_request_line_is_undecided_until_its_end(
            line in "[A-Z]{1,24} /[!-~]{0,100} HTTP/1[.][01]\r"
        ) {
            for end in 0..line.len() {
                prop_assert_eq!(parse(&line.as_bytes()[..end]), Parsed::Incomplete);
            }
            let parsed = parse(line.as_bytes());
            prop_assert!(parsed == HTTP10 || parsed == HTTP11);
        }
    }
}
