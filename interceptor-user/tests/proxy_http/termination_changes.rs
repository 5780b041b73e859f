//! TLS of clients that ends here, when its settings or files change: what goes on, and who has to come again.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use http::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use interceptor_user::snapshot::TlsTermination;
use rcgen::SerialNumber;
use rustls::pki_types::ServerName;

use crate::support::{Client, HOST, PATIENCE, Proxy, Upstream, eventually, get};
use crate::termination::{Speaks, config, connect, handshake, mutual, simple, snapshot, start};
use crate::tls::Authority;

#[test]
fn who_was_let_in_by_other_settings_has_to_come_again() {
    let (authority, clients, upstream) = (Authority::new(), Authority::new(), Upstream::echo());
    let proxy = start(snapshot(&upstream, simple(&authority)));
    let mut client = connect(&proxy, &authority, &Speaks::default());
    client.send(get(HOST, "/"));
    assert_eq!(client.reply().status(), 200);
    proxy.reload(snapshot(&upstream, mutual(&authority, &clients)));
    client.send(get(HOST, "/"));
    let reply = client.reply();
    assert_eq!((reply.status(), reply.header("connection")), (421, Some("close")));
    assert_eq!(proxy.records.wait(2)[1].end(), (421, "NR", "tls_settings_changed"));
}

#[test]
fn http2_connections_of_those_who_have_to_come_again_end() {
    let (authority, clients, upstream) = (Authority::new(), Authority::new(), Upstream::echo());
    let proxy = start(snapshot(&upstream, simple(&authority)));
    let config = config(&authority, &Speaks { alpn: &["h2"], ..Speaks::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, socket).await.unwrap();
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
        let ended = tokio::spawn(connection);
        let get = || Request::get(format!("https://{HOST}/")).body(String::new()).unwrap();
        assert_eq!(sender.send_request(get()).await.unwrap().status(), 200);
        proxy.reload(snapshot(&upstream, mutual(&authority, &clients)));
        assert_eq!(sender.send_request(get()).await.unwrap().status(), 421);
        tokio::time::timeout(PATIENCE, ended).await.expect("the connection ends").unwrap().unwrap();
    });
}

#[test]
fn a_session_is_taken_up_again_by_those_only_who_would_be_let_in_now() {
    let (authority, clients, upstream) = (Authority::new(), Authority::new(), Upstream::echo());
    let shown = clients
        .issue(&["client.example.com"], |params| params.serial_number = Some(SerialNumber::from(7_u64)));
    let proxy = start(snapshot(&upstream, mutual(&authority, &clients)));
    let config = config(&authority, &Speaks { shows: Some(&shown), ..Speaks::default() });
    let again = |proxy: &Proxy| {
        let mut client = Client::over(handshake(proxy, Arc::clone(&config), HOST).unwrap());
        client.send(get(HOST, "/"));
        let status = client.reply().status();
        (status, client.stream.conn.handshake_kind().unwrap())
    };
    assert_eq!(again(&proxy), (200, rustls::HandshakeKind::Full));
    assert_eq!(again(&proxy), (200, rustls::HandshakeKind::Resumed));
    let revoked = TlsTermination { ca_crl: Some(clients.revoke(&[7], 2999)), ..mutual(&authority, &clients) };
    proxy.reload(snapshot(&upstream, revoked));
    let said = {
        let mut tls = handshake(&proxy, Arc::clone(&config), HOST).unwrap();
        tls.write_all(get(HOST, "/").as_bytes()).unwrap();
        tls.read_exact(&mut [0]).unwrap_err().to_string()
    };
    assert!(said.contains("CertificateRevoked"), "{said}");
}

/// For what the files hold after they are replaced.
#[test]
fn replaced_files_count_for_new_handshakes_and_open_connections_go_on() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let tls = simple(&authority);
    let proxy = start(snapshot(&upstream, tls));
    let shown = || {
        let client = connect(&proxy, &authority, &Speaks::default());
        client.stream.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let mut open = connect(&proxy, &authority, &Speaks::default());
    let before = open.stream.conn.peer_certificates().unwrap()[0].to_vec();
    let second = authority.issue(&[HOST], |_| {});
    replace(authority.folder.path(), &second.pem);
    eventually("the new certificate is shown", || shown() == second.certificate.to_vec());
    assert_ne!(before, second.certificate.to_vec());
    open.send(get(HOST, "/"));
    assert_eq!(open.reply().status(), 200);
    // What can't be used changes nothing.
    replace(authority.folder.path(), &("garbage".to_owned(), second.pem.1.clone()));
    let until = std::time::Instant::now() + std::time::Duration::from_millis(1500);
    while std::time::Instant::now() < until {
        assert_eq!(shown(), second.certificate.to_vec());
    }
}

fn replace(folder: &Path, (certificate, key): &(String, String)) {
    for (name, text) in [("server.crt", certificate), ("server.key", key)] {
        let fresh = folder.join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, folder.join(name)).unwrap();
    }
}
