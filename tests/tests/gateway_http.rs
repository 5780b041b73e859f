//! HTTP through the egress gateway: the application's side takes the connection over and sends it to the gateway, which sends
//! it on. Each is on a host of its own; the resources are the tutorials', as written there.

use std::io::{Read, Write};
use std::net::TcpStream;

use interceptor_tests::{Gateway, World, seeds};

/// What the tutorial shows of the gateway in the logs of both.
#[test]
fn the_tutorials_four_objects() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let resources = seeds(&["002-06-se", "002-07-gw-dr-vs"])?;
    let gateway = Gateway::start(&host, &resources)?;
    let service = gateway.service(&[("http2", 80)]);
    let run = app
        .interceptor()?
        .config(&(resources + &service))?
        .registry_only()
        .curl(&["http://www.aliyun.com/"])?;
    let answer = run.http()?;
    assert_eq!((answer.status, answer.header("location").as_deref()), (301, Some("https://www.aliyun.com/")));

    let line = run.line()?;
    assert_eq!(line.cluster, "outbound|80|aliyun|istio-egressgateway.istio-system.svc.cluster.local");
    assert_eq!((line.code, &*line.upstream_host), (301, &*format!("{}:80", host.address)));
    let line = gateway.line()?;
    assert_eq!(line.cluster, "outbound|80||www.aliyun.com");
    assert_eq!((line.code, &*line.authority, &*line.flags), (301, "www.aliyun.com", "-"));
    assert_eq!((&*line.upstream_host, &*line.local), ("203.0.113.50:80", &*format!("{}:80", host.address)));
    assert!(line.remote.starts_with(&format!("{}:", app.address)), "{}", line.line);

    // The server saw the gateway, not the application.
    assert_eq!(world.nginx.hits(&app.address).len(), 0);
    let hits = world.nginx.wait_hits(&host.address, 1)?;
    assert_eq!(hits[0].get("host"), "www.aliyun.com");
    Ok(())
}

#[test]
fn a_host_that_no_server_has_is_not_found() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let gateway = Gateway::start(&host, &seeds(&["002-06-se", "002-07-gw-dr-vs"])?)?;
    let to = format!("http://{}/", host.address);
    let mut curl = app.command("curl");
    let output = interceptor_tests::output(curl.args(["-si", "-H", "host: hbchen.com", &to]))?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.starts_with("HTTP/1.1 404 Not Found") && text.contains("content-length: 0"), "{text}");
    let line = gateway.line()?;
    assert_eq!((line.code, &*line.flags, &*line.details), (404, "NR", "route_not_found"));
    assert_eq!((&*line.cluster, &*line.upstream_host), ("-", "-"));
    Ok(())
}

/// As Envoy: nothing is guessed on a port that is HTTP's.
#[test]
fn what_is_no_http_is_told_so() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let gateway = Gateway::start(&host, &seeds(&["002-06-se", "002-07-gw-dr-vs"])?)?;
    for (index, (bytes, status, details)) in [
        (&b"SSH-2.0-OpenSSH_9.6\r\n\r\n"[..], "400 Bad Request", "http1.codec_error"),
        (&b"\x16\x03\x01\x00\x05hello\r\n\r\n"[..], "400 Bad Request", "http1.codec_error"),
        (&b"GET / HTTP/1.0\r\nhost: www.aliyun.com\r\n\r\n"[..], "426 Upgrade Required", "low_version"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = app.netns.enter(|| TcpStream::connect((&*host.address, 80)))??;
        stream.write_all(bytes)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert_eq!(answer.lines().next().map(|line| &line[9..]), Some(status), "{answer}");
        let lines = gateway.lines(index + 1)?;
        let line = &lines[index];
        let expected = (&status[..3], "DPE", details, "-");
        assert_eq!(
            (&*line.code.to_string(), &*line.flags, &*line.details, &*line.cluster),
            expected,
            "{}",
            line.line
        );
    }
    Ok(())
}
