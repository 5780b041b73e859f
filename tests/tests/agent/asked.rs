//! What the agent answers on its socket, and the commands that ask it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use interceptor_tests::{Node, binary, output};

use crate::HTTPBIN;

const TIMEOUT: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: httpbin, namespace: shop}\n\
    spec: {hosts: [httpbin.org], http: [{timeout: 1s, route: [{destination: {host: httpbin.org}}]}]}\n";

fn command(node: &Node, words: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(words).arg("--agent-socket").arg(node.socket()).stdin(Stdio::null());
    Ok(command)
}

fn run(node: &Node, words: &[&str]) -> anyhow::Result<Output> {
    Ok(command(node, words)?.output()?)
}

pub(crate) fn get(node: &Node, path: &str) -> anyhow::Result<String> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail-with-body", "--max-time", "20", "--unix-socket"]).arg(node.socket());
    Ok(String::from_utf8(output(curl.arg(format!("http://agent{path}")))?.stdout)?)
}

/// What /readyz answers, whatever it is.
pub(crate) fn ready(node: &Node) -> anyhow::Result<String> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--unix-socket"]).arg(node.socket());
    Ok(String::from_utf8(output(curl.arg("http://agent/readyz?verbose"))?.stdout)?)
}

/// `interceptor dump`, from the pins.
pub(crate) fn dump(node: &Node, what: &str) -> anyhow::Result<String> {
    let mut command = Command::new(binary()?);
    command.args(["dump", what]).arg("--pins").arg(node.pins());
    Ok(String::from_utf8(output(&mut command)?.stdout)?)
}

/// What is explained and shown is what happens, and is counted and told when it has happened.
#[test]
fn a_pods_request_is_explained_shown_followed_and_counted() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    node.apply("timeout", TIMEOUT)?;
    let agent = node.agent(&["--outbound-traffic-policy", "REGISTRY_ONLY"])?;
    let exclude = "  annotations: {traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.10.0.4/32}\n";
    let pod = node.pod("web", exclude)?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;

    let explained = run(&node, &["explain", "--pod", "shop/web", "http://httpbin.org/delay/5"])?;
    let text = String::from_utf8(explained.stdout)?;
    assert_eq!(explained.status.code(), Some(0), "{text}");
    for part in [
        "from namespace shop",
        "timeout 1s",
        "by VirtualService shop/httpbin spec.http[0]",
        "outbound|80||httpbin.org",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let excluded = run(&node, &["explain", "--pod", "shop/web", "http://10.10.0.4/"])?;
    let text = String::from_utf8(excluded.stdout)?;
    let by = "by Pod shop/web annotation traffic.sidecar.istio.io/excludeOutboundIPRanges";
    assert!(text.contains("left alone") && text.contains(by), "{text}");
    let blocked = run(&node, &["explain", "--pod", "shop/web", "http://edition.cnn.com"])?;
    assert_eq!(blocked.status.code(), Some(3), "{blocked:?}");
    let table = run(&node, &["config", "clusters", "--pod", "shop/web", "--fqdn", "httpbin.org"])?;
    assert!(String::from_utf8(table.stdout)?.contains("\nhttpbin.org "));

    let mut flows =
        command(&node, &["flows", "--follow", "--pod", "shop/web"])?.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(flows.stdout.take().expect("it is piped")).lines();
    assert!(lines.next().expect("heads")?.starts_with("TIME"));
    assert_eq!(pod.curl(&["http://httpbin.org/delay/5"])?.http()?.status, 504);
    assert_eq!(pod.curl(&["http://edition.cnn.com/"])?.http()?.status, 502);
    for parts in [
        [
            "   shop/web   ",
            "   GET httpbin.org/delay/5   ",
            "   504    UT   ",
            "   outbound|80||httpbin.org   ",
        ],
        ["   shop/web   ", "   GET edition.cnn.com/   ", "   502    -   ", "   route block_all   "],
    ] {
        let line = lines.next().expect("a flow")?;
        // Columns are wider than what is in them.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(format!(" {} ", words(&line)).contains(&format!(" {} ", words(part))), "{part}: {line}");
        }
    }
    // It ends when nobody reads it any more.
    drop(lines);
    assert!(flows.wait()?.success());

    let metrics = get(&node, "/metrics")?;
    let requests = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let timed_out = requests.filter(|line| line.contains("response_code=\"504\"") && line.ends_with(" 1"));
    assert_eq!(timed_out.count(), 1, "{metrics}");
    assert!(metrics.contains("interceptor_pods{state=\"enrolled\"} 1\n"), "{metrics}");
    let families: Vec<&str> = metrics.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(
        families.len(),
        families.iter().collect::<BTreeSet<_>>().len(),
        "a family comes twice: {families:#?}"
    );
    assert_eq!(get(&node, "/healthz")?, "ok\n");
    assert_eq!(get(&node, "/readyz")?, "ok\n");
    let dump: serde_json::Value = serde_json::from_str(&get(&node, "/config_dump")?)?;
    assert_eq!(dump["clients"][0]["pods"], serde_json::json!(["shop/web"]));

    let unknown = run(&node, &["config", "routes", "--pod", "shop/wbe"])?;
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8(unknown.stderr)?;
    assert_eq!(said, "interceptor: no pod shop/wbe on this node; there are shop/web\n");
    agent.stop()?;
    let alone = run(&node, &["config", "routes", "--pod", "shop/web"])?;
    let said = String::from_utf8(alone.stderr)?;
    assert!(said.starts_with("interceptor: no agent answers at "), "{said}");
    Ok(())
}

/// Why a pod's requests get 503 is told where people look: the log, the flows, the tables, and by explain.
#[test]
fn endpoints_are_shown_as_the_agent_has_them_now() -> anyhow::Result<()> {
    let node = Node::new()?;
    let entry = |name: &str, rest: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{hosts: [{name}.test], ports: [{{number: 80, name: http, protocol: HTTP}}], {rest}}}\n---\n"
        )
    };
    node.apply(
        "night",
        &[
            entry("nowhere", "resolution: DNS"),
            entry("failing", "resolution: STATIC, endpoints: [{address: 203.0.113.10}]"),
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: failing, namespace: shop}\n\
             spec: {host: failing.test, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1, \
             baseEjectionTime: 1h}}}\n"
                .to_owned(),
        ]
        .concat(),
    )?;
    let agent = node.agent(&[])?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;

    let endpoints = || -> anyhow::Result<String> {
        let table = run(&node, &["config", "endpoints", "--pod", "shop/web"])?;
        Ok(String::from_utf8(table.stdout)?)
    };
    let explain = |host: &str| run(&node, &["explain", "--pod", "shop/web", &format!("http://{host}/")]);
    // Asking about them makes nobody use them.
    for host in ["nowhere.test", "failing.test"] {
        assert_eq!(explain(host)?.status.code(), Some(0));
    }
    let before = endpoints()?;
    assert!(before.contains("looked up when it is first used") && before.contains("HEALTHY"), "{before}");

    let mut flows = command(&node, &["flows", "--follow"])?.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(flows.stdout.take().expect("it is piped")).lines();
    assert!(lines.next().expect("heads")?.starts_with("TIME"));
    let status = |host: &str, path: &str| -> anyhow::Result<u16> {
        let to = "::203.0.113.250:";
        Ok(pod.curl(&["--connect-to", to, &format!("http://{host}{path}")])?.http()?.status)
    };
    assert_eq!(status("failing.test", "/status/500")?, 500);
    for (host, why, endpoint) in [
        (
            "failing.test",
            "every endpoint is ejected by outlier detection",
            "203.0.113.10:80   UNHEALTHY   FAILED",
        ),
        ("nowhere.test", "nowhere.test: the name server knows no address", "nowhere.test:80   UNHEALTHY   -"),
    ] {
        assert_eq!(status(host, "/get")?, 503);
        let line = lines.by_ref().find(|line| line.as_ref().is_ok_and(|line| line.contains(" 503 ")));
        let line = line.expect("a flow")?;
        assert!(line.contains("no_healthy_upstream; ") && line.contains(why), "{line}");
        let explained = explain(host)?;
        let text = String::from_utf8(explained.stdout)?;
        assert_eq!(explained.status.code(), Some(3), "{text}");
        assert!(text.contains("503 Service Unavailable") && text.contains("flags UH"), "{text}");
        let shown = endpoints()?;
        assert!(shown.contains(endpoint), "{shown}");
    }
    drop(lines);
    assert!(flows.wait()?.success());
    agent.stop()
}
