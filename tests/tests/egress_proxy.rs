//! A Sidecar's egressProxy: what nobody declared goes there, whatever its address, and the rest does not.

use std::io::{Read, Write};

use interceptor_tests::{World, echo_heads, python};

#[test]
fn hosts_that_nobody_declared_reach_the_egress_proxy() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let proxy = world.origin(3128, echo_heads)?;
    let address = proxy.address.ip();
    let config = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: proxy}}\nspec:\n  \
         hosts: [proxy.example.com]\n  addresses: [{address}]\n  \
         ports: [{{number: 3128, name: tcp, protocol: TCP}}]\n  resolution: STATIC\n  \
         endpoints: [{{address: {address}}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: google}}\nspec:\n  \
         hosts: [www.google.com]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: DNS\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default}}\nspec:\n  \
         outboundTrafficPolicy:\n    mode: ALLOW_ANY\n    egressProxy: {{host: proxy.example.com, port: {{number: 3128}}}}\n"
    );
    let mut session = pod.interceptor()?.config(&config)?.session()?;
    // Nobody is at these addresses.
    for (url, address) in [
        ("http://unknown.example.net/", "unknown.example.net:80:203.0.113.250"),
        ("http://unknown.example.net:7000/", "unknown.example.net:7000:203.0.113.250"),
    ] {
        let (code, http) = session.curl(&format!("--resolve {address} {url}"))?;
        let body = http.map(|http| http.body).unwrap_or_default();
        assert!(
            code == 0 && body.to_lowercase().contains("host: unknown.example.net"),
            "{url}: {code} {body}"
        );
    }
    let (_, declared) = session.curl("http://www.google.com/")?;
    assert!(declared.is_some_and(|http| http.body.starts_with("www.google.com says hello")));
    let run = session.finish()?;
    let lines = run.lines()?;
    let seen: Vec<_> =
        lines.iter().map(|line| (line.cluster.as_str(), line.route.as_str(), line.code)).collect();
    let cluster = "outbound|3128||proxy.example.com";
    // On a port that nobody has requests are opaque bytes.
    let expected =
        [(cluster, "allow_any", 200), (cluster, "-", 0), ("outbound|80||www.google.com", "default", 200)];
    assert_eq!(seen, expected, "{}", run.log);
    assert_eq!(proxy.connections(), 2);
    Ok(())
}

#[test]
fn servers_that_speak_first_are_the_egress_proxys_too() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let proxy = world.origin(3128, |mut socket| {
        socket.write_all(b"220 proxy\r\n")?;
        let mut all = Vec::new();
        socket.read_to_end(&mut all)?;
        socket.write_all(&all)
    })?;
    let config = format!(
        "{}---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default}}\nspec:\n  \
         outboundTrafficPolicy:\n    mode: ALLOW_ANY\n    egressProxy: {{host: {}, port: {{number: 3128}}}}\n",
        proxy.service_entry("TCP"),
        proxy.name()
    );
    let run = pod.interceptor()?.config(&config)?.run(&python(
        "s = socket.create_connection(('203.0.113.250', 25), 20)\nprint(s.recv(100))\n\
         s.sendall(b'ehlo'); s.shutdown(socket.SHUT_WR); print(s.recv(100))\n",
    )?)?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "b'220 proxy\\r\\n'\nb'ehlo'\n");
    Ok(())
}
