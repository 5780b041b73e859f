//! HTTP bodies through the proxy arrive as they were sent, and connections are kept.

use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::sync::mpsc;

use interceptor_tests::{World, content_length, echo_heads, header, large, python, read_head, seeds};

/// The decoded chunks, and the trailer section.
fn read_chunked(socket: &mut impl Read) -> io::Result<(Vec<u8>, String)> {
    let mut body = Vec::new();
    loop {
        let size = read_line(socket)?;
        let size =
            usize::from_str_radix(size.trim(), 16).map_err(|error| io::Error::other(error.to_string()))?;
        if size == 0 {
            let mut trailers = String::new();
            loop {
                let line = read_line(socket)?;
                if line == "\r\n" {
                    return Ok((body, trailers));
                }
                trailers.push_str(&line);
            }
        }
        let start = body.len();
        body.resize(start + size, 0);
        socket.read_exact(&mut body[start..])?;
        read_line(socket)?;
    }
}

fn read_line(socket: &mut impl Read) -> io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") {
        socket.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[test]
fn a_large_download_is_the_same_bytes() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.run(&[
        "curl",
        "-sS",
        "--max-time",
        "30",
        "http://www.google.com/large",
    ])?;
    run.expect_code(0)?;
    assert!(run.stdout == large(), "{} bytes", run.stdout.len());
    assert_eq!(run.line()?.sent, 8 << 20);
    Ok(())
}

#[test]
fn a_large_upload_is_the_same_bytes_and_keeps_its_framing() -> anyhow::Result<()> {
    let world = World::shared()?;
    for chunked in [false, true] {
        let (sender, received) = mpsc::channel();
        let origin = world.origin(80, move |mut socket| {
            let head = read_head(&mut socket)?;
            if header(&head, "expect").is_some() {
                socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let body = match header(&head, "transfer-encoding") {
                Some("chunked") => read_chunked(&mut io::BufReader::new(&socket))?.0,
                _ => {
                    let mut body = vec![0; content_length(&head)];
                    socket.read_exact(&mut body)?;
                    body
                }
            };
            sender.send((head, body)).map_err(io::Error::other)?;
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        })?;
        let pod = world.pod()?;
        let interceptor = pod.interceptor()?.config(&origin.service_entry("HTTP"))?;
        let file = interceptor.dir().join("upload");
        std::fs::write(&file, large())?;
        let file = file.display().to_string();
        let mut args = vec!["-T", &file];
        if chunked {
            args.extend(["-H", "Transfer-Encoding: chunked"]);
        }
        let url = origin.url("/up");
        args.push(&url);
        let run = interceptor.curl(&args)?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.body, "ok");
        let (head, body) = received.recv()?;
        assert!(body == large(), "{} bytes, chunked: {chunked}", body.len());
        assert_eq!(header(&head, "transfer-encoding"), chunked.then_some("chunked"), "{head}");
        assert_eq!(header(&head, "content-length"), (!chunked).then_some("8388608"), "{head}");
        assert_eq!(run.line()?.received, 8 << 20);
    }
    Ok(())
}

#[test]
fn a_chunked_answer_stays_chunked() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run =
        pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.curl(&["http://httpbin.org/stream/3"])?;
    run.expect_code(0)?;
    let answer = run.http()?;
    assert_eq!(answer.header("transfer-encoding").as_deref(), Some("chunked"));
    assert_eq!((answer.header("content-length"), answer.body.lines().count()), (None, 3));
    Ok(())
}

#[test]
fn streaming_is_not_held_back() -> anyhow::Result<()> {
    let world = World::shared()?;
    // The second half is sent only after the client has said, on another connection, that it has the first.
    let (seen, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let seen = Mutex::new(seen);
    let origin = world.origin(80, move |mut socket| {
        if read_head(&mut socket)?.starts_with("GET /seen") {
            seen.lock()
                .map_err(|error| io::Error::other(error.to_string()))?
                .send(())
                .map_err(io::Error::other)?;
            return socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")?;
        let wait = wait.lock().map_err(|error| io::Error::other(error.to_string()))?;
        wait.recv_timeout(std::time::Duration::from_secs(30)).map_err(io::Error::other)?;
        socket.write_all(b"7\r\nsecond\n\r\n0\r\n\r\n")
    })?;
    let pod = world.pod()?;
    let script = format!(
        "curl -sSN --max-time 20 {} | while read line; do echo $line; curl -sS {}; done",
        origin.url("/stream"),
        origin.url("/seen")
    );
    let run = pod.interceptor()?.config(&origin.service_entry("HTTP"))?.run(&["sh", "-c", &script])?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "first\nsecond\n", "{:?}", origin.errors());
    Ok(())
}

#[test]
fn head_has_the_length_and_no_body() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod
        .interceptor()?
        .config(&seeds(&["000-01-se-se"])?)?
        .curl(&["-I", "http://www.google.com/large"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.header("content-length").as_deref(), Some("8388608"));
    let line = run.line()?;
    assert_eq!((line.method.as_str(), line.sent), ("HEAD", 0));
    Ok(())
}

#[test]
fn expect_100_continue_is_between_client_and_server() -> anyhow::Result<()> {
    let world = World::shared()?;
    // The server refuses: the body must never be sent.
    let refusing = world.origin(80, |mut socket| {
        let head = read_head(&mut socket)?;
        if header(&head, "expect") != Some("100-continue") {
            return Err(io::Error::other(format!("no Expect arrived: {head}")));
        }
        socket.write_all(
            b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest)?;
        if rest.is_empty() { Ok(()) } else { Err(io::Error::other(format!("{} bytes came", rest.len()))) }
    })?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&refusing.service_entry("HTTP"))?.curl(&[
        "-H",
        "Expect: 100-continue",
        "--expect100-timeout",
        "20",
        "-d",
        "body",
        &refusing.url("/"),
    ])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 417, "{} {} {:?}", run.text(), run.log, refusing.errors());
    assert_eq!(refusing.errors(), Vec::<String>::new());

    let agreeing = world.origin(80, |mut socket| {
        let head = read_head(&mut socket)?;
        socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        let mut body = vec![0; content_length(&head)];
        socket.read_exact(&mut body)?;
        write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
        socket.write_all(&body)
    })?;
    let run = pod.interceptor()?.config(&agreeing.service_entry("HTTP"))?.curl(&[
        "-H",
        "Expect: 100-continue",
        "--expect100-timeout",
        "20",
        "-d",
        "body",
        &agreeing.url("/"),
    ])?;
    run.expect_code(0)?;
    assert!(run.text().starts_with("HTTP/1.1 100 Continue\r\n"), "{}", run.text());
    assert_eq!((run.http()?.status, run.http()?.body.as_str()), (200, "body"));
    Ok(())
}

#[test]
fn trailers_pass_both_ways() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (sender, received) = mpsc::channel();
    let origin = world.origin(80, move |mut socket| {
        read_head(&mut socket)?;
        let (body, trailers) = read_chunked(&mut socket)?;
        sender.send((body, trailers)).map_err(io::Error::other)?;
        socket.write_all(
            b"HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n",
        )
    })?;
    let pod = world.pod()?;
    let script = format!(
        r#"
s = socket.create_connection(("{0}", 80), 10)
s.sendall(b"POST / HTTP/1.1\r\nHost: {0}\r\nTE: trailers\r\nTrailer: x-mine\r\nTransfer-Encoding: chunked\r\nConnection: close, TE\r\n\r\n")
s.sendall(b"3\r\nabc\r\n0\r\nx-mine: yes\r\n\r\n")
while data := s.recv(65536): sys.stdout.write(data.decode())
"#,
        origin.name()
    );
    let run = pod.interceptor()?.config(&origin.service_entry("HTTP"))?.run(&python(&script)?)?;
    run.expect_code(0)?;
    let (body, trailers) = received.recv()?;
    assert_eq!((body.as_slice(), trailers.to_lowercase().as_str()), (&b"abc"[..], "x-mine: yes\r\n"));
    assert!(
        run.text().contains("hello") && run.text().to_lowercase().contains("\r\nx-sum: 42\r\n"),
        "{}",
        run.text()
    );
    Ok(())
}

#[test]
fn upstream_connections_are_kept_and_shared() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(80, echo_heads)?;
    let url = origin.url("/");
    // Ten clients, ten connections to us, one after the other.
    let script = format!("for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS -o /dev/null {url} || exit 1; done");
    let run = pod.interceptor()?.config(&origin.service_entry("HTTP"))?.run(&["sh", "-c", &script])?;
    run.expect_code(0)?;
    assert_eq!(run.lines()?.len(), 10);
    assert!(origin.connections() <= 3, "{} connections for 10 requests", origin.connections());
    // One client, one connection to us, three requests.
    let run = pod.interceptor()?.config(&origin.service_entry("HTTP"))?.curl(&[&url, &url, &url])?;
    run.expect_code(0)?;
    let remotes: Vec<String> = run.lines()?.into_iter().map(|line| line.remote).collect();
    assert!(remotes.len() == 3 && remotes.iter().all(|remote| remote == &remotes[0]), "{remotes:?}");
    Ok(())
}
