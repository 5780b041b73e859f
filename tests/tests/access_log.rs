//! The access log as Istio writes it: the text line to the byte, and the 24 keys of the JSON form.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use interceptor_tests::{Dir, LogLine, World, eventually, seeds};
use serde_json::Value;

/// ISTIO's JSON keys.
const KEYS: [&str; 24] = [
    "authority",
    "bytes_received",
    "bytes_sent",
    "connection_termination_details",
    "downstream_local_address",
    "downstream_remote_address",
    "duration",
    "method",
    "path",
    "protocol",
    "request_id",
    "requested_server_name",
    "response_code",
    "response_code_details",
    "response_flags",
    "route_name",
    "start_time",
    "upstream_cluster",
    "upstream_host",
    "upstream_local_address",
    "upstream_service_time",
    "upstream_transport_failure_reason",
    "user_agent",
    "x_forwarded_for",
];

const NUMBERS: [&str; 4] = ["bytes_received", "bytes_sent", "duration", "response_code"];

fn keys(line: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = line.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn http_text_line_to_the_byte() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.curl(&[
        "-H",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
        "-H",
        "X-Request-Id: 38bb64b2-fc64-9f00-a745-c468747fb0ee",
        "-d",
        "12345",
        "http://httpbin.org/status/404?a=b",
    ])?;
    run.expect_code(0)?;
    assert!(run.log.ends_with('\n') && run.log.lines().count() == 1, "{:?}", run.log);
    let pattern = concat!(
        r#"^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] "POST /status/404\?a=b HTTP/1\.1" 404 - via_upstream - "-" 5 0 \d+ \d+ "#,
        r#""-" "Mozilla/5\.0 \(X11; Linux x86_64\)" "38bb64b2-fc64-9f00-a745-c468747fb0ee" "httpbin\.org" "203\.0\.113\.10:80" "#,
        r#"outbound\|80\|\|httpbin\.org 10\.244\.\d+\.2:\d+ 203\.0\.113\.10:80 [\d.]+:\d+ - default\n$"#
    );
    assert!(regex::Regex::new(pattern)?.is_match(&run.log), "{}", run.log);
    Ok(())
}

/// The file has one offset for all who write to it: none overwrites another.
#[test]
fn lines_on_standard_error_stay_beside_what_the_command_says() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let command = "for i in 1 2 3 4; do curl -sS http://httpbin.org/get?$i >&2; echo command-$i >&2; done";
    for name in ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"] {
        let interceptor = pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.no_access_log();
        let run = interceptor.flags(&["--access-log", name]).run(&["sh", "-c", command])?;
        run.expect_code(0)?;
        for request in 1..=4 {
            let line = format!(" \"GET /get?{request} HTTP/1.1\" 200 ");
            let said = format!("command-{request}\n");
            assert!(run.stderr.contains(&line) && run.stderr.contains(&said), "{name}: {}", run.stderr);
        }
    }
    Ok(())
}

#[test]
fn tls_text_line_to_the_byte() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&seeds(&["000-03-se"])?)?.curl(&["https://www.apple.com/"])?;
    run.expect_code(0)?;
    let pattern = concat!(
        r#"^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] "- - -" 0 - - - "-" \d{3,} \d{3,} \d+ - "-" "-" "-" "-" "#,
        r#""203\.0\.113\.40:443" outbound\|443\|\|www\.apple\.com 10\.244\.\d+\.2:\d+ 203\.0\.113\.40:443 "#,
        r#"[\d.]+:\d+ www\.apple\.com -\n$"#
    );
    assert!(regex::Regex::new(pattern)?.is_match(&run.log), "{}", run.log);
    Ok(())
}

#[test]
fn what_a_client_sends_can_not_make_a_field_or_a_line() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let forged = r#"x" "-" "evil.test" "1.2.3.4:80" outbound|80||evil.test \"#;
    let run = pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.curl(&[
        "-H",
        &format!("User-Agent: {forged}"),
        "http://httpbin.org/get",
    ])?;
    run.expect_code(0)?;
    let line = run.line()?;
    assert_eq!((line.cluster.as_str(), line.authority.as_str()), ("outbound|80||httpbin.org", "httpbin.org"));
    assert!(line.user_agent.contains("evil.test"), "{}", line.line);
    // Control characters are refused by HTTP; that too is one line.
    let run = pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.curl(&[
        "-H",
        "User-Agent: \u{e9}\t\u{7f}x",
        "http://httpbin.org/get",
    ])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 400);
    let line = run.line()?;
    assert_eq!((line.code, line.flags.as_str(), line.method.as_str()), (400, "DPE", "-"), "{}", line.line);
    Ok(())
}

#[test]
fn json_has_24_keys_and_numbers_are_numbers() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.registry_only().json().curl(&[
        "http://httpbin.org/get",
        "http://edition.cnn.com/",
        "https://www.google.com/",
    ])?;
    run.expect_code(0)?;
    let lines = run.json_lines()?;
    assert_eq!(lines.len(), 3, "{}", run.log);
    for line in &lines {
        assert_eq!(keys(line), KEYS, "{line:#}");
        assert!(NUMBERS.iter().all(|key| line[key].is_number()), "{line:#}");
    }
    let [ok, blocked, tls] = lines.as_slice() else { anyhow::bail!("three lines") };
    assert_eq!(
        (&ok["response_code"], &ok["upstream_cluster"]),
        (&200.into(), &"outbound|80||httpbin.org".into())
    );
    assert_eq!(
        (&ok["route_name"], &ok["response_code_details"]),
        (&"default".into(), &"via_upstream".into())
    );
    assert_eq!((&ok["requested_server_name"], &ok["x_forwarded_for"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&ok["method"], &ok["path"], &ok["protocol"]),
        (&"GET".into(), &"/get".into(), &"HTTP/1.1".into())
    );
    assert_eq!((&blocked["response_code"], &blocked["upstream_cluster"]), (&502.into(), &Value::Null));
    assert_eq!((&blocked["route_name"], &blocked["upstream_host"]), (&"block_all".into(), &Value::Null));
    assert_eq!((&tls["response_code"], &tls["method"]), (&0.into(), &Value::Null));
    assert_eq!(tls["requested_server_name"], "www.google.com");
    Ok(())
}

#[test]
fn the_mesh_configuration_turns_the_log_on() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // On standard output, between what the command itself prints; the flag names the file otherwise.
    let run = pod
        .interceptor()?
        .config(&seeds(&["000-01-se-se"])?)?
        .flags(&["--access-log-format", "text"])
        .run(&["sh", "-c", "curl -sS http://httpbin.org/status/200; echo mine"])?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "mine\n");
    let interceptor = pod.interceptor()?.no_access_log().config(&seeds(&["000-01-se-se"])?)?;
    let mesh = interceptor.dir().join("mesh.yaml");
    std::fs::write(&mesh, "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n")?;
    let run = interceptor.flag("--mesh-config").flag(&mesh).run(&[
        "sh",
        "-c",
        "curl -sS http://httpbin.org/status/200; echo mine",
    ])?;
    run.expect_code(0)?;
    let text = run.text();
    let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_default();
    assert_eq!(serde_json::from_str::<Value>(line)?["authority"], "httpbin.org", "{text}");
    assert!(text.lines().any(|line| line == "mine"));
    Ok(())
}

#[test]
fn a_format_of_ones_own_with_any_header() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let text = r#"%REQ(:METHOD)% "%REQ(X-TEAM)%" %RESPONSE_CODE% %RESP(CONTENT-TYPE)% %REQ(X-NONE?:AUTHORITY)% %UPSTREAM_CLUSTER%"#;
    let json = r#"{"team": "%REQ(X-TEAM)%", "code": "%RESPONSE_CODE%", "type": "%RESP(CONTENT-TYPE)%", "none": "%RESP(X-NONE)%"}"#;
    for (encoding, format, expected) in [
        ("TEXT", text, r#"GET "web shop" 200 application/json httpbin.org outbound|80||httpbin.org"#),
        ("JSON", json, r#"{"code":200,"none":null,"team":"web shop","type":"application/json"}"#),
    ] {
        let interceptor = pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?;
        let mesh = interceptor.dir().join("mesh.yaml");
        let config = serde_json::json!({ "accessLogEncoding": encoding, "accessLogFormat": format });
        std::fs::write(&mesh, config.to_string())?;
        let run = interceptor.flag("--mesh-config").flag(&mesh).curl(&[
            "-H",
            "X-Team: web shop",
            "http://httpbin.org/get",
        ])?;
        run.expect_code(0)?;
        assert_eq!(run.log, format!("{expected}\n"));
    }
    let interceptor = pod.interceptor()?.no_access_log();
    let mesh = interceptor.dir().join("mesh.yaml");
    std::fs::write(&mesh, "accessLogFormat: '%RESPONSE_COD%'\n")?;
    let run = interceptor.flag("--mesh-config").flag(&mesh).run(&["true"])?;
    assert_ne!(run.code(), 0);
    assert!(run.stderr.contains("did you mean `RESPONSE_CODE`?"), "{}", run.stderr);
    Ok(())
}

#[test]
fn off_unless_asked_for() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.no_access_log().config(&seeds(&["000-01-se-se"])?)?.run(&[
        "curl",
        "-sS",
        "http://httpbin.org/status/200",
    ])?;
    run.expect_code(0)?;
    assert_eq!((run.text().as_str(), run.stderr.contains("outbound|80||httpbin.org")), ("", false));
    let run = pod
        .interceptor()?
        .no_access_log()
        .flags(&["--access-log", "-"])
        .config(&seeds(&["000-01-se-se"])?)?
        .run(&["curl", "-sS", "http://httpbin.org/status/200"])?;
    run.expect_code(0)?;
    assert_eq!(interceptor_tests::LogLine::parse(run.text().trim_end())?.code, 200);
    Ok(())
}

/// A file system of two pages in memory, until dropped.
struct SmallDisk(Dir);

impl SmallDisk {
    fn new() -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        let mut mount = Command::new("mount");
        interceptor_tests::run(mount.args(["-t", "tmpfs", "-o", "size=8k", "tmpfs"]).arg(dir.path()))?;
        Ok(Self(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: who still writes there ends soon.
        if let Err(error) = interceptor_tests::run(Command::new("umount").arg("--lazy").arg(self.0.path())) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn a_full_disk_costs_lines_and_spoils_none_that_follow() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let disk = SmallDisk::new()?;
    let (log, other) = (disk.path("access.log"), disk.path("other"));
    fs::write(&other, [b'x'; 4096])?;
    let interceptor = pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.no_access_log();
    let mut session = interceptor.flag("--access-log").flag(&log).session()?;
    let mut request = |path: &str| -> anyhow::Result<()> {
        let (code, _) = session.curl(&format!("http://httpbin.org/status/200?{path}"))?;
        anyhow::ensure!(code == 0, "curl exits with {code}");
        Ok(())
    };
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let long = "x".repeat(2300);
    request(&long)?;
    eventually("the first line to be written", || read().ends_with('\n'))?;
    // A part of the second finds room.
    request(&long)?;
    eventually("the disk to be full", || read().len() == 4096)?;
    fs::remove_file(&other)?;
    request("after")?;
    eventually("the third line to be written", || read().contains("?after "))?;
    let stderr = session.finish()?.stderr;
    let name = log.display();
    for told in [
        &format!("access log {name}: No space left on device (os error 28): lines are dropped until"),
        &format!("access log {name}: is written again; lines that are lost: 1"),
    ] {
        assert!(stderr.contains(told), "not told: {told}: {stderr}");
    }
    let text = read();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    LogLine::parse(lines[0])?;
    LogLine::parse(lines[2])?;
    Ok(())
}
