//! proxyProtocol: what a server reads first, and whose connection it is.

use interceptor_user::snapshot::ProxyProtocol;

use crate::support::{Config, HOST, Upstream, get};

#[test]
fn each_request_has_a_connection_that_begins_with_its_client() {
    let upstream = Upstream::start(|mut client, _| {
        let announced = client.read_until("\r\n");
        while client.request().is_some() {
            let body = announced.trim();
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let mut config = Config::new(&[upstream.address]);
    config.cluster.proxy_protocol = Some(ProxyProtocol::V1);
    let proxy = config.start();
    let mut clients = [proxy.client(), proxy.client()];
    for _ in 0..2 {
        for client in &mut clients {
            let port = client.stream.local_addr().unwrap().port();
            client.send(get(HOST, "/"));
            assert_eq!(client.reply().text(), format!("PROXY TCP4 127.0.0.1 192.0.2.1 {port} 80"));
        }
    }
    assert_eq!(upstream.connections(), 4);
}
