//! Scenario 2: hosts of a ServiceEntry, as the first two tutorials check them.

use interceptor_tests::{World, seeds};

#[test]
fn httpbin_sees_the_decorator_and_nothing_about_us() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    for config in ["000-01-se-se", "001-01-se", "003-01-se"] {
        let run = pod
            .interceptor()?
            .config(&seeds(&[config])?)?
            .registry_only()
            .curl(&["http://httpbin.org/headers?show_env=1"])?;
        run.expect_code(0)?;
        let answer = run.http()?;
        assert_eq!(answer.status_line, "HTTP/1.1 200 OK");
        assert_eq!(answer.header("server").as_deref(), Some("gunicorn"));
        let time = answer.header("x-envoy-upstream-service-time").unwrap_or_default();
        assert!(time.parse::<u32>().is_ok(), "x-envoy-upstream-service-time: {time:?}");
        let seen = answer.json()?["headers"].clone();
        assert_eq!(seen["X-Envoy-Decorator-Operation"], "httpbin.org:80/*", "{seen:#}");
        assert_eq!(seen["X-Envoy-Attempt-Count"], "1");
        assert_eq!(seen["X-Forwarded-Proto"], "http");
        assert_eq!(seen["Host"], "httpbin.org");
        let id = seen["X-Request-Id"].as_str().unwrap_or_default();
        assert_eq!((id.len(), id.as_bytes().get(14)), (36, Some(&b'4')), "a random UUID: {id:?}");
        assert!(seen["X-Envoy-Peer-Metadata"].is_null() && seen["X-Envoy-Peer-Metadata-Id"].is_null());

        let line = run.line()?;
        assert_eq!((line.cluster.as_str(), line.route.as_str()), ("outbound|80||httpbin.org", "default"));
        assert_eq!((line.method.as_str(), line.protocol.as_str(), line.code), ("GET", "HTTP/1.1", 200));
        assert_eq!((line.flags.as_str(), line.details.as_str()), ("-", "via_upstream"));
        assert_eq!(line.path, "/headers?show_env=1");
        assert_eq!((line.authority.as_str(), line.request_id.as_str()), ("httpbin.org", id));
        assert_eq!(
            (line.upstream_host.as_str(), line.local.as_str()),
            ("203.0.113.10:80", "203.0.113.10:80")
        );
        assert!(line.upstream_local.starts_with(&format!("{}:", pod.address)), "{}", line.line);
        assert_eq!(line.service_time, time);
        assert_eq!(line.sent.to_string(), answer.body.len().to_string());
    }
    Ok(())
}

#[test]
fn google_over_http_and_https() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod
        .interceptor()?
        .config(&seeds(&["000-01-se-se"])?)?
        .registry_only()
        .curl(&["http://www.google.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.body, "www.google.com says hello over http\n");
    assert_eq!(run.line()?.cluster, "outbound|80||www.google.com");

    for config in ["000-01-se-se", "001-02-se"] {
        let run = pod
            .interceptor()?
            .config(&seeds(&[config])?)?
            .registry_only()
            .curl(&["-I", "https://www.google.com/"])?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status_line, "HTTP/2 200 ");
        let line = run.line()?;
        assert_eq!(
            (line.cluster.as_str(), line.sni.as_str()),
            ("outbound|443||www.google.com", "www.google.com")
        );
        assert!(line.line.contains(r#"] "- - -" 0 - - - "-" "#), "{}", line.line);
        assert!(line.received > 0 && line.sent > 0, "{}", line.line);
        assert_eq!(line.route, "-");
    }
    Ok(())
}

#[test]
fn a_registered_host_is_found_whatever_the_address() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // The app believes that httpbin.org is somewhere else. Host decides, and the registry knows where it is.
    let run = pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.registry_only().curl(&[
        "--connect-to",
        "::203.0.113.99:",
        "http://httpbin.org/get",
    ])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 200);
    let line = run.line()?;
    assert_eq!((line.upstream_host.as_str(), line.local.as_str()), ("203.0.113.10:80", "203.0.113.99:80"));
    Ok(())
}

#[test]
fn wildcard_hosts_and_static_endpoints() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ['*.wild.test']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.10.0.5}]
---
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: exact}
spec:
  hosts: [exact.wild.test]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: STATIC
  endpoints: [{address: 10.10.0.4}]
";
    for (host, cluster, upstream, status) in [
        ("a.wild.test", "outbound|80||*.wild.test", "10.10.0.5:80", 200),
        ("a.b.wild.test", "outbound|80||*.wild.test", "10.10.0.5:80", 200),
        ("EXACT.wild.test", "outbound|80||exact.wild.test", "10.10.0.4:8080", 200),
        ("wild.test", "-", "-", 502),
    ] {
        let url = format!("http://{host}/");
        let run = pod.interceptor()?.config(config)?.registry_only().curl(&[
            "--connect-to",
            "::203.0.113.99:",
            &url,
        ])?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status, status, "{host}");
        let line = run.line()?;
        assert_eq!((line.cluster.as_str(), line.upstream_host.as_str()), (cluster, upstream), "{host}");
    }
    Ok(())
}

#[test]
fn http_port_443_by_sni_and_an_unregistered_sni() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tls}
spec:
  hosts: ['*.apple.com']
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: NONE
";
    let run = pod.interceptor()?.config(config)?.registry_only().curl(&["https://www.apple.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.line()?.cluster, "outbound|443||*.apple.com");
    assert_eq!(run.line()?.upstream_host, "203.0.113.40:443");
    // The bare domain is not below itself.
    let run = pod.interceptor()?.config(config)?.registry_only().curl(&["https://apple.com/"])?;
    run.expect_code(35)?;
    assert_eq!(run.line()?.sni, "apple.com");
    Ok(())
}
