//! How connections to endpoints are bounded, begun and ended: circuit breakers, tunnels through a proxy, the
//! PROXY protocol, credentials.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use anyhow::Context;
use interceptor_tests::{
    Daemon, Dir, Origin, World, envoy_binary, eventually, python, read_head, uninterrupted,
};

/// A service at the origin's address, which its own name does not lead to, with a policy.
fn service(host: &str, port: u16, protocol: &str, endpoint: SocketAddr, policy: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: service}}
spec:
  hosts: [{host}]
  addresses: [192.0.2.10]
  ports: [{{number: {port}, name: p, protocol: {protocol}, targetPort: {}}}]
  resolution: STATIC
  endpoints: [{{address: {}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: rule}}
spec:
  host: {host}
  trafficPolicy: {policy}
",
        endpoint.port(),
        endpoint.ip()
    )
}

/// Two requests at a time where one may be: the second is refused by us, and the first is not hurt.
#[test]
fn a_circuit_breaker_answers_503_uo() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(8000, |mut socket| {
        loop {
            let head = read_head(&mut socket)?;
            if head.is_empty() {
                return Ok(());
            }
            if head.starts_with("GET /slow") {
                // The body never comes: the request is under way until its client leaves.
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n")?;
                return uninterrupted(|| socket.read(&mut [0; 1])).map(drop);
            }
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    })?;
    let config = service(
        "limited.test",
        8000,
        "HTTP",
        origin.address,
        "{connectionPool: {http: {http2MaxRequests: 1}}}",
    );
    let script = python(
        "def ask(path):\n    \
             s = socket.create_connection(('192.0.2.10', 8000), 10)\n    \
             s.sendall(b'GET %s HTTP/1.1\\r\\nhost: limited.test:8000\\r\\n\\r\\n' % path)\n    \
             return s, s.recv(4096).decode()\n\
         slow, head = ask(b'/slow')\nprint(head)\n\
         print(ask(b'/refused')[1])\nslow.close()\n\
         end = time.time() + 10\n\
         while 'HTTP/1.1 200' not in ask(b'/next')[1] and time.time() < end: time.sleep(0.01)",
    )?;
    let run = pod.interceptor()?.config(&config)?.run(&script)?;
    run.expect_code(0)?;
    let text = run.text();
    assert!(text.contains("HTTP/1.1 503 Service Unavailable\r\n"), "{text}");
    assert!(text.contains("x-envoy-overloaded: true\r\n"), "{text}");
    assert!(
        text.contains("upstream connect error or disconnect/reset before headers. reset reason: overflow"),
        "{text}"
    );
    let lines = run.lines()?;
    let of = |path: &str| lines.iter().find(|line| line.path == path).context("a line");
    let refused = of("/refused")?;
    assert_eq!((refused.code, refused.flags.as_str()), (503, "UO"), "{}", refused.line);
    assert_eq!(refused.details, "upstream_reset_before_response_started{overflow}");
    assert_eq!(refused.sent, 81);
    assert_eq!(of("/slow")?.flags, "DC");
    let next = lines.iter().rfind(|line| line.path == "/next").context("a line")?;
    assert_eq!(next.code, 200, "{}", next.line);
    Ok(())
}

#[test]
fn opaque_connections_are_bounded_and_end_in_time() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(7001, |mut socket| {
        socket.write_all(b"hello")?;
        io::copy(&mut socket, &mut io::sink())?;
        Ok(())
    })?;
    let config = service(
        "bounded.test",
        7001,
        "TCP",
        origin.address,
        "{connectionPool: {tcp: {maxConnections: 1, maxConnectionDuration: 700ms}}}",
    );
    let script = python(
        "def connect():\n    return socket.create_connection(('192.0.2.10', 7001), 10)\n\
         def refused():\n    \
             try:\n        return connect().recv(10)\n    \
             except ConnectionResetError:\n        return b'reset'\n\
         first = connect()\nprint(first.recv(5))\n\
         print(refused())\n\
         t = time.time(); print(first.recv(10), 0.2 < time.time() - t < 5)\n\
         print(connect().recv(5))",
    )?;
    let run = pod.interceptor()?.config(&config)?.run(&script)?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "b'hello'\nb'reset'\nb'' True\nb'hello'\n", "{}", run.log);
    let mut flags: Vec<String> = run.lines()?.iter().map(|line| line.flags.clone()).collect();
    flags.sort();
    assert_eq!(flags.iter().filter(|flags| *flags == "UO").count(), 1, "{}", run.log);
    assert!(flags.contains(&"DT".to_owned()), "{}", run.log);
    assert_eq!(origin.connections(), 2);
    Ok(())
}

/// An HTTP proxy that knows CONNECT, and refuses one port.
fn connect_proxy(world: &World) -> anyhow::Result<Origin> {
    let outside = world.origin(3128, move |mut socket| {
        let head = read_head(&mut socket)?;
        let target =
            head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        let target: Option<SocketAddr> = target.parse().ok();
        let Some(target) = target.filter(|target| target.port() != 9) else {
            return socket.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
        };
        let mut onward = TcpStream::connect(target)?;
        socket.write_all(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 proxy\r\n\r\n")?;
        let (mut back, mut to) = (onward.try_clone()?, socket.try_clone()?);
        let returning = std::thread::spawn(move || {
            io::copy(&mut back, &mut to)?;
            to.shutdown(std::net::Shutdown::Write)
        });
        io::copy(&mut socket, &mut onward)?;
        onward.shutdown(std::net::Shutdown::Write)?;
        returning.join().map_err(|_panic| io::Error::other("the way back panicked"))?
    })?;
    Ok(outside)
}

#[test]
fn tls_goes_through_a_proxy_that_is_asked_with_connect() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let proxy = in_outside(world, connect_proxy)?;
    let through = |target: &str, port: u16| {
        service(
            "www.google.com",
            443,
            "TLS",
            proxy.address,
            &format!("{{tunnel: {{targetHost: {target}, targetPort: {port}}}}}"),
        )
    };
    let run = pod.interceptor()?.config(&through("203.0.113.20", 443))?.registry_only().curl(&[
        "--resolve",
        "www.google.com:443:192.0.2.10",
        "https://www.google.com/",
    ])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.body, "www.google.com says hello over https\n");
    let line = run.line()?;
    assert_eq!((line.flags.as_str(), line.sni.as_str()), ("-", "www.google.com"), "{}", line.line);
    assert_eq!(line.upstream_host, proxy.address.to_string());
    // What nginx saw came from the proxy, which is in the outside itself.
    assert!(world.nginx.hits(&pod.address).is_empty());

    let run = pod.interceptor()?.config(&through("203.0.113.20", 9))?.registry_only().curl(&[
        "--resolve",
        "www.google.com:443:192.0.2.10",
        "https://www.google.com/",
    ])?;
    run.expect_code(35)?;
    let line = run.line()?;
    assert_eq!(line.flags, "UF,URX", "{}", line.line);
    assert_eq!(line.transport_failure, "CONNECT_203.0.113.20:9:_the_proxy_answered_HTTP/1.1_403_Forbidden");
    Ok(())
}

/// Runs where the outside's addresses are: threads that are started there stay there.
fn in_outside<T: Send>(
    world: &World,
    make: impl FnOnce(&World) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    world.outside.enter(|| make(world))?
}

/// The real Envoy as a proxy that takes POST for a tunnel to one server.
struct PostProxy {
    _daemon: Daemon,
    _dir: Dir,
    address: SocketAddr,
}

impl PostProxy {
    fn start(world: &World, target: SocketAddr) -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        let address = SocketAddr::from((world.address(), 3129));
        let socket = |address: SocketAddr| {
            format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
        };
        let config = dir.write(
            "envoy.yaml",
            format!(
                "static_resources:
  listeners:
  - name: tunnels
    address: {}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: tunnels
          route_config:
            virtual_hosts:
            - name: tunnels
              domains: ['target.test:443']
              routes:
              - match: {{path: /, headers: [{{name: ':method', string_match: {{exact: POST}}}}]}}
                route:
                  cluster: target
                  timeout: 0s
                  upgrade_configs: [{{upgrade_type: CONNECT, connect_config: {{allow_post: true}}}}]
          http_filters:
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: target
    load_assignment:
      cluster_name: target
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]
",
                socket(address),
                socket(target)
            ),
        )?;
        let mut command = world.outside.command(&envoy_binary()?.display().to_string());
        command.arg("-c").arg(config).args(["--concurrency", "1", "--disable-hot-restart"]);
        command.current_dir(dir.path());
        let daemon = Daemon::spawn(&mut command, &dir.join("log"))?.wait_ready("envoy", || {
            world.outside.enter(|| TcpStream::connect(address)).is_ok_and(|socket| socket.is_ok())
        })?;
        Ok(Self { _daemon: daemon, _dir: dir, address })
    }
}

#[test]
fn tls_goes_through_an_envoy_that_is_asked_with_post() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let proxy = PostProxy::start(world, "203.0.113.20:443".parse()?)?;
    let through = |target: &str| {
        let policy = format!("{{tunnel: {{protocol: POST, targetHost: {target}, targetPort: 443}}}}");
        service("www.google.com", 443, "TLS", proxy.address, &policy)
    };
    let ask = |target: &str| {
        let interceptor = pod.interceptor()?.config(&through(target))?.registry_only();
        interceptor.curl(&["--resolve", "www.google.com:443:192.0.2.10", "https://www.google.com/"])
    };
    let run = ask("target.test")?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.body, "www.google.com says hello over https\n");
    let line = run.line()?;
    assert_eq!((line.flags.as_str(), line.sni.as_str()), ("-", "www.google.com"), "{}", line.line);
    assert_eq!(line.upstream_host, proxy.address.to_string());

    let run = ask("elsewhere.test")?;
    run.expect_code(35)?;
    let line = run.line()?;
    assert_eq!(line.transport_failure, "POST_elsewhere.test:443:_the_proxy_answered_HTTP/1.1_404_Not_Found");
    Ok(())
}

/// An nginx that tells what the PROXY header said.
struct Announced {
    _daemon: Daemon,
    _dir: Dir,
    address: Ipv4Addr,
}

impl Announced {
    fn start(world: &World) -> anyhow::Result<Self> {
        let (dir, address) = (Dir::new()?, world.address());
        let config = dir.write(
            "nginx.conf",
            format!(
                "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log {0}/error.log;\nevents {{}}\n\
                 http {{ access_log off;\nclient_body_temp_path {0}/b;\nproxy_temp_path {0}/p;\n\
                 fastcgi_temp_path {0}/f;\nuwsgi_temp_path {0}/u;\nscgi_temp_path {0}/s;\n\
                 server {{ listen {address}:80 proxy_protocol;\n location / {{ return 200 \
                 \"$proxy_protocol_addr $proxy_protocol_server_addr:$proxy_protocol_server_port $connection\\n\"; }} }}\n\
                 }}\n",
                dir.path().display()
            ),
        )?;
        let mut command = world.outside.command("/usr/sbin/nginx");
        command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(dir.path()).arg("-c").arg(config);
        let daemon = Daemon::spawn(&mut command, &dir.join("log"))?.wait_ready("nginx", || {
            world.outside.enter(|| TcpStream::connect((address, 80))).is_ok_and(|socket| socket.is_ok())
        })?;
        Ok(Self { _daemon: daemon, _dir: dir, address })
    }
}

#[test]
fn servers_are_told_the_client_by_a_proxy_header() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let server = Announced::start(world)?;
    for version in ["V1", "V2"] {
        let policy = format!("{{proxyProtocol: {{version: {version}}}}}");
        let config = service("told.test", 80, "HTTP", SocketAddr::from((server.address, 80)), &policy);
        let run = pod.interceptor()?.config(&config)?.curl(&[
            "--resolve",
            "told.test:80:192.0.2.10",
            "http://told.test/",
            "http://told.test/",
        ])?;
        run.expect_code(0)?;
        let told: Vec<String> =
            run.text().lines().filter(|line| line.contains("192.0.2.10:80")).map(str::to_owned).collect();
        let expected = format!("{} 192.0.2.10:80 ", pod.address);
        assert!(told.len() == 2 && told.iter().all(|line| line.starts_with(&expected)), "{}", run.text());
        // A connection is its client's: each request has its own.
        assert_ne!(told[0], told[1]);
    }
    Ok(())
}

#[test]
fn a_credential_may_come_while_it_runs() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let credentials = Dir::new()?;
    let config = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mutual}
spec:
  hosts: [mutual.test]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mutual}
spec:
  host: mutual.test
  trafficPolicy: {tls: {mode: MUTUAL, credentialName: client}}
";
    let mut session =
        pod.interceptor()?.config(config)?.flag("--credentials-dir").flag(credentials.path()).session()?;
    let mut ask = || session.sh("curl -sS -i http://mutual.test/").map(|(_, text)| text);
    let refused = ask()?;
    assert!(refused.contains("503 Service Unavailable"), "{refused}");
    assert!(
        refused.contains("credentialName client: no tls.crt and tls.key, or cert and key, in "),
        "{refused}"
    );

    let identity = world.ca.client("credential-client")?;
    let secret = credentials.path().join("client");
    std::fs::create_dir(&secret)?;
    std::fs::copy(&identity.certificate, secret.join("tls.crt"))?;
    std::fs::copy(&identity.key, secret.join("tls.key"))?;
    std::fs::copy(world.ca.root(), secret.join("ca.crt"))?;
    eventually("the credential is used", || {
        ask().is_ok_and(|answer| answer.contains("mutual.test says hello over https"))
    })
}
