//! The commands themselves: exit codes, what goes to which stream, and readers that stop reading.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interceptor"));
    command.args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    command(words).output().unwrap()
}

fn seed(name: &str) -> String {
    format!("{}/tests/data/seeds/{name}.yaml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn exit_codes() {
    let seed = seed("000-01");
    let rows: &[(&[&str], i32, &str)] = &[
        (&["explain", "-c", &seed, "http://google.com"], 0, ""),
        (&["explain", "-c", &seed, "--outbound-traffic-policy", "REGISTRY_ONLY", "http://cnn.com"], 3, ""),
        (&["explain", "-c", &seed, "google.com"], 2, "has no port"),
        (&["explain", "-c", &seed, "--header", "x", "http://google.com"], 2, "NAME: VALUE"),
        (&["explain", "-c", &seed, "--port", "80", "http://google.com"], 2, "--gateway"),
        (&["explain", "-c", &seed, "--peer", "spiffe://td/x", "http://google.com"], 2, "--gateway"),
        (
            &["explain", "-c", &seed, "--gateway", "--peer", "shop/cart", "http://a.com"],
            2,
            "/ns/shop/sa/cart",
        ),
        (
            &["explain", "-c", &seed, "--gateway", "--port", "0", "http://google.com"],
            2,
            "0 is not in 1..=65535",
        ),
        (&["explain", "-c", &seed, "--gateway", "--labels", "a=b", "http://google.com"], 3, ""),
        (
            &[
                "explain",
                "-c",
                &seed,
                "--annotations",
                "egress.interceptor.io/polcy=REGISTRY_ONLY",
                "http://a.com",
            ],
            2,
            "did you mean egress.interceptor.io/policy?",
        ),
        (&["explain", "http://google.com"], 0, ""),
        (&["explain", "--outbound-traffic-policy", "REGISTRY_ONLY", "http://google.com"], 3, ""),
        (&["explain", "--agent-socket", "/run/a.sock", "http://google.com"], 2, "--pod"),
        (&["explain", "-c", &seed, "--pod", "a/b", "http://google.com"], 2, "cannot be used with"),
        (&["config", "clusters"], 0, ""),
        (&["explain", "-c", "/nowhere.yaml", "http://google.com"], 1, "/nowhere.yaml"),
        (&["explain", "-c", &seed, "--from", "a/b", "http://google.com"], 1, "hold no Pod"),
        (&["config", "clusters", "-c", &seed], 0, ""),
        (&["config", "clusters", "-c", "/nowhere.yaml"], 1, "/nowhere.yaml"),
        (&["config", "everything", "-c", &seed], 2, "unrecognized subcommand"),
    ];
    for (words, code, said) in rows {
        let output = run(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
        let has_answer = matches!(code, 0 | 3);
        assert_eq!(!output.stdout.is_empty(), has_answer, "{words:?}: data is on stdout, complaints are not");
        assert_eq!(stderr.is_empty(), has_answer, "{words:?}: {stderr}");
    }
}

#[test]
fn an_annotation_that_nothing_reads_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let pod = directory.path().join("pod.yaml");
    let misspelt = "traffic.sidecar.istio.io/excludeOutboundIPRange";
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: cart\n  namespace: shop\n  annotations:\n    \
         {misspelt}: 10.0.0.0/8\n    egress.interceptor.io/polcy: strict\nspec: {{containers: [{{name: app}}]}}\n"
    );
    std::fs::write(&pod, text).unwrap();
    let pod = pod.display().to_string();
    let given = format!("{misspelt}=10.0.0.0/8");
    let meant = format!("did you mean {misspelt}s?");
    // At the values, as `analyze` has them.
    let of_pod = format!("{pod}:7:54: warning: [IST0108] Pod shop/cart: ");
    let own = format!("{pod}:8:34: error: [IST0108] Pod shop/cart: ");
    let rows: [(&[&str], &[&str]); 2] = [
        (
            &["explain", "-c", &seed("000-01"), "--annotations", &given, "http://google.com"],
            &["warning: [IST0108] --annotations: Unknown annotation: ", &meant],
        ),
        (
            &["explain", "-c", &pod, "--from", "shop/cart", "http://google.com"],
            &[&of_pod, &meant, &own, "did you mean egress.interceptor.io/policy?"],
        ),
    ];
    for (words, expected) in rows {
        let output = run(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        expected.iter().for_each(|part| assert!(stderr.contains(part), "{part}: {stderr}"));
    }
}

#[test]
fn a_server_name_that_is_not_sent_is_told() {
    let text = |target| String::from_utf8(run(&["explain", "--sni", "x.com", target]).stdout).unwrap();
    let told = "; the server name given with --sni is not sent, as this is no TLS";
    for (target, is_told) in [("http://a.com", true), ("tcp://192.0.2.1:9", true), ("https://a.com", false)] {
        let text = text(target);
        assert_eq!(text.contains(told), is_told, "{text}");
    }
}

/// What is no request goes as no version of HTTP.
#[test]
fn opaque_bytes_are_no_requests() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.yaml");
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec: {hosts: [a.com], ports: \
                 [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}], resolution: DNS}\n";
    std::fs::write(&path, entry).unwrap();
    let path = path.to_str().unwrap();
    for (target, are_requests) in [("https://a.com", false), ("http://a.com", true)] {
        let text = String::from_utf8(run(&["explain", "-c", path, target]).stdout).unwrap();
        assert!(text.contains("load balancing "), "{text}");
        assert_eq!(text.contains("requests go as HTTP/1.1; "), are_requests, "{text}");
    }
}

#[test]
fn json_and_yaml_say_the_same() {
    let seed = seed("000-01");
    let output = |format| run(&["explain", "-c", &seed, "-o", format, "http://httpbin.org/get"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&output("json")).unwrap();
    assert_eq!(json["outcomes"][0]["accessLog"]["cluster"], "outbound|80||httpbin.org");
    assert_eq!(json["outcomes"][0]["accessLog"]["route"], "default");
    assert_eq!(json["steps"][1]["by"][0]["at"], format!("{seed}:27:5"));
    let yaml = String::from_utf8(output("yaml")).unwrap();
    assert!(yaml.contains("cluster: outbound|80||httpbin.org\n"), "{yaml}");
    assert!(yaml.contains(&format!("at: {seed}:27:5\n")), "{yaml}");
    let rows = run(&["config", "clusters", "-c", &seed, "-o", "json"]).stdout;
    let rows: serde_json::Value = serde_json::from_slice(&rows).unwrap();
    assert_eq!(rows[0]["serviceFqdn"], "BlackHoleCluster");
}

#[test]
fn a_pod_of_the_files_is_the_client() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pod.yaml");
    std::fs::write(
        &path,
        "apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  template:
    metadata:
      labels: {app: cart}
      annotations:
        traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.0.0.0/8
        egress.interceptor.io/policy: REGISTRY_ONLY
    spec: {containers: [{name: c}]}
",
    )
    .unwrap();
    let path = path.to_str().unwrap();
    let text = |target| {
        let output = run(&["explain", "-c", path, "--from", "shop/cart", target]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, left_alone) = text("http://10.1.2.3/");
    assert_eq!(code, Some(0), "{left_alone}");
    assert!(
        left_alone.starts_with("http://10.1.2.3/ from namespace shop with labels app=cart\n"),
        "{left_alone}"
    );
    let by = format!(
        "by Deployment shop/cart annotation traffic.sidecar.istio.io/excludeOutboundIPRanges ({path}:9:59)"
    );
    assert!(left_alone.contains(&by), "{left_alone}");
    let (code, closed) = text("http://192.0.2.1/");
    assert_eq!(code, Some(3), "{closed}");
    assert!(closed.contains("the policy is that of the client's annotation"), "{closed}");
}

/// More than a pipe holds, of which one line is read.
#[test]
fn a_reader_that_stops_reading_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("many.yaml");
    let entry = |index: usize| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s{index}}}\nspec: {{hosts: \
             [h{index}.example.com], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS}}\n"
        )
    };
    std::fs::write(&path, (0..2000).map(entry).collect::<String>()).unwrap();
    let mut child = command(&["config", "registry", "-c", path.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("HOST"), "{line}");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
