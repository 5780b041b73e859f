//! ISTIO_MUTUAL: an identity of the mesh at both ends, or nothing is sent.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use interceptor_user::snapshot::{Credential, TlsOrigination, TlsOriginationMode, UpstreamProtocol};
use rcgen::{CertificateParams, SanType, date_time_ymd};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::support::{Client, Config, Upstream, eventually};
use crate::tls::{Authority, Issued, assert_unverified, proxy};

const SERVER: &str = "spiffe://cluster.local/ns/istio-system/sa/istio-egressgateway";
const OURS: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// A certificate for this URI.
pub(crate) fn identity(
    authority: &Authority,
    uri: &str,
    adjust: impl FnOnce(&mut CertificateParams),
) -> Issued {
    authority.issue(&[], |params| {
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        adjust(params);
    })
}

pub(crate) fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 2, 1);
}

/// The files of an identity, by Istio's names.
pub(crate) fn istio<'a>(issued: &'a Issued, root: &'a str) -> [(&'static str, &'a str); 3] {
    [("cert-chain.pem", &issued.pem.0), ("key.pem", &issued.pem.1), ("root-cert.pem", root)]
}

pub(crate) fn write(directory: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(directory).unwrap();
    for (name, text) in files {
        fs::write(directory.join(name), text).unwrap();
    }
}

fn mutual(directory: &Path) -> TlsOrigination {
    TlsOrigination {
        mode: TlsOriginationMode::IstioMutual,
        sni: Some("outbound_.443_.v1_.istio-egressgateway.istio-system.svc.cluster.local".into()),
        credential: Some(Credential::MeshIdentity { directory: directory.to_owned() }),
        ..TlsOrigination::simple()
    }
}

/// What a server saw of a client.
struct Handshake {
    sni: String,
    protocol: String,
    certificate: Vec<u8>,
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Handshake>>>);

impl Seen {
    fn snis(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|seen| seen.sni.clone()).collect()
    }

    fn protocols(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|seen| seen.protocol.clone()).collect()
    }

    /// The certificate of the last one.
    fn certificate(&self) -> Vec<u8> {
        self.0.lock().unwrap().last().map(|seen| seen.certificate.clone()).unwrap_or_default()
    }
}

/// A server of the mesh, which wants a certificate of `authority` and speaks one of `protocols`.
fn server(authority: &Authority, issued: Issued, protocols: &[&str]) -> (Upstream, Seen) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(vec![issued.certificate], issued.key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let (config, seen) = (Arc::new(config), Seen::default());
    let sink = seen.clone();
    let upstream = Upstream::start(move |client, _| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), client.stream);
        while stream.conn.is_handshaking() {
            if stream.conn.complete_io(&mut stream.sock).is_err() {
                return;
            }
        }
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"-")).into_owned();
        let certificate = stream.conn.peer_certificates().and_then(|chain| chain.first());
        sink.0.lock().unwrap().push(Handshake {
            sni: stream.conn.server_name().unwrap_or("-").to_owned(),
            protocol: text(stream.conn.alpn_protocol()),
            certificate: certificate.map(|certificate| certificate.to_vec()).unwrap_or_default(),
        });
        if stream.conn.alpn_protocol().is_some_and(|name| name.ends_with(b"h2")) {
            return;
        }
        let mut client = Client::over(stream);
        while let Some(request) = client.request() {
            // A connection for each request, unless it is to be kept.
            let close = if request.head.starts_with("GET /keep ") { "" } else { "connection: close\r\n" };
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{close}\r\n"));
        }
    });
    (upstream, seen)
}

fn folder(authority: &Authority) -> PathBuf {
    authority.folder.path().join("identity")
}

#[test]
fn both_ends_show_an_identity() {
    let authority = Authority::new();
    let (root, own) = (authority.issuer.pem(), identity(&authority, OURS, |_| {}));
    let of_istio = istio(&own, &root);
    let of_cert_manager = [("tls.crt", of_istio[0].1), ("tls.key", of_istio[1].1), ("ca.crt", of_istio[2].1)];
    for files in [of_istio, of_cert_manager] {
        let (upstream, seen) = server(&authority, identity(&authority, SERVER, |_| {}), &[]);
        write(&folder(&authority), &files);
        let reply = proxy(&upstream, mutual(&folder(&authority))).get("/");
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let sni = "outbound_.443_.v1_.istio-egressgateway.istio-system.svc.cluster.local";
        assert_eq!((seen.snis(), seen.certificate()), (vec![sni.to_owned()], own.certificate.to_vec()));
        fs::remove_dir_all(folder(&authority)).unwrap();
    }
}

/// Istio's proxies tell by ALPN that it is one of them, and what is inside.
#[test]
fn protocols_are_offered_as_istio_does() {
    let authority = Authority::new();
    let root = authority.issuer.pem();
    write(&folder(&authority), &istio(&identity(&authority, OURS, |_| {}), &root));
    for (protocol, of_server, expected) in [
        (UpstreamProtocol::Http1, &["istio-peer-exchange", "istio-http/1.1", "istio"][..], "istio-http/1.1"),
        (UpstreamProtocol::Http1, &["h2", "http/1.1"], "http/1.1"),
        (UpstreamProtocol::Http2, &["istio-http/1.1", "istio-h2"], "istio-h2"),
        (UpstreamProtocol::Http2, &["h2", "http/1.1"], "h2"),
    ] {
        let (upstream, seen) = server(&authority, identity(&authority, SERVER, |_| {}), of_server);
        let mut config = Config::new(&[upstream.address]);
        config.cluster.tls = Some(mutual(&folder(&authority)));
        config.cluster.protocol = protocol;
        // The server leaves those with HTTP/2.
        let status = if protocol == UpstreamProtocol::Http1 { 200 } else { 503 };
        assert_eq!(config.start().get("/").status(), status);
        assert_eq!(seen.protocols(), [expected], "{protocol:?} {of_server:?}");
    }
}

#[test]
fn a_server_without_an_identity_of_the_mesh_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let root = authority.issuer.pem();
    write(&folder(&authority), &istio(&identity(&authority, OURS, |_| {}), &root));
    let elsewhere = "spiffe://elsewhere/ns/istio-system/sa/istio-egressgateway";
    let two = |params: &mut CertificateParams| {
        params.subject_alt_names.push(SanType::URI(elsewhere.try_into().unwrap()));
    };
    let another = |params: &mut CertificateParams| {
        params.subject_alt_names.push(SanType::URI("https://elsewhere.example".try_into().unwrap()));
    };
    for (issued, reason) in [
        (
            identity(&other, SERVER, |_| {}),
            "unknown issuer: the CA that signed it has to be in root-cert.pem",
        ),
        (identity(&authority, elsewhere, |_| {}), "is of trust domain elsewhere, ours of cluster.local"),
        (identity(&authority, "https://cluster.local/ns/a/sa/b", |_| {}), "it has no identity"),
        (identity(&authority, "spiffe://cluster.local", |_| {}), "it has no identity"),
        (identity(&authority, SERVER, two), "it has several URIs"),
        (identity(&authority, SERVER, another), "it has several URIs"),
        (
            authority.issue(&["istio-egressgateway.istio-system.svc.cluster.local"], |_| {}),
            "it has no identity",
        ),
        (identity(&authority, SERVER, expired), "expired"),
    ] {
        let (upstream, seen) = server(&authority, issued, &[]);
        let proxy = proxy(&upstream, mutual(&folder(&authority)));
        assert_unverified(&proxy.get("/"), &proxy, reason);
        assert_eq!(seen.snis(), [] as [&str; 0], "{reason}");
    }
}

#[test]
fn names_of_the_rule_take_the_place_of_the_trust_domain() {
    let authority = Authority::new();
    let root = authority.issuer.pem();
    write(&folder(&authority), &istio(&identity(&authority, OURS, |_| {}), &root));
    let elsewhere = "spiffe://elsewhere/ns/a/sa/b";
    let named = |names: &[&str]| TlsOrigination {
        subject_alt_names: names.iter().map(|name| (*name).into()).collect(),
        ..mutual(&folder(&authority))
    };
    let (upstream, _) = server(&authority, identity(&authority, elsewhere, |_| {}), &[]);
    assert_eq!(proxy(&upstream, named(&[SERVER, elsewhere])).get("/").status(), 200);
    let proxy = proxy(&upstream, named(&[SERVER]));
    assert_unverified(&proxy.get("/"), &proxy, &format!("not valid for name \"{SERVER}\""));
}

#[test]
fn an_identity_that_cannot_be_used_is_told_and_nothing_is_sent() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (root, upstream) = (authority.issuer.pem(), Upstream::echo());
    let (good, foreign) = (identity(&authority, OURS, |_| {}), identity(&other, OURS, |_| {}));
    let not_yet = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(3000, 1, 1);
        params.not_after = date_time_ymd(3001, 1, 1);
    };
    let (past, future) = (identity(&authority, OURS, expired), identity(&authority, OURS, not_yet));
    let nameless = authority.issue(&["cart.shop.svc"], |_| {});
    let mixed = [istio(&good, &root)[0], istio(&foreign, &root)[1], istio(&good, &root)[2]];
    for (files, reason) in [
        (&[][..], "no cert-chain.pem and key.pem, or tls.crt and tls.key, in "),
        (&istio(&good, &root)[..1], "no cert-chain.pem and key.pem, or tls.crt and tls.key, in "),
        (&istio(&good, &root)[..2], "no root-cert.pem or ca.crt in "),
        (&istio(&past, &root), "can't be used: it expired at 2020-02-01T00:00:00Z"),
        (&istio(&future, &root), "can't be used: it is valid from 3000-01-01T00:00:00Z"),
        (&istio(&nameless, &root), "it has no identity: none of its names is spiffe://TRUST-DOMAIN/…"),
        (&istio(&good, "garbage"), "no certificate in PEM form there"),
        (&mixed, "keys may not be consistent"),
    ] {
        write(&folder(&authority), files);
        let proxy = proxy(&upstream, mutual(&folder(&authority)));
        let reply = proxy.get("/");
        assert_eq!(reply.status(), 503, "{reason}");
        assert!(reply.text().contains(reason), "{} is not {reason}", reply.text());
        assert_eq!(proxy.records.only().text("response_flags"), "UF");
        fs::remove_dir_all(folder(&authority)).unwrap();
    }
    assert_eq!(upstream.connections(), 0);
}

/// As a mounted secret is replaced: a link to the directory of its files is swapped.
#[test]
fn a_renewed_identity_is_shown_from_then_on() {
    let authority = Authority::new();
    let root = authority.issuer.pem();
    let directory = folder(&authority);
    let mounted = |version: &str, files: &[(&str, &str)]| {
        write(&directory.join(version), files);
        symlink(version, directory.join("..new")).unwrap();
        fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
    };
    let (first, second) = (identity(&authority, OURS, |_| {}), identity(&authority, OURS, |_| {}));
    mounted("..1", &istio(&first, &root));
    for (name, _) in istio(&first, &root) {
        symlink(Path::new("..data").join(name), directory.join(name)).unwrap();
    }
    let (upstream, seen) = server(&authority, identity(&authority, SERVER, |_| {}), &[]);
    let proxy = proxy(&upstream, mutual(&directory));
    let shown = || {
        let reply = proxy.get("/");
        (reply.status(), seen.certificate())
    };
    assert_eq!(shown(), (200, first.certificate.to_vec()));
    mounted("..2", &istio(&second, &root));
    eventually("the renewed one is shown", || shown() == (200, second.certificate.to_vec()));

    mounted("..3", &istio(&identity(&authority, OURS, expired), &root));
    eventually("the expired one is refused", || {
        let reply = proxy.get("/");
        reply.status() == 503 && reply.text().contains("it expired at 2020-02-01T00:00:00Z")
    });
    mounted("..4", &istio(&first, &root));
    eventually("the first one is shown again", || shown() == (200, first.certificate.to_vec()));
}

/// Files that take the place of others at once, as those of a secret's volume do.
fn swap(directory: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let fresh = directory.join(format!(".{name}"));
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, directory.join(name)).unwrap();
    }
}

#[test]
fn a_replaced_identity_gets_no_more_requests_on_kept_connections() {
    let authority = Authority::new();
    let root = authority.issuer.pem();
    let (upstream, seen) = server(&authority, identity(&authority, SERVER, |_| {}), &[]);
    let (first, second) = (identity(&authority, OURS, |_| {}), identity(&authority, OURS, |_| {}));
    write(&folder(&authority), &istio(&first, &root));
    let proxy = proxy(&upstream, mutual(&folder(&authority)));
    for _ in 0..3 {
        assert_eq!(proxy.get("/keep").status(), 200);
    }
    assert_eq!((upstream.connections(), seen.certificate()), (1, first.certificate.to_vec()));
    swap(&folder(&authority), &istio(&second, &root));
    eventually("the new identity is shown", || {
        assert_eq!(proxy.get("/keep").status(), 200);
        seen.certificate() == second.certificate.to_vec()
    });
    let connections = upstream.connections();
    assert_eq!(proxy.get("/keep").status(), 200);
    // The new one is kept, and those before are gone.
    assert_eq!(upstream.connections(), connections);
    assert_eq!(connections, 2);
}

#[test]
fn an_expired_identity_gets_no_more_requests_on_kept_connections() {
    let authority = Authority::new();
    let root = authority.issuer.pem();
    let (upstream, _) = server(&authority, identity(&authority, SERVER, |_| {}), &[]);
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(4);
    let own = identity(&authority, OURS, |params| params.not_after = soon.into());
    write(&folder(&authority), &istio(&own, &root));
    let proxy = proxy(&upstream, mutual(&folder(&authority)));
    assert_eq!(proxy.get("/keep").status(), 200);
    eventually("the identity expires", || proxy.get("/keep").status() == 503);
    assert_eq!(upstream.connections(), 1);
    let reply = proxy.get("/keep");
    assert!(reply.text().contains("it expired at"), "{}", reply.text());
}
