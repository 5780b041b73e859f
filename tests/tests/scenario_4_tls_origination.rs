//! Scenario 4: the app says http, the server gets TLS, and the app's own HTTPS still works.

use interceptor_tests::{World, seeds};

#[test]
fn apple_is_redirected_before_and_not_after() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let before =
        pod.interceptor()?.config(&seeds(&["000-03-se"])?)?.curl(&["-I", "http://www.apple.com/"])?;
    before.expect_code(0)?;
    assert_eq!(before.http()?.status_line, "HTTP/1.1 301 Moved Permanently");
    world.nginx.wait_hits(&pod.address, 1)?;

    let pod = world.pod()?;
    let after = pod
        .interceptor()?
        .config(&seeds(&["000-03-se", "000-04-vs", "000-05-dr"])?)?
        .registry_only()
        .curl(&["-L", "http://www.apple.com:80/"])?;
    after.expect_code(0)?;
    assert_eq!(after.http()?.status_line, "HTTP/1.1 200 OK");
    assert_eq!(after.http()?.body, "www.apple.com says hello over https\n");
    let line = after.line()?;
    assert_eq!(line.cluster, "outbound|443|tls-origination|www.apple.com");
    assert_eq!((line.upstream_host.as_str(), line.local.as_str()), ("203.0.113.40:443", "203.0.113.40:80"));

    let hits = world.nginx.wait_hits(&pod.address, 1)?;
    assert_eq!(hits.len(), 1, "exactly one request reaches the server: {hits:?}");
    let hit = &hits[0];
    assert_eq!((hit.get("server"), hit.get("sni")), ("203.0.113.40:443", "www.apple.com"));
    assert!(["TLSv1.2", "TLSv1.3"].contains(&hit.get("tls")), "{hit:?}");
    // No ALPN for an HTTPS port: the request goes out as HTTP/1.1.
    assert_eq!((hit.get("alpn"), hit.get("protocol"), hit.get("attempt")), ("", "HTTP/1.1", "1"));
    assert_eq!(hit.get("host").trim_end_matches(":80"), "www.apple.com");
    assert_eq!(hit.get("operation"), "www.apple.com:443/*");
    Ok(())
}

#[test]
fn the_apps_own_https_is_not_wrapped_again() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod
        .interceptor()?
        .config(&seeds(&["000-03-se", "000-04-vs", "000-05-dr"])?)?
        .registry_only()
        .curl(&["https://www.apple.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status_line, "HTTP/2 200 ");
    assert_eq!(run.line()?.cluster, "outbound|443||www.apple.com");
    assert_eq!(world.nginx.wait_hits(&pod.address, 1)?[0].get("alpn"), "h2");
    Ok(())
}

#[test]
fn a_host_outside_the_virtual_service_keeps_its_redirect() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod
        .interceptor()?
        .config(&seeds(&["000-03-se", "000-04-vs", "000-05-dr"])?)?
        .curl(&["http://apple.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 301, "*.apple.com does not hold apple.com");
    assert_eq!(run.line()?.cluster, "outbound|80||apple.com");
    Ok(())
}

#[test]
fn aliyun_with_http_and_tls_routes() -> anyhow::Result<()> {
    let world = World::shared()?;
    let config = seeds(&["002-05-se-vs-dr"])?;
    for (url, status_line, cluster) in [
        ("http://hbchen.com/", "HTTP/1.1 200 OK", "outbound|80||hbchen.com"),
        ("http://www.aliyun.com/", "HTTP/1.1 200 OK", "outbound|443|originate-tls|www.aliyun.com"),
        ("https://www.aliyun.com/", "HTTP/2 200 ", "outbound|443||www.aliyun.com"),
    ] {
        let pod = world.pod()?;
        let run = pod.interceptor()?.config(&config)?.registry_only().curl(&["-L", url])?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status_line, status_line, "{url}");
        assert_eq!(run.line()?.cluster, cluster, "{url}");
        assert_eq!(world.nginx.wait_hits(&pod.address, 1)?.len(), 1, "{url}");
    }
    Ok(())
}

#[test]
fn a_client_that_is_late_or_slow_gets_tls_as_well() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // Connection pools warm up, and browsers connect ahead: silence at the start makes nobody opaque.
    let script = "
slow = [socket.create_connection(('203.0.113.40', 80), 10) for _ in range(2)]
slow[1].sendall(b'GET / HT')
time.sleep(11)
slow[0].sendall(b'GET / HT')
for s in slow:
    s.sendall(b'TP/1.1\\r\\nHost: www.apple.com\\r\\nConnection: close\\r\\n\\r\\n')
    print(s.recv(15).decode())
";
    let run = pod
        .interceptor()?
        .config(&seeds(&["000-03-se", "000-04-vs", "000-05-dr"])?)?
        .run(&interceptor_tests::python(script)?)?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "HTTP/1.1 200 OK\nHTTP/1.1 200 OK\n");
    for line in run.lines()? {
        assert_eq!(line.cluster, "outbound|443|tls-origination|www.apple.com");
    }
    Ok(())
}
