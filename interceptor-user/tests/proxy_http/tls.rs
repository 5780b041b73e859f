//! TLS origination: who is trusted, under which name, and what is said when it fails.

use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use interceptor_user::snapshot::{
    CaSource, ClientIdentity, TlsOrigination, TlsOriginationMode, UpstreamProtocol,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::support::{Client, Config, HOST, Proxy, Reply, Upstream, eventually, get};

/// A certification authority for one test.
pub(crate) struct Authority {
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) folder: tempfile::TempDir,
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) pem: (String, String),
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        // Authorities with the same name would be told apart by their signatures only.
        params.distinguished_name.push(DnType::CommonName, folder.path().display().to_string());
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.write("ca.pem", &self.issuer.pem())
    }

    pub(crate) fn issue(&self, names: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        adjust(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            pem: (certificate.pem(), key.serialize_pem()),
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    /// A list that revokes these serial numbers, good until the end of `next_update`.
    pub(crate) fn revoke(&self, serials: &[u64], next_update: i32) -> PathBuf {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(next_update, 12, 31),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write("crl.pem", &list.signed_by(&self.issuer).unwrap().pem().unwrap())
    }

    /// A server with this certificate, which tells each request's SNI and ALPN; it asks for a client
    /// certificate of `clients` when there is one.
    pub(crate) fn serve(issued: Issued, clients: Option<&Authority>) -> Upstream {
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.issuer.der().clone()).unwrap();
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let verifier =
                    rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = Arc::new(builder.with_single_cert(vec![issued.certificate], issued.key).unwrap());
        Upstream::start(move |client, _| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut client = Client::over(StreamOwned::new(connection, client.stream));
            answer(&mut client);
        })
    }
}

fn answer(client: &mut Client<StreamOwned<ServerConnection, TcpStream>>) {
    // A failed handshake ends here, having told the client why.
    while client.stream.conn.is_handshaking() {
        let StreamOwned { conn, sock } = &mut client.stream;
        if conn.complete_io(sock).is_err() {
            return;
        }
    }
    while client.request().is_some() {
        let sni = client.stream.conn.server_name().unwrap_or("-").to_owned();
        client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{sni}", sni.len()));
    }
}

fn simple(ca: CaSource) -> TlsOrigination {
    TlsOrigination { ca, ..TlsOrigination::simple() }
}

/// Any server will do.
pub(crate) fn unverified() -> TlsOrigination {
    simple(CaSource::Unverified)
}

pub(crate) fn proxy(upstream: &Upstream, tls: TlsOrigination) -> Proxy {
    let mut config = Config::new(&[upstream.address]);
    config.cluster.tls = Some(tls);
    config.start()
}

const VERIFY_FAILED: &str = "upstream connect error or disconnect/reset before headers. reset reason: remote \
     connection failure, transport failure reason: TLS_error:|268435581:SSL \
     routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end: ";

/// The reply is a verification failure for this reason.
pub(crate) fn assert_unverified(reply: &Reply, proxy: &Proxy, reason: &str) {
    assert_eq!(reply.status(), 503);
    let text = reply.text();
    let told = text.strip_prefix(VERIFY_FAILED).unwrap_or_else(|| panic!("{text}"));
    assert!(told.contains(reason), "{told}");
    let record = proxy.records.only();
    assert_eq!(record.text("response_flags"), "UF");
    assert!(record.text("upstream_transport_failure_reason").contains("CERTIFICATE_VERIFY_FAILED"));
}

#[test]
fn tls_is_originated_with_the_host_as_sni() {
    let authority = Authority::new();
    let upstream = Authority::serve(authority.issue(&[HOST], |_| {}), None);
    let proxy = proxy(&upstream, simple(CaSource::File(authority.file())));
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send(get(HOST, "/"));
        let reply = client.reply();
        assert_eq!((reply.status(), reply.text().as_str()), (200, HOST));
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_declared_sni_is_sent_and_verified() {
    let authority = Authority::new();
    let upstream = Authority::serve(authority.issue(&["other.example.com"], |_| {}), None);
    let tls =
        TlsOrigination { sni: Some("other.example.com".into()), ..simple(CaSource::File(authority.file())) };
    assert_eq!(proxy(&upstream, tls).get("/").text(), "other.example.com");
}

#[test]
fn declared_alternative_names_replace_the_host() {
    let authority = Authority::new();
    let upstream = Authority::serve(authority.issue(&["other.example.com"], |_| {}), None);
    let with_names = |names: &[&str]| TlsOrigination {
        subject_alt_names: names.iter().map(|name| (*name).into()).collect(),
        ..simple(CaSource::File(authority.file()))
    };
    let reply = proxy(&upstream, with_names(&["first.example.com", "other.example.com"])).get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (200, HOST));
    let proxy = proxy(&upstream, with_names(&["first.example.com"]));
    assert_unverified(&proxy.get("/"), &proxy, "not valid for name \"first.example.com\"");
}

/// As Envoy's exact match has it.
#[test]
fn a_declared_wildcard_is_one_that_the_certificate_bears() {
    let authority = Authority::new();
    let with = TlsOrigination {
        subject_alt_names: vec!["*.Example.com".into()],
        ..simple(CaSource::File(authority.file()))
    };
    for (names, is_good) in [
        (&["*.example.com"][..], true),
        (&["x.org", "*.example.com"], true),
        (&["a.example.com"], false),
        (&["*.a.example.com"], false),
    ] {
        let upstream = Authority::serve(authority.issue(names, |_| {}), None);
        let proxy = proxy(&upstream, with.clone());
        let reply = proxy.get("/");
        assert_eq!(reply.status() == 200, is_good, "{names:?}");
        if !is_good {
            assert_unverified(&reply, &proxy, "not valid for name \"*.Example.com\"");
        }
    }
}

#[test]
fn uris_are_compared_as_they_are() {
    const OURS: &str = "spiffe://cluster.local/ns/egress/sa/server";
    let authority = Authority::new();
    let uri = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::URI(OURS.try_into().unwrap())];
    };
    let upstream = Authority::serve(authority.issue(&[], uri), None);
    let with_names = |names: &[&str], list: Option<PathBuf>| TlsOrigination {
        subject_alt_names: names.iter().map(|name| (*name).into()).collect(),
        ca_crl: list,
        ..simple(CaSource::File(authority.file()))
    };
    for list in [None, Some(authority.revoke(&[8], 3000))] {
        for names in [&[OURS][..], &["other.example.com", OURS], &["spiffe://a/b", OURS]] {
            assert_eq!(proxy(&upstream, with_names(names, list.clone())).get("/").status(), 200, "{names:?}");
        }
        let other = "spiffe://cluster.local/ns/egress/sa/server2";
        let proxy = proxy(&upstream, with_names(&[other], list));
        assert_unverified(&proxy.get("/"), &proxy, &format!("not valid for name \"{other}\""));
    }
}

#[test]
fn an_entrys_names_hold_beside_the_host() {
    let authority = Authority::new();
    for (certificate, reason) in [
        (&[HOST, "san.example.com"][..], None),
        (&["san.example.com"], Some(HOST)),
        (&[HOST], Some("san.example.com")),
    ] {
        let upstream = Authority::serve(authority.issue(certificate, |_| {}), None);
        let tls = TlsOrigination {
            subject_alt_names: vec!["san.example.com".into()],
            verify_host: true,
            ..simple(CaSource::File(authority.file()))
        };
        let proxy = proxy(&upstream, tls);
        let reply = proxy.get("/");
        match reason {
            None => assert_eq!(reply.status(), 200),
            Some(name) => assert_unverified(&reply, &proxy, &format!("not valid for name \"{name}\"")),
        }
    }
}

#[test]
fn a_wrong_name_is_refused() {
    let authority = Authority::new();
    let upstream = Authority::serve(authority.issue(&["other.example.com"], |_| {}), None);
    let proxy = proxy(&upstream, simple(CaSource::File(authority.file())));
    assert_unverified(&proxy.get("/"), &proxy, "not valid for name");
}

#[test]
fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let expired = authority.issue(&[HOST], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 1);
    });
    let upstream = Authority::serve(expired, None);
    let tls =
        TlsOrigination { subject_alt_names: vec![HOST.into()], ..simple(CaSource::File(authority.file())) };
    let proxy = proxy(&upstream, tls);
    assert_unverified(&proxy.get("/"), &proxy, "expired");
}

#[test]
fn an_unknown_issuer_is_refused_unless_verification_is_off() {
    let authority = Authority::new();
    let upstream = Authority::serve(authority.issue(&[HOST], |_| {}), None);
    // Its file is read when it is needed first.
    let other = Authority::new();
    let strict = proxy(&upstream, simple(CaSource::File(other.file())));
    assert_unverified(&strict.get("/"), &strict, "unknown issuer");
    // Signed by none of the system's roots.
    let system = proxy(&upstream, simple(CaSource::System));
    assert_unverified(&system.get("/"), &system, "unknown issuer");
    assert_eq!(proxy(&upstream, simple(CaSource::Unverified)).get("/").status(), 200);
}

#[test]
fn a_revoked_certificate_is_refused() {
    let authority = Authority::new();
    let serial =
        |serial: u64| move |params: &mut CertificateParams| params.serial_number = Some(serial.into());
    let upstream = Authority::serve(authority.issue(&[HOST], serial(7)), None);
    let with = |list: PathBuf, names: &[&str]| TlsOrigination {
        ca_crl: Some(list),
        subject_alt_names: names.iter().map(|name| (*name).into()).collect(),
        ..simple(CaSource::File(authority.file()))
    };
    let other = authority.revoke(&[8], 3000);
    assert_eq!(proxy(&upstream, with(other.clone(), &[])).get("/").status(), 200);
    assert_eq!(proxy(&upstream, with(other.clone(), &["x.example.com", HOST])).get("/").status(), 200);
    let misnamed = proxy(&upstream, with(other, &["x.example.com", "y.example.com"]));
    assert_unverified(&misnamed.get("/"), &misnamed, "not valid for name");
    let revoked = authority.revoke(&[7, 8], 3000);
    for names in [&[][..], &["x.example.com", HOST]] {
        let proxy = proxy(&upstream, with(revoked.clone(), names));
        assert_unverified(&proxy.get("/"), &proxy, "evoked");
    }
    // A list that is out of date, or of somebody else, says nothing: refused.
    let old = proxy(&upstream, with(authority.revoke(&[8], 2024), &[]));
    assert_unverified(&old.get("/"), &old, "expired");
    let another = Authority::new();
    let of_another = proxy(&upstream, with(another.revoke(&[8], 3000), &[]));
    assert_unverified(&of_another.get("/"), &of_another, "evocation");
}

#[test]
fn mutual_tls_shows_the_client_certificate() {
    let authority = Authority::new();
    let upstream = Authority::serve(authority.issue(&[HOST], |_| {}), Some(&authority));
    let client = authority.issue(&["client"], |_| {});
    let tls = TlsOrigination {
        mode: TlsOriginationMode::Mutual,
        identity: Some(ClientIdentity {
            certificate: authority.write("client.pem", &client.pem.0),
            private_key: authority.write("client.key", &client.pem.1),
        }),
        ..simple(CaSource::File(authority.file()))
    };
    assert_eq!(proxy(&upstream, tls).get("/").status(), 200);

    let reply = proxy(&upstream, simple(CaSource::File(authority.file()))).get("/");
    assert_eq!(reply.status(), 503);
    assert!(reply.text().contains("TLSV1_ALERT_CERTIFICATE_REQUIRED"), "{}", reply.text());
}

#[test]
fn missing_files_are_told_and_nothing_is_sent() {
    let authority = Authority::new();
    let upstream = Upstream::echo();
    let missing = authority.folder.path().join("missing.pem");
    let garbage = authority.write("garbage.pem", "garbage");
    for (ca, reason) in [
        (&missing, format!("CA certificates {}: No such file or directory", missing.display())),
        (&garbage, format!("CA certificates {}: no certificate in PEM form there", garbage.display())),
    ] {
        let proxy = proxy(&upstream, simple(CaSource::File(ca.clone())));
        let reply = proxy.get("/");
        assert_eq!(reply.status(), 503);
        assert!(reply.text().contains(&reason), "{}", reply.text());
        assert_eq!(proxy.records.only().text("response_flags"), "UF");
    }
    let list = TlsOrigination { ca_crl: Some(missing), ..simple(CaSource::File(authority.file())) };
    let reply = proxy(&upstream, list).get("/");
    assert!(reply.status() == 503 && reply.text().contains("caCrl /"), "{}", reply.text());
    let impossible =
        TlsOrigination { impossible: Some("ISTIO_MUTUAL needs a mesh".into()), ..simple(CaSource::System) };
    let reply = proxy(&upstream, impossible).get("/");
    assert_eq!(reply.status(), 503);
    assert!(
        reply.text().ends_with("transport failure reason: ISTIO_MUTUAL needs a mesh"),
        "{}",
        reply.text()
    );
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_plaintext_server_is_named_as_such() {
    let authority = Authority::new();
    let upstream = Upstream::start(|mut client, _| {
        client.read_until("\u{1}");
        client.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        client.read_to_end();
    });
    let reply = proxy(&upstream, simple(CaSource::File(authority.file()))).get("/");
    assert_eq!(reply.status(), 503);
    assert!(
        reply.text().contains("268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER"),
        "{}",
        reply.text()
    );
}

#[test]
fn changed_files_are_picked_up() {
    let authority = Authority::new();
    let upstream = Authority::serve(authority.issue(&[HOST], |_| {}), None);
    let other = Authority::new();
    let ca = authority.write("watched.pem", &other.issuer.pem());
    let proxy = proxy(&upstream, simple(CaSource::File(ca.clone())));
    assert_eq!(proxy.get("/").status(), 503);
    std::fs::write(&ca, authority.issuer.pem() + "\n").unwrap();
    eventually("the new CA is used", || proxy.get("/").status() == 200);
}

#[test]
fn http2_is_negotiated_where_the_cluster_speaks_it() {
    let authority = Authority::new();
    let seen: Arc<Mutex<Vec<Option<Vec<u8>>>>> = Arc::default();
    let issued = authority.issue(&[HOST], |_| {});
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.certificate], issued.key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (config, sink) = (Arc::new(config), Arc::clone(&seen));
    let upstream = Upstream::start(move |client, _| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), client.stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        sink.lock().unwrap().push(stream.conn.alpn_protocol().map(<[u8]>::to_vec));
    });
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let mut config = Config::new(&[upstream.address]);
        config.cluster.tls = Some(simple(CaSource::File(authority.file())));
        config.cluster.protocol = protocol;
        assert_eq!(config.start().get("/").status(), 503);
    }
    assert_eq!(*seen.lock().unwrap(), [None, Some(b"h2".to_vec())]);
}

#[test]
fn tls_1_2_is_refused_where_1_3_is_wanted() {
    let authority = Authority::new();
    let issued = authority.issue(&[HOST], |_| {});
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.certificate], issued.key)
        .unwrap();
    let config = Arc::new(config);
    let upstream = Upstream::start(move |client, _| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        answer(&mut Client::over(StreamOwned::new(connection, client.stream)));
    });
    let with = |tls_1_3_only| TlsOrigination { tls_1_3_only, ..simple(CaSource::File(authority.file())) };
    assert_eq!(proxy(&upstream, with(false)).get("/").status(), 200);
    let reply = proxy(&upstream, with(true)).get("/");
    assert!(reply.text().contains("TLSV1_ALERT_PROTOCOL_VERSION"), "{}", reply.text());
}
