//! A change of configuration takes effect within a second, for new connections and requests, and drops none.

use std::io::{Read, Write};
use std::time::Duration;

use interceptor_tests::{Session, Stopwatch, World, seeds, uninterrupted};

const SE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: google}
spec:
  hosts: [www.google.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";

const OTHER: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hbchen}
spec:
  hosts: [hbchen.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";

/// Asks until the status is this one; fails after a second.
fn within_a_second(session: &mut Session, url: &str, status: u16) -> anyhow::Result<()> {
    let started = Stopwatch::start();
    loop {
        let (_, answer) = session.curl(url)?;
        if answer.as_ref().is_some_and(|answer| answer.status == status) {
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < Duration::from_secs(1), "{url}: {answer:?} instead of {status}");
    }
}

#[test]
fn a_file_that_is_replaced() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let mut session = pod.interceptor()?.config(SE)?.registry_only().session()?;
    assert_eq!(session.curl("http://www.google.com/")?.1.map(|answer| answer.status), Some(200));
    assert_eq!(session.curl("http://hbchen.com/")?.1.map(|answer| answer.status), Some(502));
    session.running.reconfigure(&format!("{SE}---{OTHER}"))?;
    within_a_second(&mut session, "http://hbchen.com/", 200)?;
    session.running.reconfigure(OTHER)?;
    within_a_second(&mut session, "http://www.google.com/", 502)?;
    assert_eq!(session.curl("http://hbchen.com/")?.1.map(|answer| answer.status), Some(200));
    session.finish()?.expect_code(0)?;
    Ok(())
}

#[test]
fn a_directory_with_files_that_come_and_go() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let interceptor = pod.interceptor()?.registry_only();
    let config = interceptor.dir().join("config");
    std::fs::create_dir(&config)?;
    std::fs::write(config.join("google.yaml"), SE)?;
    let mut session = interceptor.flag("-c").flag(&config).session()?;
    assert_eq!(session.curl("http://hbchen.com/")?.1.map(|answer| answer.status), Some(502));
    std::fs::write(config.join("hbchen.yaml"), OTHER)?;
    within_a_second(&mut session, "http://hbchen.com/", 200)?;
    std::fs::remove_file(config.join("google.yaml"))?;
    within_a_second(&mut session, "http://www.google.com/", 502)?;
    session.finish()?.expect_code(0)?;
    Ok(())
}

#[test]
fn a_mistake_keeps_what_worked_and_says_so() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let mut session = pod.interceptor()?.config(SE)?.registry_only().session()?;
    session.curl("http://www.google.com/")?;
    // The first document is broken, the second is new and right: the last good form of the first stays.
    session.running.reconfigure(&format!("{}---{OTHER}", SE.replace("protocol: HTTP", "protocol: HTTPX")))?;
    within_a_second(&mut session, "http://hbchen.com/", 200)?;
    assert_eq!(session.curl("http://www.google.com/")?.1.map(|answer| answer.status), Some(200));
    let stderr = session.running.stderr();
    assert!(stderr.contains("config.yaml:7") && stderr.contains("HTTPX"), "{stderr}");
    // Not even YAML: everything stays.
    session.running.reconfigure("a: [b\n")?;
    interceptor_tests::eventually("the complaint", || {
        session.running.stderr().matches("config.yaml:").count() > 1
    })?;
    for url in ["http://www.google.com/", "http://hbchen.com/"] {
        assert_eq!(session.curl(url)?.1.map(|answer| answer.status), Some(200), "{url}");
    }
    session.finish()?.expect_code(0)?;
    Ok(())
}

#[test]
fn open_connections_are_not_dropped() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // The server answers in pieces, each when told on its other port.
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let (tell, told) = (std::sync::Mutex::new(tell), std::sync::Mutex::new(told));
    let origin = world.origin(80, move |mut socket| {
        if interceptor_tests::read_head(&mut socket)?.starts_with("GET /go") {
            tell.lock().map_err(other)?.send(()).map_err(std::io::Error::other)?;
            return socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")?;
        told.lock().map_err(other)?.recv_timeout(Duration::from_secs(30)).map_err(std::io::Error::other)?;
        socket.write_all(b"-half")
    })?;
    let opaque = world.origin(7000, |mut socket| {
        let mut line = [0; 100];
        // In one piece, as it came: the client takes the next piece for the next answer.
        loop {
            let count = uninterrupted(|| socket.read(&mut line))?;
            if count == 0 {
                return Ok(());
            }
            socket.write_all(&line[..count])?;
        }
    })?;
    let config = origin.service_entry("HTTP") + &opaque.service_entry("TCP");
    let mut session = pod.interceptor()?.config(&config)?.registry_only().session()?;
    let slow = format!("curl -sS {} >slow 2>&1 & slow=$!; cd /", origin.url("/slow"));
    let dir = interceptor_tests::Dir::new()?;
    session.sh(&format!("cd {}; {slow}", dir.path().display()))?;
    // The client types lines that we write into a pipe.
    let pipe = dir.join("pipe");
    let echo = interceptor_tests::python(&format!(
        "s = socket.create_connection(('{}', 7000))\nfor line in open('{}'):\n s.sendall(line.encode()); print(s.recv(100).decode(), end='', flush=True)\n",
        opaque.name(),
        pipe.display()
    ))?;
    let script = dir.write("echo.py", echo.last().map(String::as_str).unwrap_or_default())?;
    let python = echo.first().map(String::as_str).unwrap_or_default();
    let echoed = dir.join("echoed");
    session.sh(&format!(
        "mkfifo {0}; {python} {1} >{2} 2>&1 & exec 9>{0}; echo a >&9",
        pipe.display(),
        script.display(),
        echoed.display()
    ))?;
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    interceptor_tests::eventually("the first echo", || read("echoed").contains('a'))?;
    interceptor_tests::eventually("the first half", || read("slow") == "half" || origin.connections() > 0)?;

    session.running.reconfigure(SE)?;
    within_a_second(&mut session, "http://www.google.com/", 200)?;
    session.sh("echo b >&9")?;
    interceptor_tests::eventually("the second echo", || read("echoed").contains('b'))?;
    // Registered again, so that the server can be told.
    session.running.reconfigure(&origin.service_entry("HTTP"))?;
    within_a_second(&mut session, &origin.url("/go"), 200)?;
    let (code, _) = session.sh("wait $slow")?;
    assert_eq!((code, read("slow").as_str()), (0, "half-half"));
    session.sh("exec 9>&-")?;
    session.finish()?.expect_code(0)?;
    Ok(())
}

fn other<T>(error: std::sync::PoisonError<T>) -> std::io::Error {
    std::io::Error::other(error.to_string())
}

#[test]
fn standard_input_is_read_once() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let interceptor =
        pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.registry_only().flags(&["-c", "-"]);
    let file = std::fs::File::open(interceptor.dir().join("config.yaml"))?;
    let mut command =
        interceptor.command(&["curl", "-sS", "-i", "http://httpbin.org/get", "http://hbchen.com/"])?;
    let output = command.stdin(file).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("HTTP/1.1 200 OK") && text.contains("HTTP/1.1 502 Bad Gateway"), "{output:?}");
    Ok(())
}
