//! Scenario 1: hosts that nobody registered. ALLOW_ANY lets them pass, REGISTRY_ONLY blocks them, and the access
//! log says which it was.

use interceptor_tests::{World, seeds};

/// An HTTP service on port 80 makes that port one where Host decides.
fn registry() -> anyhow::Result<String> {
    seeds(&["000-01-se-se"])
}

#[test]
fn allow_any_lets_unknown_http_pass() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&registry()?)?.curl(&["http://edition.cnn.com/politics"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status_line, "HTTP/1.1 301 Moved Permanently");
    assert_eq!(run.http()?.header("location").as_deref(), Some("https://edition.cnn.com/politics"));
    let line = run.line()?;
    assert_eq!((line.cluster.as_str(), line.route.as_str()), ("PassthroughCluster", "allow_any"));
    assert_eq!((line.method.as_str(), line.path.as_str(), line.code), ("GET", "/politics", 301));
    assert_eq!((line.flags.as_str(), line.details.as_str()), ("-", "via_upstream"));
    assert_eq!((line.upstream_host.as_str(), line.local.as_str()), ("203.0.113.30:80", "203.0.113.30:80"));
    assert_eq!(world.nginx.wait_hits(&pod.address, 1)?[0].get("host"), "edition.cnn.com");
    Ok(())
}

#[test]
fn allow_any_lets_unknown_tls_pass_untouched() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&registry()?)?.curl(&["-I", "https://edition.cnn.com/"])?;
    run.expect_code(0)?;
    // curl verified the server's own certificate and negotiated HTTP/2 with it: nobody was in between.
    assert_eq!(run.http()?.status_line, "HTTP/2 200 ");
    let line = run.line()?;
    assert_eq!((line.cluster.as_str(), line.route.as_str()), ("PassthroughCluster", "-"));
    assert_eq!((line.code, line.flags.as_str(), line.details.as_str()), (0, "-", "-"));
    assert_eq!(line.upstream_host, "203.0.113.30:443");
    assert!(line.received > 0 && line.sent > 0, "{}", line.line);
    Ok(())
}

#[test]
fn allow_any_without_any_resource_passes_too() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.curl(&["http://edition.cnn.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 301);
    assert_eq!(run.line()?.cluster, "PassthroughCluster");
    Ok(())
}

#[test]
fn registry_only_answers_unknown_http_with_502() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&registry()?)?.registry_only().curl(&["http://edition.cnn.com/"])?;
    run.expect_code(0)?;
    let answer = run.http()?;
    assert_eq!(answer.status_line, "HTTP/1.1 502 Bad Gateway");
    assert_eq!((answer.header("content-length").as_deref(), answer.body.as_str()), (Some("0"), ""));
    assert!(answer.header("date").is_some());
    let line = run.line()?;
    assert_eq!((line.code, line.flags.as_str(), line.details.as_str()), (502, "-", "direct_response"));
    assert_eq!((line.cluster.as_str(), line.route.as_str()), ("-", "block_all"));
    assert_eq!((line.upstream_host.as_str(), line.authority.as_str()), ("-", "edition.cnn.com"));
    assert!(world.nginx.hits(&pod.address).is_empty());
    Ok(())
}

#[test]
fn registry_only_closes_unknown_tls_and_logs_its_name() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    for url in ["https://edition.cnn.com/", "https://www.apple.com/"] {
        let run = pod.interceptor()?.config(&registry()?)?.registry_only().curl(&["-I", url])?;
        run.expect_code(35)?;
        let line = run.line()?;
        assert_eq!((line.cluster.as_str(), line.flags.as_str(), line.code), ("BlackHoleCluster", "UH", 0));
        assert_eq!(format!("https://{}/", line.sni), url);
        assert_eq!((line.upstream_host.as_str(), line.sent), ("-", 0));
    }
    assert!(world.nginx.hits(&pod.address).is_empty());
    Ok(())
}

#[test]
fn registry_only_closes_what_is_no_service_of_that_port() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // Nothing is HTTP on 8080: there is nobody to say 502.
    let run =
        pod.interceptor()?.config(&registry()?)?.registry_only().curl(&["http://edition.cnn.com:8080/"])?;
    assert!([52, 56].contains(&run.code()), "exit {}: {}", run.code(), run.stderr);
    assert_eq!(run.line()?.cluster, "BlackHoleCluster");
    assert_eq!(run.line()?.flags, "UH");
    assert!(world.nginx.hits(&pod.address).is_empty());
    Ok(())
}

#[test]
fn the_mesh_configuration_decides_unless_the_flag_does() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let mesh = "outboundTrafficPolicy:\n  mode: REGISTRY_ONLY\n";
    for (flags, status) in [(&[][..], 502), (&["--outbound-traffic-policy", "ALLOW_ANY"][..], 301)] {
        let interceptor = pod.interceptor()?.config(&registry()?)?;
        let file = interceptor.dir().join("mesh.yaml");
        std::fs::write(&file, mesh)?;
        let run =
            interceptor.flag("--mesh-config").flag(&file).flags(flags).curl(&["http://edition.cnn.com/"])?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status, status);
    }
    Ok(())
}
