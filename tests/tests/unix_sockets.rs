//! Services whose endpoints are unix sockets, with a real nginx behind them.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use interceptor_tests::{Daemon, Dir, World, eventually, large, python};

/// A name that DNS gives the address of nobody.
const HOST: &str = "ip-198-51-100-250.ip.test";
const OTHER: &str = "ip-198-51-100-251.ip.test";

/// A web server on unix sockets alone: `plain`, `h2c` and `tls`.
struct Sites {
    _daemon: Daemon,
    dir: Dir,
}

impl Sites {
    fn start(world: &World) -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        let identity = world.ca.server(&interceptor_tests::unique(), &[HOST])?;
        let path = dir.path().display();
        let answer = "location / { return 200 \"$scheme-$http2 $connection\\n\"; }";
        let config = format!(
            "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log {path}/error.log;\nevents {{}}\n\
             http {{\naccess_log off;\nserver_tokens off;\nclient_body_temp_path {path}/body;\n\
             proxy_temp_path {path}/proxy;\nfastcgi_temp_path {path}/fastcgi;\nuwsgi_temp_path {path}/uwsgi;\n\
             scgi_temp_path {path}/scgi;\nclient_max_body_size 0;\n\
             server {{ listen unix:{path}/plain; location = /large {{ alias {path}/large.bin; }} {answer} }}\n\
             server {{ listen unix:{path}/h2c http2; {answer} }}\n\
             server {{ listen unix:{path}/tls ssl http2; ssl_certificate {}; ssl_certificate_key {}; {answer} }}\n}}\n",
            identity.certificate.display(),
            identity.key.display()
        );
        let config = dir.write("nginx.conf", config)?;
        dir.write("large.bin", large())?;
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(dir.path()).arg("-c").arg(config);
        let daemon = Daemon::spawn(&mut command, &dir.join("log"))?
            .wait_ready("nginx", || UnixStream::connect(dir.join("tls")).is_ok())?;
        Ok(Self { _daemon: daemon, dir })
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// A ServiceEntry whose endpoints are as given.
fn service_entry(host: &str, port: &str, endpoints: &[String]) -> String {
    let (name, endpoints) = (host.replace('.', "-"), endpoints.join(", "));
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  \
         hosts: [{host}]\n  ports: [{{{port}}}]\n  resolution: STATIC\n  endpoints: [{endpoints}]\n"
    )
}

fn unix(path: &Path) -> String {
    format!("{{address: 'unix://{}'}}", path.display())
}

/// TLS towards them.
fn tls_rule() -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: tls}}\nspec:\n  \
         host: {HOST}\n  trafficPolicy: {{tls: {{mode: SIMPLE}}}}\n"
    )
}

const HTTP: &str = "number: 80, name: http, protocol: HTTP";

#[test]
fn http_over_a_unix_socket() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let sites = Sites::start(world)?;
    let url = format!("http://{HOST}/");
    let h2 = "number: 80, name: http2, protocol: HTTP2";
    let tls = tls_rule();
    for (socket, port, rule, expected) in [
        ("plain", HTTP, "", "http- "),
        ("h2c", h2, "", "http-h2c "),
        ("tls", HTTP, &*tls, "https- "),
        ("tls", h2, &*tls, "https-h2 "),
    ] {
        let path = sites.socket(socket);
        let config = service_entry(HOST, port, &[unix(&path)]) + rule;
        let run = pod.interceptor()?.config(&config)?.registry_only().curl(&[&url, &url])?;
        run.expect_code(0)?;
        let answer = run.http()?;
        assert!(answer.status == 200 && answer.body.starts_with(expected), "{socket}: {}", run.text());
        let lines = run.lines()?;
        assert_eq!(lines.len(), 2, "{}", run.log);
        for line in lines {
            assert_eq!(
                (line.upstream_host, line.upstream_local, line.cluster),
                (path.display().to_string(), "-".to_owned(), format!("outbound|80||{HOST}"))
            );
        }
    }
    Ok(())
}

#[test]
fn a_large_download_over_a_unix_socket_is_the_same_bytes() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let sites = Sites::start(world)?;
    let config = service_entry(HOST, HTTP, &[unix(&sites.socket("plain"))]);
    let url = format!("http://{HOST}/large");
    let run = pod.interceptor()?.config(&config)?.run(&["curl", "-sS", "--max-time", "30", &url])?;
    run.expect_code(0)?;
    assert!(run.stdout == large(), "{} bytes", run.stdout.len());
    Ok(())
}

#[test]
fn a_reload_keeps_connections_to_unix_sockets() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let sites = Sites::start(world)?;
    let entry = |host| service_entry(host, HTTP, &[unix(&sites.socket("plain"))]);
    // One client connection meets one worker, whose pool the reload must leave alone.
    let script = format!(
        "import http.client\n\
         kept = http.client.HTTPConnection('{HOST}', 80, timeout=10)\n\
         def get(c):\n    c.request('GET', '/')\n    r = c.getresponse()\n    return r.status, r.read().decode()\n\
         def added():\n    c = http.client.HTTPConnection('{OTHER}', 80, timeout=10)\n    return get(c)[0]\n\
         before = get(kept)\nprint(added(), flush=True)\nend = time.time() + 10\n\
         while added() != 200 and time.time() < end: time.sleep(0.01)\n\
         print(added(), before[0], before == get(kept))\n"
    );
    let running = pod.interceptor()?.config(&entry(HOST))?.registry_only().spawn(&python(&script)?)?;
    eventually("the first answers", || running.stdout().starts_with("502\n"))?;
    running.reconfigure(&(entry(HOST) + &entry(OTHER)))?;
    let run = running.finish()?;
    run.expect_code(0)?;
    // nginx's answer names the connection that the request came on.
    assert_eq!(run.text(), "502\n200 200 True\n");
    Ok(())
}

#[test]
fn a_socket_and_an_address_are_endpoints_of_one_service() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let sites = Sites::start(world)?;
    let origin = world.origin(8080, |mut socket| {
        interceptor_tests::read_head(&mut socket)?;
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nip")
    })?;
    let address = format!("{{address: {}}}", origin.address.ip());
    let port = "number: 80, name: http, protocol: HTTP, targetPort: 8080";
    let rule = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: turns}}\nspec:\n  \
         host: {HOST}\n  trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}}}\n"
    );
    let path = sites.socket("plain");
    let config = service_entry(HOST, port, &[unix(&path), address]) + &rule;
    let url = format!("http://{HOST}/");
    let run = pod.interceptor()?.config(&config)?.curl(&[&url, &url, &url, &url])?;
    run.expect_code(0)?;
    let lines = run.lines()?;
    let through =
        |host: &str| lines.iter().filter(|line| line.upstream_host == host && line.code == 200).count();
    assert_eq!(
        (through(&path.display().to_string()), through(&origin.address.to_string())),
        (2, 2),
        "{}",
        run.log
    );
    Ok(())
}

/// Serves one connection after the other.
fn serve(path: &Path, serve: impl Fn(UnixStream) -> io::Result<()> + Send + 'static) -> anyhow::Result<()> {
    let listener = UnixListener::bind(path)?;
    std::thread::spawn(move || {
        listener.incoming().map_while(Result::ok).for_each(|socket| drop(serve(socket)))
    });
    Ok(())
}

#[test]
fn opaque_bytes_over_a_unix_socket() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let dir = Dir::new()?;
    let path = dir.join("echo");
    // Greets, and answers only when the client has ended its half.
    serve(&path, |mut socket| {
        socket.write_all(b"220 hello\r\n")?;
        let mut all = Vec::new();
        socket.read_to_end(&mut all)?;
        socket.write_all(&all)?;
        socket.shutdown(Shutdown::Both)
    })?;
    let config = service_entry(HOST, "number: 7000, name: tcp, protocol: TCP", &[unix(&path)]);
    let run = pod.interceptor()?.config(&config)?.registry_only().run(&python(&format!(
        "import threading\n\
         s = socket.create_connection(('{HOST}', 7000), 20)\nprint(s.recv(100), flush=True)\n\
         sent = bytes(range(256)) * 32768\ns.sendall(sent); s.shutdown(socket.SHUT_WR)\ngot = b''\n\
         while chunk := s.recv(1 << 16): got += chunk\nprint(got == sent)\n"
    ))?)?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "b'220 hello\\r\\n'\nTrue\n");
    let line = run.line()?;
    assert_eq!((line.received, line.sent, line.flags.as_str()), (8 << 20, (8 << 20) + 11, "-"));
    assert_eq!(
        (line.upstream_host, line.upstream_local, line.cluster),
        (path.display().to_string(), "-".to_owned(), format!("outbound|7000||{HOST}"))
    );
    Ok(())
}

#[test]
fn tls_around_opaque_bytes_over_a_unix_socket() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let sites = Sites::start(world)?;
    let path = sites.socket("tls");
    let config = service_entry(HOST, "number: 7000, name: tcp, protocol: TCP", &[unix(&path)]) + &tls_rule();
    let run = pod.interceptor()?.config(&config)?.run(&python(&format!(
        "s = socket.create_connection(('{HOST}', 7000), 20)\n\
         s.sendall(b'GET / HTTP/1.1\\r\\nHost: {HOST}\\r\\nConnection: close\\r\\n\\r\\n')\ngot = b''\n\
         while chunk := s.recv(1 << 16): got += chunk\nprint(got.decode())\n"
    ))?)?;
    run.expect_code(0)?;
    assert!(run.text().starts_with("HTTP/1.1 200 OK") && run.text().contains("\nhttps- "), "{}", run.text());
    let line = run.line()?;
    assert!(line.line.contains(r#""- - -" 0 - "#), "{}", line.line);
    assert_eq!(line.upstream_host, path.display().to_string());
    Ok(())
}

/// The path is the proxy's, whatever the workload has mounted there.
#[test]
fn a_workload_that_does_not_see_the_socket_reaches_it() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let sites = Sites::start(world)?;
    let config = service_entry(HOST, HTTP, &[unix(&sites.socket("plain"))]);
    let dir = sites.dir.path().display();
    let script = format!(
        "mount -t tmpfs tmpfs {dir} && test ! -e {dir}/plain && curl -sS -i --max-time 30 http://{HOST}/"
    );
    let run = pod.interceptor()?.config(&config)?.run(&["unshare", "--mount", "sh", "-c", &script])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 200);
    Ok(())
}

#[test]
fn nobody_behind_a_unix_socket() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let dir = Dir::new()?;
    let abandoned = dir.join("abandoned");
    drop(UnixListener::bind(&abandoned)?);
    let missing = dir.join("missing");
    for (path, reason) in [(&missing, "No_such_file_or_directory"), (&abandoned, "Connection_refused")] {
        let config = service_entry(HOST, HTTP, &[unix(path)])
            + &service_entry(OTHER, "number: 7000, name: tcp, protocol: TCP", &[unix(path)]);
        let run = pod.interceptor()?.config(&config)?.run(&[
            "sh",
            "-c",
            &format!("curl -sS -i http://{HOST}/; curl -sS telnet://{OTHER}:7000 2>/dev/null; true"),
        ])?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status, 503);
        let lines = run.lines()?;
        let [http, tcp] = &lines[..] else { anyhow::bail!("{}", run.log) };
        for (line, flags) in [(http, "UF,URX"), (tcp, "UF,URX")] {
            assert_eq!((line.flags.as_str(), &line.upstream_host), (flags, &path.display().to_string()));
            assert!(line.line.contains(&format!("\"immediate_connect_error:_{reason}\"")), "{}", line.line);
        }
    }
    Ok(())
}

#[test]
fn a_path_that_no_socket_can_have_is_told_up_front() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let path = PathBuf::from(format!("/{}", "x".repeat(107)));
    let run = pod.interceptor()?.config(&service_entry(HOST, HTTP, &[unix(&path)]))?.run(&["true"])?;
    run.expect_code(0)?;
    assert!(run.stderr.contains("the path has 108 bytes and a unix socket's at most 107"), "{}", run.stderr);
    Ok(())
}
