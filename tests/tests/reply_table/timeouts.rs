//! Upstreams that take too long, for the route, for one try, or to be connected to.

use interceptor_tests::{World, read_head};

use crate::resources::{destination_rule, static_entry, virtual_service};
use crate::row::{Reply, Row};

#[test]
fn the_routes_timeout_and_a_trys() -> anyhow::Result<()> {
    let world = World::shared()?;
    let silent = world.origin(80, |mut socket| {
        read_head(&mut socket)?;
        read_head(&mut socket).map(drop)
    })?;
    let (name, address) = (silent.name(), silent.address);
    for (route, flags, details) in [
        ("timeout: 200ms, ", "UT", "upstream_response_timeout"),
        (
            "retries: {attempts: 1, perTryTimeout: 200ms, retryOn: connect-failure}, ",
            "UT",
            "upstream_per_try_timeout",
        ),
        (
            "retries: {attempts: 1, perTryTimeout: 200ms, retryOn: 5xx}, ",
            "UT,URX",
            "upstream_per_try_timeout",
        ),
    ] {
        Row {
            config: silent.service_entry("HTTP") + &virtual_service(&name, route, ""),
            registry_only: true,
            curl: vec![&silent.url("/")],
            reply: Reply::own("504 Gateway Timeout", "upstream request timeout"),
            log: format!(
                "\"GET / HTTP/1.1\" 504 {flags} {details} - \"-\" 0 24 <ms> - \"-\" \"<ua>\" \"<id>\" \"{name}\" \"{address}\" \
                 outbound|80||{name} <pod> {address} <client> - -"
            ),
        }
        .check()?;
    }
    Ok(())
}

#[test]
fn connect_timeout() -> anyhow::Result<()> {
    // What goes there is dropped without a word.
    World::shared()?.outside.ip("route replace blackhole 192.0.2.99/32\n")?;
    let timeout = "trafficPolicy: {connectionPool: {tcp: {connectTimeout: 200ms}}}";
    for (route, flags, retried, bytes) in [
        ("retries: {attempts: 0}, ", "UF", "", 91),
        ("retries: {attempts: 1, retryOn: connect-failure}, ", "UF,URX", "retried and the latest ", 114),
    ] {
        let body = format!(
            "upstream connect error or disconnect/reset before headers. {retried}reset reason: connection timeout"
        );
        Row {
            config: static_entry("far.test", 80, "{address: 192.0.2.99}")
                + &destination_rule("far.test", timeout)
                + &virtual_service("far.test", route, ""),
            registry_only: true,
            curl: vec!["--resolve", "far.test:80:192.0.2.7", "http://far.test/"],
            reply: Reply::own("503 Service Unavailable", &body),
            log: format!(
                "\"GET / HTTP/1.1\" 503 {flags} upstream_reset_before_response_started{{connection_timeout}} - \"-\" 0 {bytes} <ms> - \
                 \"-\" \"<ua>\" \"<id>\" \"far.test\" \"192.0.2.99:80\" outbound|80||far.test - 192.0.2.7:80 <client> - -"
            ),
        }
        .check()?;
    }
    Ok(())
}
