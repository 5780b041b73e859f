//! Lines as they were published from real sidecars, and values that try to forge others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::append_line;
use crate::proxy::outcome::{ResponseFlag, ResponseFlags};
use crate::resource::UnixPath;
use crate::snapshot::{AccessLogEncoding, ClusterName, EndpointAddress, LogFormat};
use crate::telemetry::record::{AccessRecord, HttpRecord};
use crate::workload::SourceWorkload;

fn at(time: &str) -> SystemTime {
    time.parse::<jiff::Timestamp>().unwrap().into()
}

fn line(format: impl Into<LogFormat>, record: &AccessRecord) -> String {
    let mut line = Vec::new();
    append_line(&mut line, &format.into(), record);
    String::from_utf8(line).unwrap()
}

fn text(record: &AccessRecord) -> String {
    line(AccessLogEncoding::Text, record)
}

fn json(record: &AccessRecord) -> String {
    line(AccessLogEncoding::Json, record)
}

fn cluster(name: &str) -> Option<ClusterName> {
    Some(ClusterName(name.into()))
}

fn host(address: &str) -> Option<EndpointAddress> {
    let unix = |path: Result<_, _>| EndpointAddress::Unix(path.unwrap());
    let ip = || EndpointAddress::Ip(address.parse().unwrap());
    Some(UnixPath::of_address(address).map_or_else(ip, unix))
}

fn tcp(time: &str) -> AccessRecord {
    AccessRecord {
        source: std::rc::Rc::default(),
        client: None,
        start_time: at(time),
        http: None,
        response_code: 0,
        response_flags: ResponseFlags::NONE,
        response_code_details: None,
        connection_termination_details: None,
        upstream_transport_failure_reason: None,
        downstream_transport_failure_reason: None,
        client_tls: None,
        bytes_received: 0,
        bytes_sent: 0,
        duration: Duration::ZERO,
        upstream_host: None,
        upstream_cluster: None,
        upstream_local_address: None,
        downstream_local_address: "104.20.23.154:443".parse().unwrap(),
        downstream_remote_address: "10.244.0.27:49692".parse().unwrap(),
        requested_server_name: None,
        route_name: None,
    }
}

fn via_upstream() -> AccessRecord {
    AccessRecord {
        source: std::rc::Rc::default(),
        http: Some(HttpRecord {
            method: "GET".into(),
            path: "/headers".into(),
            protocol: "HTTP/1.1",
            upstream_service_time: Some(Duration::from_micros(71_999)),
            x_forwarded_for: None,
            user_agent: Some("curl/7.71.1-DEV".into()),
            request_id: Some("11727077-f912-9635-bb39-e61a0fc6d152".into()),
            authority: Some("httpbin.org".into()),
            ..HttpRecord::default()
        }),
        response_code: 200,
        response_code_details: Some("via_upstream".into()),
        bytes_sent: 1135,
        duration: Duration::from_millis(72),
        upstream_host: host("54.236.246.173:80"),
        upstream_cluster: cluster("outbound|80||httpbin.org"),
        upstream_local_address: Some("192.168.77.112:40152".parse().unwrap()),
        downstream_local_address: "3.220.112.94:80".parse().unwrap(),
        downstream_remote_address: "192.168.77.112:32790".parse().unwrap(),
        route_name: Some("default".into()),
        ..tcp("2020-08-08T14:41:39.447Z")
    }
}

fn blocked_http() -> AccessRecord {
    AccessRecord {
        source: std::rc::Rc::default(),
        http: Some(HttpRecord {
            method: "GET".into(),
            path: "/".into(),
            protocol: "HTTP/1.1",
            user_agent: Some("curl/8.11.1".into()),
            request_id: Some("c9627983-150b-9809-b636-f342a4bb2aca".into()),
            authority: Some("example.com".into()),
            ..HttpRecord::default()
        }),
        response_code: 502,
        response_code_details: Some("direct_response".into()),
        downstream_local_address: "104.20.23.154:80".parse().unwrap(),
        downstream_remote_address: "10.244.0.27:35284".parse().unwrap(),
        route_name: Some("block_all".into()),
        ..tcp("2026-09-28T07:46:27.295Z")
    }
}

fn black_hole() -> AccessRecord {
    AccessRecord {
        source: std::rc::Rc::default(),
        response_flags: ResponseFlag::NoHealthyUpstream.into(),
        upstream_cluster: cluster("BlackHoleCluster"),
        ..tcp("2026-09-28T07:46:27.363Z")
    }
}

fn tls_passthrough() -> AccessRecord {
    AccessRecord {
        source: std::rc::Rc::default(),
        bytes_received: 940,
        bytes_sent: 5946,
        duration: Duration::from_millis(217),
        upstream_host: host("18.211.234.122:443"),
        upstream_cluster: cluster("outbound|443||httpbin.org"),
        upstream_local_address: Some("10.244.0.6:56320".parse().unwrap()),
        downstream_local_address: "10.244.0.6:8443".parse().unwrap(),
        downstream_remote_address: "10.244.0.8:35674".parse().unwrap(),
        requested_server_name: Some("httpbin.org".into()),
        ..tcp("2024-06-20T21:39:23.441Z")
    }
}

#[test]
fn text_lines_are_envoys() {
    let timeout = AccessRecord {
        response_code: 504,
        response_flags: ResponseFlag::UpstreamRequestTimeout.into(),
        response_code_details: Some("upstream_response_timeout".into()),
        http: Some(HttpRecord { upstream_service_time: None, ..via_upstream().http.unwrap() }),
        bytes_sent: 24,
        duration: Duration::from_micros(3_000_999),
        ..via_upstream()
    };
    let refused = AccessRecord {
        response_code: 503,
        response_flags: ResponseFlags::NONE
            .with(ResponseFlag::UpstreamConnectionFailure)
            .with(ResponseFlag::UpstreamRetryLimitExceeded),
        response_code_details: Some(
            "upstream_reset_before_response_started{remote connection failure|delayed connect error: 111}"
                .into(),
        ),
        upstream_transport_failure_reason: Some("delayed connect error: 111".into()),
        upstream_local_address: None,
        downstream_local_address: "[2001:db8::1]:80".parse().unwrap(),
        ..via_upstream()
    };
    let rows = [
        (
            via_upstream(),
            r#"[2020-08-08T14:41:39.447Z] "GET /headers HTTP/1.1" 200 - via_upstream - "-" 0 1135 72 71 "-" "curl/7.71.1-DEV" "11727077-f912-9635-bb39-e61a0fc6d152" "httpbin.org" "54.236.246.173:80" outbound|80||httpbin.org 192.168.77.112:40152 3.220.112.94:80 192.168.77.112:32790 - default"#,
        ),
        (
            blocked_http(),
            r#"[2026-09-28T07:46:27.295Z] "GET / HTTP/1.1" 502 - direct_response - "-" 0 0 0 - "-" "curl/8.11.1" "c9627983-150b-9809-b636-f342a4bb2aca" "example.com" "-" - - 104.20.23.154:80 10.244.0.27:35284 - block_all"#,
        ),
        (
            black_hole(),
            r#"[2026-09-28T07:46:27.363Z] "- - -" 0 UH - - "-" 0 0 0 - "-" "-" "-" "-" "-" BlackHoleCluster - 104.20.23.154:443 10.244.0.27:49692 - -"#,
        ),
        (
            tls_passthrough(),
            r#"[2024-06-20T21:39:23.441Z] "- - -" 0 - - - "-" 940 5946 217 - "-" "-" "-" "-" "18.211.234.122:443" outbound|443||httpbin.org 10.244.0.6:56320 10.244.0.6:8443 10.244.0.8:35674 httpbin.org -"#,
        ),
        (
            timeout,
            r#"[2020-08-08T14:41:39.447Z] "GET /headers HTTP/1.1" 504 UT upstream_response_timeout - "-" 0 24 3000 - "-" "curl/7.71.1-DEV" "11727077-f912-9635-bb39-e61a0fc6d152" "httpbin.org" "54.236.246.173:80" outbound|80||httpbin.org 192.168.77.112:40152 3.220.112.94:80 192.168.77.112:32790 - default"#,
        ),
        (
            refused,
            r#"[2020-08-08T14:41:39.447Z] "GET /headers HTTP/1.1" 503 UF,URX upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_111} - "delayed_connect_error:_111" 0 1135 72 71 "-" "curl/7.71.1-DEV" "11727077-f912-9635-bb39-e61a0fc6d152" "httpbin.org" "54.236.246.173:80" outbound|80||httpbin.org - [2001:db8::1]:80 192.168.77.112:32790 - default"#,
        ),
    ];
    for (record, expected) in rows {
        assert_eq!(text(&record), format!("{expected}\n"));
    }
}

#[test]
fn json_lines_are_envoys() {
    let rows = [
        (
            via_upstream(),
            r#"{"authority":"httpbin.org","bytes_received":0,"bytes_sent":1135,"connection_termination_details":null,"downstream_local_address":"3.220.112.94:80","downstream_remote_address":"192.168.77.112:32790","duration":72,"method":"GET","path":"/headers","protocol":"HTTP/1.1","request_id":"11727077-f912-9635-bb39-e61a0fc6d152","requested_server_name":null,"response_code":200,"response_code_details":"via_upstream","response_flags":"-","route_name":"default","start_time":"2020-08-08T14:41:39.447Z","upstream_cluster":"outbound|80||httpbin.org","upstream_host":"54.236.246.173:80","upstream_local_address":"192.168.77.112:40152","upstream_service_time":"71","upstream_transport_failure_reason":null,"user_agent":"curl/7.71.1-DEV","x_forwarded_for":null}"#,
        ),
        (
            black_hole(),
            r#"{"authority":null,"bytes_received":0,"bytes_sent":0,"connection_termination_details":null,"downstream_local_address":"104.20.23.154:443","downstream_remote_address":"10.244.0.27:49692","duration":0,"method":null,"path":null,"protocol":null,"request_id":null,"requested_server_name":null,"response_code":0,"response_code_details":null,"response_flags":"UH","route_name":null,"start_time":"2026-09-28T07:46:27.363Z","upstream_cluster":"BlackHoleCluster","upstream_host":null,"upstream_local_address":null,"upstream_service_time":null,"upstream_transport_failure_reason":null,"user_agent":null,"x_forwarded_for":null}"#,
        ),
    ];
    for (record, expected) in rows {
        assert_eq!(json(&record), format!("{expected}\n"));
    }
    let value: serde_json::Value = serde_json::from_str(&json(&via_upstream())).unwrap();
    assert_eq!(value.as_object().unwrap().len(), 24);
}

/// Envoy's `PipeInstance::asString` is the bare path; the local end of a pipe has no address.
#[test]
fn a_unix_socket_is_its_path() {
    for (address, quoted, logged) in [
        ("unix:///run/a.sock", r#"" "/run/a.sock" outbound"#, "/run/a.sock"),
        ("unix://@a", r#"" "@a" outbound"#, "@a"),
        (r#"unix:///a" "b c\"#, r#"" "/a\" \"b c\\" outbound"#, r#"/a" "b c\"#),
    ] {
        let record =
            AccessRecord { upstream_host: host(address), upstream_local_address: None, ..via_upstream() };
        let line = text(&record);
        assert!(line.contains(quoted) && line.contains(" outbound|80||httpbin.org - 3.220"), "{line}");
        let parsed: serde_json::Value = serde_json::from_str(&json(&record)).unwrap();
        assert_eq!(
            (&parsed["upstream_host"], &parsed["upstream_local_address"]),
            (&logged.into(), &serde_json::Value::Null)
        );
    }
}

#[test]
fn the_time_is_utc_with_milliseconds_cut() {
    for (time, expected) in [
        ("2024-02-29T23:59:59Z", "[2024-02-29T23:59:59.000Z]"),
        ("2024-12-31T23:59:59.999999Z", "[2024-12-31T23:59:59.999Z]"),
        ("1970-01-01T00:00:00.0019Z", "[1970-01-01T00:00:00.001Z]"),
    ] {
        assert!(text(&tcp(time)).starts_with(expected), "{}", text(&tcp(time)));
    }
}

/// Splits a line as parsers of this format do: at spaces, but for those in quotes.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut quoted, mut escaped) = (vec![String::new()], false, false);
    for character in line.chars() {
        match character {
            '"' if !escaped => quoted = !quoted,
            ' ' if !quoted => fields.push(String::new()),
            other => fields.last_mut().unwrap().push(other),
        }
        escaped = character == '\\' && !escaped;
    }
    fields
}

fn forged(value: &str) -> AccessRecord {
    AccessRecord {
        source: std::rc::Rc::default(),
        http: Some(HttpRecord {
            method: value.into(),
            path: value.into(),
            x_forwarded_for: Some(value.into()),
            user_agent: Some(value.into()),
            request_id: Some(value.into()),
            authority: Some(value.into()),
            ..via_upstream().http.unwrap()
        }),
        response_code_details: Some(value.to_owned().into()),
        connection_termination_details: Some(value.to_owned().into()),
        upstream_transport_failure_reason: Some(value.to_owned().into()),
        requested_server_name: Some(Arc::from(value)),
        route_name: Some(Arc::from(value)),
        upstream_cluster: cluster(value),
        ..via_upstream()
    }
}

#[test]
fn values_cannot_forge_fields_or_lines() {
    let rows = [
        ("a\" 200 \"b", r#"a\" 200 \"b"#),
        ("a\\", r"a\\"),
        ("a\\\" x", r#"a\\\" x"#),
        ("a\r\n[2026-01-01T00:00:00.000Z] b", r"a\x0d\x0a[2026-01-01T00:00:00.000Z] b"),
        ("\u{1b}[2J\u{7f}\0", r"\x1b[2J\x7f\x00"),
        ("\u{9b}2J", r"\xc2\x9b2J"),
        ("bücher/✓", "bücher/✓"),
    ];
    for (value, expected) in rows {
        let line = text(&forged(value));
        assert!(
            line.contains(&format!("\"{expected}\" \"{expected}\" \"{expected}\" \"{expected}\"")),
            "{line}"
        );
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(fields(&line).len(), fields(&text(&via_upstream())).len(), "{line}");

        let line = json(&forged(value));
        assert_eq!(line.matches('\n').count(), 1);
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        for key in ["user_agent", "path", "requested_server_name", "route_name", "upstream_cluster"] {
            assert_eq!(parsed[key], value);
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_value_stays_in_its_field(value in "\\PC{0,20}|[\\x00-\\x7f]{0,20}") {
        let record = forged(&value);
        let line = text(&record);
        proptest::prop_assert_eq!(fields(&line).len(), fields(&text(&via_upstream())).len());
        proptest::prop_assert_eq!(line.matches('\n').count(), 1);
        let parsed: serde_json::Value = serde_json::from_str(&json(&record)).unwrap();
        // No path at all is an unknown one.
        let expected = if value.is_empty() { serde_json::Value::Null } else { value.into() };
        proptest::prop_assert_eq!(&parsed["path"], &expected);
    }
}

/// The format that MeshConfig asks for, and what is said of it.
fn asked_for(encoding: &str, format: &str) -> (Option<LogFormat>, String) {
    let mesh = serde_json::json!({ "accessLogEncoding": encoding, "accessLogFormat": format }).to_string();
    let (config, findings) = crate::resource::mesh_config::parse(&"mesh.yaml".into(), &mesh);
    let format = config.and_then(|config| config.access_log_format).map(|format| LogFormat::clone(&format));
    (format, findings.iter().map(|finding| format!("{}\n", finding.message)).collect())
}

fn with_headers() -> AccessRecord {
    let mut record = via_upstream();
    let http = record.http.as_mut().unwrap();
    http.request_headers = vec![("x-team".parse().unwrap(), "web shop\" x".to_owned())];
    http.response_headers = vec![("content-type".parse().unwrap(), "text/html".to_owned())];
    record
}

#[test]
fn formats_of_ones_own() {
    let rows = [
        ("%REQ(:method)% %RESPONSE_CODE%", "GET 200", "- 0"),
        ("%REQ(:METHOD)%\n", "GET", "-"),
        ("100%% %DURATION%ms", "100% 72ms", "100% 217ms"),
        (
            "%START_TIME(%d/%b/%Y:%H:%M:%S %z %3f)%",
            "08/Aug/2020:14:41:39 +0000 447",
            "20/Jun/2024:21:39:23 +0000 441",
        ),
        ("\"%REQ(X-TEAM)%\" %REQ(X-TEAM)%", "\"web shop\\\" x\" web_shop\\\"_x", "\"-\" -"),
        ("%REQ(X-NONE?USER-AGENT):4%|%REQ(X-NONE)%", "curl|-", "-|-"),
        ("%RESP(Content-Type)% %RESP(:STATUS)%", "text/html 200", "- -"),
        (
            "%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%/%UPSTREAM_REMOTE_PORT%",
            "54.236.246.173:80 54.236.246.173/80",
            "18.211.234.122:443 18.211.234.122/443",
        ),
        (
            "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_CLUSTER%",
            "192.168.77.112 outbound|80||httpbin.org",
            "10.244.0.8 outbound|443||httpbin.org",
        ),
    ];
    for (format, http, opaque) in rows {
        let (parsed, said) = asked_for("TEXT", format);
        let parsed = parsed.unwrap_or_else(|| panic!("{format}: {said}"));
        assert_eq!(said, "");
        assert_eq!(line(parsed.clone(), &with_headers()), format!("{http}\n"), "{format}");
        assert_eq!(line(parsed, &tls_passthrough()), format!("{opaque}\n"), "{format}");
    }
}

#[test]
fn labels_of_ones_own() {
    let format = r#"{"z": "%RESPONSE_CODE%", "team": "%REQ(X-TEAM)%", "at": {"host": "%UPSTREAM_HOST%", "none": "%ROUTE_NAME%"},
        "version": 3, "list": ["%BYTES_SENT%", true, null], "both": "%REQ(X-TEAM)% %REQ(X-NONE)% %DURATION%"}"#;
    let (parsed, said) = asked_for("JSON", format);
    assert_eq!(said, "");
    let record = AccessRecord { route_name: None, ..with_headers() };
    assert_eq!(
        line(parsed.unwrap(), &record),
        r#"{"at":{"host":"54.236.246.173:80","none":null},"both":"web shop\" x - 72","list":[1135,true,null],"team":"web shop\" x","version":3,"z":200}"#
            .to_owned()
            + "\n"
    );
}

#[test]
fn the_workload_whose_connection_it_is() {
    let client = |name: &str| format!("%FILTER_STATE(downstream_peer:FIELD:{name})%");
    let names = [
        "namespace",
        "name",
        "service_account",
        "workload",
        "service",
        "revision",
        "app",
        "version",
        "cluster",
    ];
    let (parsed, said) = asked_for("TEXT", &names.map(client).join(" "));
    assert_eq!(said, "");
    let cart = SourceWorkload {
        namespace: "shop".into(),
        pod: "cart-7d4-x".into(),
        service_account: "sa".into(),
        workload: "cart".into(),
        canonical_service: "basket".into(),
        canonical_revision: "v2".into(),
        app: "c".into(),
        cluster: "Kubernetes".into(),
        ..SourceWorkload::default()
    };
    let record = AccessRecord { client: Some(std::rc::Rc::new(cart)), ..via_upstream() };
    assert_eq!(line(parsed.clone().unwrap(), &record), "shop cart-7d4-x sa cart basket v2 c - Kubernetes\n");
    assert_eq!(line(parsed.unwrap(), &via_upstream()), "- - - - - - - - -\n");
    // As newer ones call it; and what is not known.
    let format = "%FILTER_STATE(downstream_peer_obj:FIELD:name)% %FILTER_STATE(downstream_peer)% %FILTER_STATE(x:FIELD:name)%";
    let (parsed, said) = asked_for("TEXT", format);
    assert_eq!(line(parsed.unwrap(), &record), "cart-7d4-x - -\n");
    assert!(
        said.starts_with("%FILTER_STATE(downstream_peer)% is never known here") && said.lines().count() == 2,
        "{said}"
    );
}

#[test]
fn what_is_wrong_with_a_format_is_said() {
    for (encoding, format, expected) in [
        (
            "TEXT",
            "%RESPONSE_COD%",
            "%RESPONSE_COD% is no operator of Envoy's access log; did you mean `RESPONSE_CODE`?",
        ),
        ("TEXT", "a %DURATION", "`%DURATION` begins an operator that does not end"),
        ("TEXT", "%REQ%", "%REQ% needs the name of a header"),
        ("TEXT", "%REQ(a b)%", "expected the name of a header"),
        ("TEXT", "%DURATION(x)%", "%DURATION% takes no arguments"),
        ("TEXT", "%REQ(A):x%", "begins an operator that does not end"),
        ("TEXT", "%START_TIME(%!)%", "%START_TIME(%!)%: "),
        ("JSON", "%DURATION%", "expected a JSON object, as accessLogEncoding is JSON: "),
        ("JSON", "[]", "expected a JSON object"),
        ("JSON", r#"{"a": {"b": "%NONE%"}}"#, "%NONE% is no operator"),
    ] {
        let (parsed, said) = asked_for(encoding, format);
        assert!(parsed.is_none() && said.contains(expected), "{format}: {said}");
    }
    let (parsed, said) = asked_for("TEXT", "%CONNECTION_ID% %DYNAMIC_METADATA(a:b)%");
    assert_eq!(line(parsed.unwrap(), &via_upstream()), "- -\n");
    assert!(
        said.contains("%CONNECTION_ID% is never known here") && said.contains("%DYNAMIC_METADATA%"),
        "{said}"
    );
}

proptest::proptest! {
    #[test]
    fn any_format_is_read_or_refused(format in "[%A-Z_():?a-z\"{} ]{0,40}") {
        for encoding in ["TEXT", "JSON"] {
            let (parsed, said) = asked_for(encoding, &format);
            proptest::prop_assert!(parsed.is_some() || !said.is_empty() || format.is_empty());
            if let Some(parsed) = parsed {
                proptest::prop_assert_eq!(line(parsed, &forged(&format)).matches('\n').count(), 1);
            }
        }
    }
}
