//! Copies over real TLS upstream connections.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, LocalSet};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use super::{NEVER, connected};
use crate::proxy::copy::{CopyEnd, Transferred, copy_bidirectional_io};

fn connector_and_acceptor() -> (TlsConnector, TlsAcceptor) {
    let signed = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let certificate = signed.cert.der().clone();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(client).into(), Arc::new(server).into())
}

/// A client in clear, an origin that speaks TLS, and the copy between them.
async fn copying() -> (TcpStream, server::TlsStream<TcpStream>, JoinHandle<(CopyEnd, u64, u64)>) {
    let (connector, acceptor) = connector_and_acceptor();
    let (client, downstream) = connected().await;
    let (upstream, origin) = connected().await;
    let name = ServerName::try_from("a.example").unwrap();
    let (upstream, origin) = tokio::join!(connector.connect(name, upstream), acceptor.accept(origin));
    let upstream = upstream.unwrap();
    let copy = tokio::task::spawn_local(async move {
        let progress = Transferred::default();
        let end = copy_bidirectional_io(&downstream, upstream, NEVER, &progress).await;
        (end, progress.received.get(), progress.sent.get())
    });
    (client, origin.unwrap(), copy)
}

async fn run(test: impl Future<Output = ()>) {
    let ended = tokio::time::timeout(Duration::from_secs(60), LocalSet::new().run_until(test)).await;
    assert!(ended.is_ok(), "it hangs");
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    run(async {
        let (mut client, mut origin, copy) = copying().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        origin.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        let answer = vec![7; 3_000_000];
        let (written, read) = tokio::join!(
            async {
                origin.write_all(&answer).await?;
                origin.shutdown().await
            },
            async {
                let mut read = Vec::new();
                client.read_to_end(&mut read).await.map(|_| read)
            }
        );
        written.unwrap();
        assert!(read.unwrap() == answer);
        let (end, received, sent) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::Closed), "{end:?}");
        assert_eq!((received, sent), (8, 3_000_000));
    })
    .await;
}

#[tokio::test]
async fn small_messages_are_not_kept_back() {
    run(async {
        let (mut client, mut origin, _copy) = copying().await;
        let mut buffer = [0; 4];
        for _ in 0..100 {
            client.write_all(b"ping").await.unwrap();
            origin.read_exact(&mut buffer).await.unwrap();
            origin.write_all(b"pong").await.unwrap();
            origin.flush().await.unwrap();
            client.read_exact(&mut buffer).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn the_end_of_tcp_without_the_end_of_tls_is_an_end() {
    run(async {
        let (mut client, mut origin, copy) = copying().await;
        origin.write_all(b"all of it").await.unwrap();
        origin.flush().await.unwrap();
        drop(origin);
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"all of it");
        client.shutdown().await.unwrap();
        let (end, ..) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::Closed | CopyEnd::UpstreamFailed(_)), "{end:?}");
    })
    .await;
}
