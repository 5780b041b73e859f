//! Hosts that are known, and hosts that are not: through, or blocked.

use std::io::Write;

use interceptor_tests::{Origin, World, read_head};

use crate::resources::{static_entry, virtual_service};
use crate::row::{Reply, Row};

/// Answers every connection's first request with two bytes and a `Server` of its own.
fn greeting(world: &World, port: u16) -> anyhow::Result<Origin> {
    world.origin(port, |mut socket| {
        read_head(&mut socket)?;
        socket.write_all(b"HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Length: 2\r\n\r\nok")
    })
}

fn greeted() -> Reply {
    Reply::upstream("200 OK", &["server: origin", "content-length: 2"], "ok")
}

/// Makes port 80 one where Host decides.
fn somebody_else() -> String {
    static_entry("somebody-else.test", 80, "{address: 192.0.2.1}")
}

#[test]
fn route_found() -> anyhow::Result<()> {
    let origin = greeting(World::shared()?, 80)?;
    let (name, address) = (origin.name(), origin.address);
    for (route, logged) in [("", "-"), ("name: mine, ", "mine")] {
        Row {
            config: origin.service_entry("HTTP") + &virtual_service(&name, route, ""),
            registry_only: true,
            curl: vec![&origin.url("/a?b=c")],
            reply: greeted(),
            log: format!(
                "\"GET /a?b=c HTTP/1.1\" 200 - via_upstream - \"-\" 0 2 <ms> <ms> \"-\" \"<ua>\" \"<id>\" \"{name}\" \"{address}\" \
                 outbound|80||{name} <pod> {address} <client> - {logged}"
            ),
        }
        .check()?;
    }
    Row {
        config: origin.service_entry("HTTP"),
        registry_only: true,
        curl: vec!["-d", "12345", &origin.url("/")],
        reply: greeted(),
        log: format!(
            "\"POST / HTTP/1.1\" 200 - via_upstream - \"-\" 5 2 <ms> <ms> \"-\" \"<ua>\" \"<id>\" \"{name}\" \"{address}\" \
             outbound|80||{name} <pod> {address} <client> - default"
        ),
    }
    .check()
}

#[test]
fn allow_any_unknown_http_host() -> anyhow::Result<()> {
    let origin = greeting(World::shared()?, 80)?;
    let (name, address) = (origin.name(), origin.address);
    Row {
        config: somebody_else(),
        registry_only: false,
        curl: vec![&origin.url("/")],
        reply: greeted(),
        log: format!(
            "\"GET / HTTP/1.1\" 200 - via_upstream - \"-\" 0 2 <ms> <ms> \"-\" \"<ua>\" \"<id>\" \"{name}\" \"{address}\" \
             PassthroughCluster <pod> {address} <client> - allow_any"
        ),
    }
    .check()
}

#[test]
fn allow_any_unknown_tls_and_tcp() -> anyhow::Result<()> {
    Row {
        config: somebody_else(),
        registry_only: false,
        curl: vec!["https://edition.cnn.com/"],
        reply: Reply::Any,
        log: "\"- - -\" 0 - - - \"-\" <n> <n> <ms> - \"-\" \"-\" \"-\" \"-\" \"203.0.113.30:443\" PassthroughCluster <pod> \
              203.0.113.30:443 <client> edition.cnn.com -"
            .to_owned(),
    }
    .check()?;
    // Nobody declared 9000: bytes, whatever they say.
    let origin = greeting(World::shared()?, 9000)?;
    let address = origin.address;
    Row {
        config: somebody_else(),
        registry_only: false,
        curl: vec![&origin.url("/")],
        reply: Reply::Any,
        log: format!(
            "\"- - -\" 0 - - - \"-\" <n> 56 <ms> - \"-\" \"-\" \"-\" \"-\" \"{address}\" PassthroughCluster <pod> {address} \
             <client> - -"
        ),
    }
    .check()
}

#[test]
fn registry_only_unknown_http() -> anyhow::Result<()> {
    Row {
        config: somebody_else(),
        registry_only: true,
        curl: vec!["http://edition.cnn.com/"],
        reply: Reply::own("502 Bad Gateway", ""),
        log: "\"GET / HTTP/1.1\" 502 - direct_response - \"-\" 0 0 <ms> - \"-\" \"<ua>\" \"<id>\" \"edition.cnn.com\" \"-\" - - \
              203.0.113.30:80 <client> - block_all"
            .to_owned(),
    }
    .check()
}

#[test]
fn registry_only_unknown_https() -> anyhow::Result<()> {
    Row {
        config: somebody_else(),
        registry_only: true,
        curl: vec!["https://edition.cnn.com/"],
        reply: Reply::Closed(&[35]),
        log: "\"- - -\" 0 UH - - \"-\" 0 0 <ms> - \"-\" \"-\" \"-\" \"-\" \"-\" BlackHoleCluster - 203.0.113.30:443 <client> \
              edition.cnn.com -"
            .to_owned(),
    }
    .check()
}

#[test]
fn registry_only_plain_http_on_a_port_without_a_service() -> anyhow::Result<()> {
    Row {
        config: somebody_else(),
        registry_only: true,
        curl: vec!["http://edition.cnn.com:8080/"],
        reply: Reply::Closed(&[52, 56]),
        log: "\"- - -\" 0 UH - - \"-\" 0 0 <ms> - \"-\" \"-\" \"-\" \"-\" \"-\" BlackHoleCluster - 203.0.113.30:8080 <client> - -"
            .to_owned(),
    }
    .check()
}

#[test]
fn no_route_of_the_host_takes_the_request() -> anyhow::Result<()> {
    let origin = greeting(World::shared()?, 80)?;
    let (name, address) = (origin.name(), origin.address);
    Row {
        config: origin.service_entry("HTTP")
            + &virtual_service(&name, "match: [{uri: {prefix: /only}}], ", ""),
        registry_only: false,
        curl: vec![&origin.url("/other")],
        reply: Reply::own("404 Not Found", ""),
        log: format!(
            "\"GET /other HTTP/1.1\" 404 NR route_not_found - \"-\" 0 0 <ms> - \"-\" \"<ua>\" \"<id>\" \"{name}\" \"-\" - - {address} \
             <client> - -"
        ),
    }
    .check()
}

#[test]
fn unknown_subset() -> anyhow::Result<()> {
    let origin = greeting(World::shared()?, 80)?;
    let (name, address) = (origin.name(), origin.address);
    Row {
        config: origin.service_entry("HTTP") + &virtual_service(&name, "name: r, ", ", subset: nobody"),
        registry_only: false,
        curl: vec![&origin.url("/")],
        reply: Reply::own("503 Service Unavailable", ""),
        log: format!(
            "\"GET / HTTP/1.1\" 503 NC cluster_not_found - \"-\" 0 0 <ms> - \"-\" \"<ua>\" \"<id>\" \"{name}\" \"-\" - - {address} \
             <client> - r"
        ),
    }
    .check()?;
    anyhow::ensure!(origin.connections() == 0, "something was connected");
    Ok(())
}
