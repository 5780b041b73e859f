//! TLS of clients that ends here: who is let in, what is spoken, and what is told of those who are not.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use interceptor_user::snapshot::{
    CertificateSource, CipherSuite, ClientCaSource, ClientIdentity, ClusterRef, Credential, Listener,
    OutboundTrafficPolicy, Snapshot, TcpRoute, Terminated, Then, TlsTermination, TlsTerminationMode,
    TlsVersion,
};
use rcgen::SerialNumber;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::mesh_identity::{expired, identity, istio, write};
use crate::support::{Client, Config, HOST, PATIENCE, Proxy, Upstream, eventually, get};
use crate::tls::{Authority, Issued};

pub(crate) const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/istio-egressgateway";

/// Files of a certificate with its key.
pub(crate) fn files(authority: &Authority, name: &str, issued: &Issued) -> CertificateSource {
    CertificateSource::Files(ClientIdentity {
        certificate: authority.write(&format!("{name}.crt"), &issued.pem.0),
        private_key: authority.write(&format!("{name}.key"), &issued.pem.1),
    })
}

pub(crate) fn simple(authority: &Authority) -> TlsTermination {
    TlsTermination::simple(files(authority, "server", &authority.issue(&[HOST], |_| {})))
}

pub(crate) fn mutual(authority: &Authority, clients: &Authority) -> TlsTermination {
    TlsTermination {
        mode: TlsTerminationMode::Mutual,
        client_ca: Some(ClientCaSource::File(clients.file())),
        ..simple(authority)
    }
}

/// Of the mesh, with the identity in a directory.
pub(crate) fn istio_mutual(authority: &Authority) -> TlsTermination {
    let directory = authority.folder.path().join("identity");
    write(&directory, &istio(&identity(authority, GATEWAY, |_| {}), &authority.issuer.pem()));
    let credential = Credential::MeshIdentity { directory };
    TlsTermination {
        mode: TlsTerminationMode::IstioMutual,
        client_ca: Some(ClientCaSource::Credential(credential.clone())),
        ..TlsTermination::simple(CertificateSource::Credential(credential))
    }
}

/// With one chain, for [`HOST`], whose requests go to the upstream.
pub(crate) fn snapshot(upstream: &Upstream, tls: TlsTermination) -> Snapshot {
    terminating(Config::new(&[upstream.address]), tls)
}

/// The same, to the cluster of a configuration.
pub(crate) fn terminating(config: Config, tls: TlsTermination) -> Snapshot {
    let mut snapshot = config.registry_only().build(80);
    let table = snapshot.by_port[&80].http.clone().unwrap();
    let mut listener = Listener::new("0.0.0.0_443".into(), OutboundTrafficPolicy::RegistryOnly);
    let chain = Terminated { tls: Arc::new(tls), then: Then::Http(table) };
    listener.terminated.insert(HOST, Arc::new(chain));
    snapshot.by_port.insert(443, Arc::new(listener));
    snapshot
}

pub(crate) const ORIGINAL_DST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);

pub(crate) fn start(snapshot: Snapshot) -> Proxy {
    Proxy::start(snapshot, ORIGINAL_DST)
}

/// How a client speaks.
pub(crate) struct Speaks<'a> {
    pub(crate) shows: Option<&'a Issued>,
    pub(crate) alpn: &'a [&'a str],
    pub(crate) versions: &'a [&'static rustls::SupportedProtocolVersion],
    pub(crate) sni: &'a str,
}

impl Default for Speaks<'_> {
    fn default() -> Self {
        Self { shows: None, alpn: &[], versions: rustls::ALL_VERSIONS, sni: HOST }
    }
}

/// Trusts whoever has a certificate of the authority, whatever its name.
pub(crate) fn config(authority: &Authority, speaks: &Speaks<'_>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    let builder =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(speaks.versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match speaks.shows {
        Some(issued) => {
            builder.with_client_auth_cert(vec![issued.certificate.clone()], issued.key.clone_key()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = speaks.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// The handshake, as far as the client's side goes: with TLS 1.3 the server may still refuse.
pub(crate) fn handshake(proxy: &Proxy, config: Arc<ClientConfig>, sni: &str) -> std::io::Result<Tls> {
    let name = ServerName::try_from(sni.to_owned()).unwrap();
    let mut connection = ClientConnection::new(config, name).unwrap();
    let mut socket = TcpStream::connect(proxy.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

pub(crate) fn connect(proxy: &Proxy, authority: &Authority, speaks: &Speaks<'_>) -> Client<Tls> {
    Client::over(handshake(proxy, config(authority, speaks), speaks.sni).unwrap())
}

/// Waits until so many handshakes have ended so.
fn counted(proxy: &Proxy, result: &str, expected: f64) {
    let result = format!("\"{result}\"");
    eventually(&result, || proxy.metric("interceptor_tls_handshakes_total", &[&result]) == expected);
}

/// Why the proxy refuses this client: the alert.
pub(crate) fn refusal(proxy: &Proxy, authority: &Authority, speaks: &Speaks<'_>) -> String {
    let refused = handshake(proxy, config(authority, speaks), speaks.sni).and_then(|mut tls| {
        tls.write_all(get(HOST, "/").as_bytes())?;
        // Not `read`, which a signal may end.
        tls.read_exact(&mut [0])
    });
    match refused {
        Ok(()) => panic!("let in, and answered"),
        Err(error) => error.to_string(),
    }
}

/// With one chain, for whatever name, whose bytes go to the cluster of a configuration.
pub(crate) fn opaque(config: Config, tls: TlsTermination) -> Snapshot {
    let mut snapshot = config.registry_only().build(80);
    let cluster = snapshot.clusters.values().next().unwrap().clone();
    let route = TcpRoute::to(ClusterRef { name: cluster.name.clone(), cluster: Some(cluster) });
    let mut listener = Listener::new("0.0.0.0_443".into(), OutboundTrafficPolicy::RegistryOnly);
    let tls = Arc::new(TlsTermination { alpn: &[], ..tls });
    let chain = Terminated { tls, then: Then::Tcp(Arc::new(route)) };
    listener.terminated.insert("*", Arc::new(chain));
    snapshot.by_port.insert(443, Arc::new(listener));
    snapshot
}

#[test]
fn requests_inside_tls_are_routed_and_their_bytes_are_whole() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let proxy = start(snapshot(&upstream, simple(&authority)));
    let mut client = connect(&proxy, &authority, &Speaks { alpn: &["http/1.1"], ..Speaks::default() });
    assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    let body = "x".repeat(300_000);
    for _ in 0..2 {
        client.send(format!(
            "POST /a HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-Client-Cert: forged\r\nX-Forwarded-Proto: http\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let reply = client.reply();
        assert_eq!(reply.status(), 200);
        let (head, echoed) =
            reply.text().split_once("\r\n\r\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert_eq!(echoed, body);
        assert!(head.contains("x-forwarded-proto: https"), "{head}");
        assert!(!head.contains("forged"), "{head}");
    }
    let records = proxy.records.wait(2);
    assert_eq!(records[0].end(), (200, "-", "via_upstream"));
    assert_eq!(records[0].text("requested_server_name"), HOST);
    assert_eq!(proxy.metric("interceptor_tls_handshakes_total", &["completed"]), 1.0);
    // One that nobody has here, inside a name that somebody has.
    client.send(get("elsewhere.example.com", "/"));
    assert_eq!(client.reply().status(), 502, "the catch-all of this table");
}

#[test]
fn http2_is_what_the_client_agrees_on() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let proxy = start(snapshot(&upstream, simple(&authority)));
    let url = format!("https://{HOST}:{}/", proxy.address.port());
    for (version, expected) in [("--http2", "2 200"), ("--http1.1", "1.1 200"), ("--no-alpn", "1.1 200")] {
        let output = std::process::Command::new("curl")
            .args(["-sS", version, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--cacert"])
            .arg(authority.file())
            .args(["--connect-to", &format!("::127.0.0.1:{}", proxy.address.port()), &url])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, expected, "{version}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_client_that_offers_other_protocols_is_served_all_the_same() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let proxy = start(snapshot(&upstream, simple(&authority)));
    let mut client = connect(&proxy, &authority, &Speaks { alpn: &["istio"], ..Speaks::default() });
    assert_eq!(client.stream.conn.alpn_protocol(), None);
    client.send(get(HOST, "/"));
    assert_eq!(client.reply().status(), 200);
}

#[test]
fn clients_without_a_certificate_in_order_are_refused_with_the_reason() {
    let (authority, clients, other) = (Authority::new(), Authority::new(), Authority::new());
    let upstream = Upstream::echo();
    let numbered = |number: u64| {
        clients
            .issue(&["client.example.com"], |params| params.serial_number = Some(SerialNumber::from(number)))
    };
    let revoked = TlsTermination { ca_crl: Some(clients.revoke(&[7], 2999)), ..mutual(&authority, &clients) };
    let named = TlsTermination {
        subject_alt_names: vec!["other.example.com".into(), CART.into()],
        ..mutual(&authority, &clients)
    };
    let (good, past) = (numbered(1), clients.issue(&["client.example.com"], expired));
    let (foreign, gone) = (other.issue(&["client.example.com"], |_| {}), numbered(7));
    for (tls, shows, alert, result) in [
        (mutual(&authority, &clients), None, "CertificateRequired", "no_certificate"),
        (mutual(&authority, &clients), Some(&foreign), "UnknownCA", "unknown_ca"),
        (mutual(&authority, &clients), Some(&past), "CertificateExpired", "expired"),
        (revoked, Some(&gone), "CertificateRevoked", "revoked"),
        (named, Some(&good), "CertificateUnknown", "name_mismatch"),
    ] {
        let proxy = start(snapshot(&upstream, tls));
        for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
            let said = refusal(&proxy, &authority, &Speaks { shows, versions, ..Speaks::default() });
            // TLS 1.2 has no alert for a certificate that is missing.
            let is_told =
                said.contains(alert) || (result == "no_certificate" && said.contains("HandshakeFailure"));
            assert!(is_told, "{result}: {said}");
        }
        let records = proxy.records.wait(2);
        for record in &records {
            assert_eq!(record.text("response_flags"), "DPE");
            assert_eq!(record.text("connection_termination_details"), format!("tls_handshake_{result}"));
        }
        counted(&proxy, result, 2.0);
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn clients_with_a_certificate_in_order_are_let_in() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let upstream = Upstream::echo();
    let good = identity(&clients, CART, |params| params.serial_number = Some(SerialNumber::from(1_u64)));
    let named = TlsTermination {
        ca_crl: Some(clients.revoke(&[7], 2999)),
        subject_alt_names: vec!["other.example.com".into(), CART.into()],
        ..mutual(&authority, &clients)
    };
    let optional =
        TlsTermination { mode: TlsTerminationMode::OptionalMutual, ..mutual(&authority, &clients) };
    for (tls, shows) in [
        (mutual(&authority, &clients), Some(&good)),
        (named, Some(&good)),
        (optional.clone(), Some(&good)),
        (optional.clone(), None),
    ] {
        let proxy = start(snapshot(&upstream, tls));
        let mut client = connect(&proxy, &authority, &Speaks { shows, ..Speaks::default() });
        client.send(get(HOST, "/"));
        assert_eq!(client.reply().status(), 200);
    }
    // What is shown is verified, also where nothing need be.
    let foreign = Authority::new().issue(&["a"], |_| {});
    let proxy = start(snapshot(&upstream, optional));
    let said = refusal(&proxy, &authority, &Speaks { shows: Some(&foreign), ..Speaks::default() });
    assert!(said.contains("UnknownCA"), "{said}");
}

#[test]
fn an_identity_of_the_mesh_is_of_our_trust_domain_or_an_alias() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let (elsewhere, aliased) = ("spiffe://elsewhere/ns/a/sa/b", "spiffe://old.domain/ns/a/sa/b");
    let tls = TlsTermination { trust_domain_aliases: vec!["old.domain".into()], ..istio_mutual(&authority) };
    let proxy = start(snapshot(&upstream, tls));
    for uri in [CART, aliased] {
        let shown = identity(&authority, uri, |_| {});
        // As our own clients offer it.
        let speaks = Speaks {
            shows: Some(&shown),
            alpn: &["istio-http/1.1", "istio", "http/1.1"],
            ..Speaks::default()
        };
        let mut client = lax(&proxy, &speaks);
        client.send(get(HOST, "/"));
        assert_eq!(client.reply().status(), 200, "{uri}");
        assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    for shown in [identity(&authority, elsewhere, |_| {}), authority.issue(&["cart.shop"], |_| {})] {
        let mut client = lax(&proxy, &Speaks { shows: Some(&shown), ..Speaks::default() });
        client.stream.write_all(get(HOST, "/").as_bytes()).unwrap();
        let error = client.stream.read_exact(&mut [0]).unwrap_err().to_string();
        assert!(error.contains("CertificateUnknown"), "{error}");
    }
    counted(&proxy, "trust_domain", 2.0);
}

/// A client that takes whatever certificate the server has.
pub(crate) fn lax(proxy: &Proxy, speaks: &Speaks<'_>) -> Client<Tls> {
    #[derive(Debug)]
    struct Anybody;
    impl rustls::client::danger::ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
    let mut lax = ClientConfig::clone(&config(&Authority::new(), speaks));
    lax.dangerous().set_certificate_verifier(Arc::new(Anybody));
    Client::over(handshake(proxy, Arc::new(lax), speaks.sni).unwrap())
}

#[test]
fn versions_and_suites_are_those_that_were_asked_for() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let only_13 = TlsTermination { min_version: TlsVersion::Tls13, ..simple(&authority) };
    let only_12 = TlsTermination {
        max_version: TlsVersion::Tls12,
        cipher_suites: Some(vec![CipherSuite::EcdheEcdsaAes256Gcm]),
        ..simple(&authority)
    };
    let no_suite_of_12 = TlsTermination { cipher_suites: Some(Vec::new()), ..simple(&authority) };
    let (tls12, tls13) = (&rustls::version::TLS12, &rustls::version::TLS13);
    for (tls, good, bad) in
        [(&only_13, tls13, tls12), (&only_12, tls12, tls13), (&no_suite_of_12, tls13, tls12)]
    {
        let proxy = start(snapshot(&upstream, tls.clone()));
        let mut client = connect(&proxy, &authority, &Speaks { versions: &[good], ..Speaks::default() });
        client.send(get(HOST, "/"));
        assert_eq!(client.reply().status(), 200);
        if tls == &only_12 {
            let suite = client.stream.conn.negotiated_cipher_suite().unwrap().suite();
            assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
        }
        let said = refusal(&proxy, &authority, &Speaks { versions: &[bad], ..Speaks::default() });
        assert!(said.contains("ProtocolVersion"), "{said}");
        counted(&proxy, "nothing_in_common", 1.0);
    }
}

#[test]
fn tls_that_cannot_be_ended_fails_and_names_of_nobody_are_refused() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let missing = Credential::MeshIdentity { directory: authority.folder.path().join("nothing") };
    for (tls, sni, details) in [
        (
            TlsTermination { impossible: Some("no identity".into()), ..simple(&authority) },
            HOST,
            "tls_handshake_unavailable",
        ),
        (TlsTermination::simple(CertificateSource::Credential(missing)), HOST, "tls_handshake_unavailable"),
        (simple(&authority), "nobody.example.com", "-"),
    ] {
        let proxy = start(snapshot(&upstream, tls));
        let refused = handshake(&proxy, config(&authority, &Speaks::default()), sni);
        assert!(refused.is_err(), "{details}");
        let record = proxy.records.only();
        assert_eq!(record.text("connection_termination_details"), details);
        assert_eq!(record.text("requested_server_name"), sni);
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn opaque_bytes_inside_tls_are_carried_both_ways_until_both_ends_are_done() {
    let authority = Authority::new();
    let upstream = Upstream::start(|mut client, _| {
        let asked = client.read_to_end();
        client.send(format!("{} bytes", asked.len()));
    });
    let proxy = start(opaque(Config::new(&[upstream.address]), simple(&authority)));
    let mut client = connect(&proxy, &authority, &Speaks { alpn: &["istio"], ..Speaks::default() });
    client.send(vec![b'x'; 1_000_000]);
    client.stream.conn.send_close_notify();
    client.stream.flush().unwrap();
    assert_eq!(String::from_utf8(client.read_to_end()).unwrap(), "1000000 bytes");
    drop(client);
    let record = proxy.records.only();
    assert_eq!(record.text("upstream_cluster"), format!("outbound|80||{HOST}"));
    assert_eq!((record.number("bytes_received"), record.number("bytes_sent")), (1_000_000, 13));
    assert_eq!(record.text("response_flags"), "-");
}

#[test]
fn a_client_that_stops_in_the_middle_of_its_handshake_costs_its_own_connection_only() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let proxy = start(snapshot(&upstream, simple(&authority)));
    let name = ServerName::try_from(HOST).unwrap();
    let mut connection = ClientConnection::new(config(&authority, &Speaks::default()), name).unwrap();
    let mut stalled = TcpStream::connect(proxy.address).unwrap();
    connection.write_tls(&mut stalled).unwrap();
    let mut client = connect(&proxy, &authority, &Speaks::default());
    client.send(get(HOST, "/"));
    assert_eq!(client.reply().status(), 200);
    drop(stalled);
    counted(&proxy, "gone", 1.0);
}
