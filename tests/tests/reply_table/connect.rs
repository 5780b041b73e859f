//! Upstreams that can't be connected to: refused, or TLS that fails.

use interceptor_tests::World;

use crate::resources::{destination_rule, virtual_service};
use crate::row::{Reply, Row};

const BEFORE_HEADERS: &str = "upstream connect error or disconnect/reset before headers.";

#[test]
fn connect_refused() -> anyhow::Result<()> {
    let closed = World::shared()?.origin(80, |_| Ok(()))?;
    let (name, address, url) = (closed.name(), closed.address, closed.url("/"));
    let entry = closed.service_entry("HTTP");
    drop(closed);
    for (route, flags, retried, bytes) in [
        ("retries: {attempts: 0}, ", "UF", "", 167),
        ("", "UF,URX", "retried and the latest ", 190),
        ("retries: {attempts: 1, retryOn: gateway-error}, ", "UF,URX", "retried and the latest ", 190),
    ] {
        let body = format!(
            "{BEFORE_HEADERS} {retried}reset reason: remote connection failure, transport failure reason: delayed connect error: \
             Connection refused"
        );
        Row {
            config: entry.clone() + &virtual_service(&name, route, ""),
            registry_only: true,
            curl: vec![&url],
            reply: Reply::own("503 Service Unavailable", &body),
            log: format!(
                "\"GET / HTTP/1.1\" 503 {flags} \
                 upstream_reset_before_response_started{{remote_connection_failure|delayed_connect_error:_Connection_refused}} - \
                 \"delayed_connect_error:_Connection_refused\" 0 {bytes} <ms> - \"-\" \"<ua>\" \"<id>\" \"{name}\" \"{address}\" \
                 outbound|80||{name} - {address} <client> - -"
            ),
        }
        .check()?;
    }
    Ok(())
}

/// A host whose port 80 becomes TLS to `port`: the class of its failure.
fn tls_failure(host: &str, address: &str, port: u16, class: &str) -> anyhow::Result<()> {
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: entry}}\nspec:\n  hosts: [{host}]\n  \
         ports: [{{number: 80, name: p, protocol: HTTP, targetPort: {port}}}]\n  resolution: DNS\n"
    );
    let reason = format!("TLS_error:|{class}:TLS_error_end");
    let logged = reason.replace(' ', "_");
    for (route, flags, retried) in
        [("retries: {attempts: 0}, ", "UF", ""), ("", "UF,URX", "retried and the latest ")]
    {
        let body = format!(
            "{BEFORE_HEADERS} {retried}reset reason: remote connection failure, transport failure reason: {reason}: <words>"
        );
        Row {
            config: entry.clone()
                + &destination_rule(host, "trafficPolicy: {tls: {mode: SIMPLE}}")
                + &virtual_service(host, route, ""),
            registry_only: true,
            curl: vec![&format!("http://{host}/")],
            reply: Reply::own_with_words("503 Service Unavailable", &body),
            log: format!(
                "\"GET / HTTP/1.1\" 503 {flags} \
                 upstream_reset_before_response_started{{remote_connection_failure|{logged}:_<details>}} - \"{logged}:_<details>\" 0 <n> <ms> - \
                 \"-\" \"<ua>\" \"<id>\" \"{host}\" \"{address}:{port}\" outbound|80||{host} - {address}:80 <client> - -"
            ),
        }
        .check()?;
    }
    Ok(())
}

const VERIFY_FAILED: &str = "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED";

#[test]
fn tls_certificate_out_of_date() -> anyhow::Result<()> {
    tls_failure("expired.test", "203.0.113.60", 443, VERIFY_FAILED)
}

#[test]
fn tls_certificate_of_somebody_else() -> anyhow::Result<()> {
    tls_failure("wrong-name.test", "203.0.113.61", 443, VERIFY_FAILED)
}

#[test]
fn tls_to_a_plaintext_port() -> anyhow::Result<()> {
    let class = "268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER";
    tls_failure("hbchen.com", "203.0.113.51", 80, class)
}
