//! Real ClientHellos, taken apart in every way, and hand-made bad ones.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;

use super::{ClientHello, parse};
use crate::proxy::inspect::Parsed;

const BYTES_MAX: usize = 16 << 10;

/// What rustls sends first.
fn rustls_hello(host: &str, alpn: &[&[u8]], tls13: bool) -> Vec<u8> {
    let versions: &[_] = if tls13 { &[&rustls::version::TLS13] } else { &[&rustls::version::TLS12] };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn hello(sni: Option<&str>, alpn: &[&[u8]]) -> ClientHello {
    ClientHello { sni: sni.map(Into::into), alpn: alpn.iter().map(|name| (*name).into()).collect() }
}

/// The same handshake message over records of at most `size` bytes.
fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
    hello[5..].chunks(size).flat_map(record).collect()
}

fn record(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[22, 3, 1, length[0], length[1]], payload].concat()
}

fn vector_u8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).unwrap()], content].concat()
}

fn vector_u16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector_u16(content)].concat()
}

fn sni_extension(name: &[u8]) -> Vec<u8> {
    extension(0, &vector_u16(&[&[0][..], &vector_u16(name)].concat()))
}

fn body(extensions: &[u8]) -> Vec<u8> {
    [&[3, 3][..], &[7; 32], &vector_u8(&[9; 32]), &vector_u16(&[0x13, 1]), &vector_u8(&[0]), extensions]
        .concat()
}

fn handshake(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, length[1], length[2], length[3]], body].concat()
}

fn handmade(extensions: &[Vec<u8>]) -> Vec<u8> {
    record(&handshake(&body(&vector_u16(&extensions.concat()))))
}

fn parsed(bytes: &[u8]) -> Parsed<ClientHello> {
    parse(bytes, BYTES_MAX)
}

#[test]
fn real_hellos() {
    type Row<'a> = (&'a str, &'a [&'a [u8]], Option<&'a str>);
    let rows: &[Row<'_>] = &[
        ("www.example.com", &[b"h2", b"http/1.1"], Some("www.example.com")),
        ("WWW.Example.COM", &[], Some("www.example.com")),
        ("under_score.example", &[b"http/1.1"], Some("under_score.example")),
        ("192.0.2.1", &[b"h2"], None),
        ("2001:db8::1", &[], None),
    ];
    for (host, offered, sni) in rows {
        for tls13 in [true, false] {
            let bytes = rustls_hello(host, offered, tls13);
            assert_eq!(parsed(&bytes), Parsed::Complete(hello(*sni, offered)), "{host}");
        }
    }
}

#[test]
fn every_prefix_needs_more_and_every_fragmentation_says_the_same() {
    let bytes = rustls_hello("www.example.com", &[b"h2"], true);
    let expected = Parsed::Complete(hello(Some("www.example.com"), &[b"h2"]));
    for end in 0..bytes.len() {
        assert_eq!(parsed(&bytes[..end]), Parsed::Incomplete, "{end} bytes");
    }
    for size in 1..bytes.len() {
        let fragments = fragmented(&bytes, size);
        assert_eq!(parsed(&fragments), expected, "records of {size}");
        for end in 0..fragments.len() {
            assert_eq!(parsed(&fragments[..end]), Parsed::Incomplete, "records of {size}, {end} bytes");
            if size > 3 && end > 64 {
                break;
            }
        }
    }
}

#[test]
fn what_follows_the_hello_does_not_matter() {
    let mut bytes = rustls_hello("a.example", &[], false);
    bytes.extend_from_slice(b"\x17\xff\0\0garbage");
    assert_eq!(parsed(&bytes), Parsed::Complete(hello(Some("a.example"), &[])));
}

#[test]
fn garbage_is_not_tls() {
    let rows: &[&[u8]] = &[
        b"\x15\x03\x01",
        b"\x16\x02",
        b"\x16GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\0\x04\x02",             // a ServerHello
        b"\x16\x03\x01\0\x04\x01\0\0\0",       // an empty body
        b"\x16\x03\x01\0\x01\x01\x17\x03\x03", // another content type in between
    ];
    for bytes in rows {
        assert_eq!(parsed(bytes), Parsed::Unrecognised, "{bytes:?}");
    }
    let whole = body(&vector_u16(&sni_extension(b"a.example")));
    for end in 0..whole.len() {
        let expected = if end == body(&[]).len() {
            Parsed::Complete(hello(None, &[])) // TLS 1.2 may come without extensions
        } else {
            Parsed::Unrecognised
        };
        assert_eq!(parsed(&record(&handshake(&whole[..end]))), expected, "body of {end} bytes");
    }
}

#[test]
fn only_a_host_name_is_a_server_name() {
    let long = "a.".repeat(126) + "ab";
    let rows: &[(&[u8], Option<&str>)] = &[
        (b"A.Example", Some("a.example")),
        (b"a.example.", Some("a.example")),
        (b"localhost", Some("localhost")),
        (b"xn--bcher-kva.example", Some("xn--bcher-kva.example")),
        (b"", None),
        (b".", None),
        (b"a..example", None),
        (b".example", None),
        (b"a.example\0.evil.example", None),
        (b"a.example\n", None),
        (b"a b", None),
        ("bücher.example".as_bytes(), None),
        (b"*.example", None),
        (b"192.0.2.1", None),
        (b"::1", None),
        (&[b'a'; 64], None),
        (long.as_bytes(), None),
        (&[0xff; 4], None),
    ];
    for (name, expected) in rows {
        let bytes = handmade(&[sni_extension(name)]);
        assert_eq!(parsed(&bytes), Parsed::Complete(hello(*expected, &[])), "{}", name.escape_ascii());
    }
    let longest = long.trim_end_matches('b').as_bytes();
    assert_eq!(longest.len(), 253);
    let Parsed::Complete(found) = parsed(&handmade(&[sni_extension(longest)])) else { panic!("not TLS") };
    assert_eq!(found.sni.as_deref().map(str::as_bytes), Some(longest));
}

#[test]
fn two_server_names_are_none() {
    let twice = [sni_extension(b"a.example"), sni_extension(b"b.example")];
    assert_eq!(parsed(&handmade(&twice)), Parsed::Complete(hello(None, &[])));
    let entry = |name: &[u8]| [&[0][..], &vector_u16(name)].concat();
    let list = vector_u16(&[entry(b"a.example"), entry(b"b.example")].concat());
    assert_eq!(parsed(&handmade(&[extension(0, &list)])), Parsed::Complete(hello(None, &[])));
}

#[test]
fn grease_and_unknown_extensions_are_skipped() {
    let alpn = extension(16, &vector_u16(&[vector_u8(&[0x0a, 0x0a]), vector_u8(b"h2")].concat()));
    let bytes = handmade(&[
        extension(0x0a0a, &[]),
        extension(0xfe0d, &[1; 200]),
        sni_extension(b"a.example"),
        alpn,
        extension(0xdada, &[0]),
    ]);
    assert_eq!(parsed(&bytes), Parsed::Complete(hello(Some("a.example"), &[&[0x0a, 0x0a], b"h2"])));
}

#[test]
fn alpn_is_bounded() {
    let names: Vec<u8> = (0..200u8).flat_map(|index| vector_u8(&[index; 3])).collect();
    let Parsed::Complete(found) = parsed(&handmade(&[extension(16, &vector_u16(&names))])) else {
        panic!("not TLS")
    };
    assert_eq!(found.alpn.len(), 8);
    let long = vector_u8(&[b'x'; 255]);
    assert_eq!(
        parsed(&handmade(&[extension(16, &vector_u16(&long))])),
        Parsed::Complete(ClientHello::default())
    );
}

#[test]
fn a_hello_that_does_not_fit_is_tls_without_a_name() {
    let padded = |size| {
        handshake(&body(&vector_u16(&[sni_extension(b"a.example"), extension(21, &vec![0; size])].concat())))
    };
    let in_records = |handshake: &[u8]| handshake.chunks(1 << 14).flat_map(record).collect::<Vec<u8>>();
    let fits = in_records(&padded(16_000));
    assert!(fits.len() <= BYTES_MAX);
    assert_eq!(parsed(&fits), Parsed::Complete(hello(Some("a.example"), &[])));
    let too_long = in_records(&padded(20_000));
    // known from the length that it declares, before it is all there
    assert_eq!(parsed(&too_long[..8]), Parsed::Incomplete);
    assert_eq!(parsed(&too_long[..9]), Parsed::Complete(ClientHello::default()));
    assert_eq!(parsed(&too_long), Parsed::Complete(ClientHello::default()));
    // decided by then: what comes next does not change it
    let broken = [&record(&too_long[5..20])[..], b"\x17garbage"].concat();
    assert_eq!(parsed(&broken), Parsed::Complete(ClientHello::default()));
    // too many small records
    let small = fragmented(&record(&padded(6_000)), 2);
    assert_eq!(parsed(&small[..BYTES_MAX - 1]), Parsed::Incomplete);
    assert_eq!(parsed(&small), Parsed::Complete(ClientHello::default()));
}

fn mutated_hello() -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (edits, 1..600usize).prop_map(|(edits, size)| {
        let names = extension(16, &vector_u16(&[vector_u8(b"h2"), vector_u8(b"http/1.1")].concat()));
        let mut bytes =
            fragmented(&handmade(&[extension(0x1a1a, &[]), sni_extension(b"a.example"), names]), size);
        for (index, byte) in edits {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn no_bytes_panic_and_what_is_decided_stays_decided(bytes in mutated_hello(), end in any::<prop::sample::Index>()) {
        let decided = parsed(&bytes);
        let earlier = parsed(&bytes[..end.index(bytes.len() + 1)]);
        if earlier != Parsed::Incomplete {
            prop_assert_eq!(earlier, decided);
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        parsed(&bytes);
        parsed(&[&[22, 3, 1][..], &bytes].concat());
        parsed(&record(&handshake(&bytes)));
        parsed(&record(&handshake(&body(&bytes))));
        parsed(&record(&handshake(&body(&vector_u16(&bytes)))));
    }
}
