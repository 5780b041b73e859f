//! The CNI plugin as a container runtime calls it: the built binary by its other name, environment, standard input,
//! against an agent's socket; and its installer on directories as a node has them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use interceptor_tests::{Daemon, Dir, binary, eventually};
use serde_json::{Value, json};

const CALICO: &str = include_str!("../../interceptor-user/src/cni/samples/10-calico.conflist");
const PREV_RESULT: &str =
    r#"{ "cniVersion": "1.0.0", "ips": [{"address": "10.244.0.7/24", "interface": 2}] }"#;
const NETNS: &str = "/proc/self/ns/net";
/// Far longer than any call here takes that is not meant to wait.
const LONG: &str = "30s";

/// A node: the plugin under its own name, and a place for the agent's socket.
struct Node {
    dir: Dir,
}

impl Node {
    fn new() -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        std::os::unix::fs::symlink(fs::canonicalize(binary()?)?, dir.join("interceptor-cni"))?;
        Ok(Self { dir })
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("cni.log")).unwrap_or_default()
    }

    /// A network configuration as the runtime hands it to us.
    fn network(&self, version: &str, keys: Value) -> String {
        let mut network = json!({
            "cniVersion": version, "name": "net", "type": "interceptor-cni",
            "agentSocket": self.socket(), "deadline": LONG, "logFile": self.dir.join("cni.log"),
        });
        for (name, value) in keys.as_object().into_iter().flatten() {
            network[name] = value.clone();
        }
        // As text, so that its spelling can be compared.
        network.to_string().replacen('{', &format!("{{\"prevResult\":{PREV_RESULT},"), 1)
    }

    fn call(&self, command: &str, input: &str) -> anyhow::Result<Output> {
        self.call_for(command, "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=0f0c", input)
    }

    fn call_for(&self, command: &str, arguments: &str, input: &str) -> anyhow::Result<Output> {
        run(&mut self.command(command, arguments), input)
    }

    fn command(&self, command: &str, arguments: &str) -> Command {
        let mut plugin = Command::new(self.dir.join("interceptor-cni"));
        plugin
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "c0ffee")
            .env("CNI_NETNS", NETNS)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.dir.path())
            .env("CNI_ARGS", arguments);
        plugin
    }
}

fn run(plugin: &mut Command, input: &str) -> anyhow::Result<Output> {
    let plugin = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = plugin.spawn().context("cannot run the plugin")?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    child.wait_with_output().context("cannot wait for the plugin")
}

/// Speaks what the agent's socket speaks: answers each request with the next of `answers`, the last one for ever.
struct Agent {
    questions: Receiver<Value>,
}

impl Agent {
    fn listen(socket: &Path, answers: &'static [(u16, &'static str)]) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(socket).context("cannot listen")?;
        let (tell, questions) = mpsc::channel();
        thread::spawn(move || {
            for at in 0.. {
                let (status, body) = answers[at.min(answers.len() - 1)];
                let Ok((stream, _)) = listener.accept() else { return };
                let question = answer(stream, status, body).unwrap_or_else(|error| json!(error.to_string()));
                if tell.send(question).is_err() {
                    return;
                }
            }
        });
        Ok(Self { questions })
    }

    fn question(&self) -> anyhow::Result<Value> {
        self.questions.recv_timeout(Duration::from_secs(30)).context("nobody asked")
    }
}

/// Status 0 breaks the connection off instead. Returns what was asked, with the network namespace's number for its path.
fn answer(mut stream: UnixStream, status: u16, body: &str) -> anyhow::Result<Value> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        anyhow::ensure!(reader.read_line(&mut head)? > 0, "the request broke off: {head}");
    }
    anyhow::ensure!(head.starts_with("POST /cni HTTP/1.1\r\n"), "unexpected: {head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
    let mut question = vec![0; length.parse()?];
    reader.read_exact(&mut question)?;
    let mut question: Value = serde_json::from_slice(&question)?;
    // While the plugin waits: the path may be of an open file of its own.
    let netns = question["netns"].as_str().context("no network namespace")?;
    question["netns"] = json!(fs::metadata(netns).with_context(|| netns.to_owned())?.ino());
    if status > 0 {
        let length = body.len();
        write!(stream, "HTTP/1.1 {status} Some\r\ncontent-length: {length}\r\n\r\n{body}")?;
    }
    Ok(question)
}

fn error_of(output: &Output) -> anyhow::Result<Value> {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn expect_success(output: &Output, stdout: &str) {
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout);
    assert!(output.status.success());
}

#[test]
fn add_asks_the_agent_and_passes_the_result_on() -> anyhow::Result<()> {
    let node = Node::new()?;
    let agent = Agent::listen(&node.socket(), &[(200, "{}")])?;
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        expect_success(&node.call("ADD", &node.network(version, json!({})))?, PREV_RESULT);
        let expected = json!({"command": "ADD", "namespace": "shop", "name": "web-1", "uid": "0f0c",
            "containerId": "c0ffee", "netns": fs::metadata(NETNS)?.ino()});
        assert_eq!(agent.question()?, expected);
    }
    let log = node.log();
    assert!(log.contains("info ADD pod shop/web-1 sandbox c0ffee: the agent agrees"), "{log}");
    Ok(())
}

#[test]
fn check_and_del_ask_the_agent_too() -> anyhow::Result<()> {
    let node = Node::new()?;
    let agent = Agent::listen(&node.socket(), &[(200, "{}")])?;
    for command in ["CHECK", "DEL"] {
        expect_success(&node.call(command, &node.network("1.0.0", json!({})))?, "");
        assert_eq!(agent.question()?["command"], command);
    }
    Ok(())
}

#[test]
fn a_pod_that_the_agent_refuses_is_not_started() -> anyhow::Result<()> {
    let node = Node::new()?;
    let _agent = Agent::listen(&node.socket(), &[(409, r#"{"error":"the cgroup of uid 0f0c is gone"}"#)])?;
    for command in ["ADD", "CHECK"] {
        let error = error_of(&node.call(command, &node.network("1.0.0", json!({"ifAgentDown": "allow"})))?)?;
        assert_eq!((&error["cniVersion"], &error["code"]), (&json!("1.0.0"), &json!(100)));
        let msg = error["msg"].as_str().unwrap_or_default();
        assert!(msg.contains("pod shop/web-1 can't be intercepted: the cgroup of uid 0f0c is gone"), "{msg}");
        assert!(error["details"].as_str().is_some_and(|details| details.contains("sidecar.istio.io/inject")));
    }
    assert!(node.log().contains("error ADD pod shop/web-1"), "{}", node.log());
    Ok(())
}

#[test]
fn an_agent_that_comes_in_time_is_waited_for() -> anyhow::Result<()> {
    let node = Node::new()?;
    let network = node.network("1.0.0", json!({}));
    thread::scope(|scope| {
        let call = scope.spawn(|| node.call("ADD", &network));
        // Not there; then it starts; then it breaks off, as when it is killed; then it can't decide yet.
        let agent = Agent::listen(&node.socket(), &[(0, ""), (503, r#"{"error":"starting"}"#), (200, "{}")])?;
        for _ in 0..3 {
            assert_eq!(agent.question()?["command"], "ADD");
        }
        expect_success(&call.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?, PREV_RESULT);
        Ok(())
    })
}

#[test]
fn without_an_agent_the_pod_waits_until_the_deadline() -> anyhow::Result<()> {
    let node = Node::new()?;
    let call = |if_down: &str| {
        let started = Instant::now();
        let keys = json!({"deadline": "300ms", "ifAgentDown": if_down});
        let output = node.call("ADD", &node.network("1.0.0", keys))?;
        anyhow::Ok((output, started.elapsed()))
    };
    let (output, took) = call("fail")?;
    let error = error_of(&output)?;
    assert_eq!(error["code"], 11);
    let msg = error["msg"].as_str().unwrap_or_default();
    assert!(msg.contains("did not enrol pod shop/web-1 within 300ms: it is not running"), "{msg}");
    assert!(took >= Duration::from_millis(200), "{took:?}");

    let (output, _) = call("allow")?;
    expect_success(&output, PREV_RESULT);
    assert!(node.log().contains("started without the agent (ifAgentDown: allow)"), "{}", node.log());
    Ok(())
}

#[test]
fn an_agent_that_hangs_is_not_waited_for_longer() -> anyhow::Result<()> {
    let node = Node::new()?;
    // Connections wait in its queue for ever.
    let _listener = UnixListener::bind(node.socket())?;
    let error = error_of(&node.call("ADD", &node.network("1.0.0", json!({"deadline": "300ms"})))?)?;
    assert_eq!(error["code"], 11);
    assert!(error["msg"].as_str().is_some_and(|msg| msg.ends_with("it does not answer")), "{error}");
    Ok(())
}

#[test]
fn del_never_fails() -> anyhow::Result<()> {
    let node = Node::new()?;
    let good = node.network("1.0.0", json!({}));
    for input in ["", "{", r#"{"cniVersion":"9.9.9"}"#, &node.network("1.0.0", json!({"deadline": 1})), &good]
    {
        expect_success(&node.call("DEL", input)?, "");
    }
    let _agent = Agent::listen(&node.socket(), &[(500, r#"{"error":"no"}"#)])?;
    expect_success(&node.call("DEL", &good)?, "");
    assert!(node.log().contains("info DEL pod shop/web-1 sandbox c0ffee: the agent will see for itself"));
    Ok(())
}

#[test]
fn what_is_no_pod_or_excluded_is_not_asked_about() -> anyhow::Result<()> {
    let node = Node::new()?;
    // No agent: whoever asks fails, at once.
    let network =
        node.network("1.0.0", json!({"excludeNamespaces": ["kube-system", "shop"], "deadline": "1ms"}));
    expect_success(&node.call("ADD", &network)?, PREV_RESULT);
    expect_success(&node.call_for("ADD", "IgnoreUnknown=1", &network)?, PREV_RESULT);
    let other = node.call_for("ADD", "K8S_POD_NAMESPACE=shop2;K8S_POD_NAME=a", &network)?;
    assert_eq!(error_of(&other)?["code"], 11);
    Ok(())
}

#[test]
fn bad_calls_are_explained() -> anyhow::Result<()> {
    let node = Node::new()?;
    for (command, input, code, expected) in [
        ("ADD", "", 6, "can't be read: EOF"),
        ("ADD", "{\"cniVersion\": \"1.0.0\", ]", 6, "line 1 column 25"),
        ("ADD", r#"{"cniVersion":"0.2.0"}"#, 1, "cniVersion \"0.2.0\""),
        ("ADD", r#"{"cniVersion":"2.0.0"}"#, 1, "cniVersion \"2.0.0\""),
        ("ADD", r#"{}"#, 1, "cniVersion \"\""),
        ("ADD", r#"{"cniVersion":"1.0.0"}"#, 7, "there is no prevResult"),
        ("ADD", r#"{"cniVersion":"1.0.0","deadline":"1"}"#, 7, "deadline is \"1\""),
        ("CHECK", r#"{"cniVersion":"0.3.1"}"#, 1, "cniVersion \"0.3.1\""),
        ("GC", r#"{"cniVersion":"1.0.0"}"#, 1, "cniVersion \"1.0.0\""),
        ("STATUS", r#"{"cniVersion":"1.0.0"}"#, 1, "cniVersion \"1.0.0\""),
        ("PLAY", r#"{"cniVersion":"1.0.0"}"#, 4, "CNI_COMMAND is \"PLAY\""),
    ] {
        let error = error_of(&node.call(command, input)?)?;
        assert_eq!(error["code"], code, "{command} {input}: {error}");
        assert!(
            error["msg"].as_str().is_some_and(|msg| msg.contains(expected)),
            "{command} {input}: {error}"
        );
    }
    Ok(())
}

#[test]
fn a_network_namespace_that_is_gone_is_named() -> anyhow::Result<()> {
    let node = Node::new()?;
    let mut command = node.command("ADD", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1");
    let error =
        error_of(&run(command.env("CNI_NETNS", "/run/netns/gone"), &node.network("1.0.0", json!({})))?)?;
    assert_eq!(error["code"], 4);
    assert!(error["msg"].as_str().is_some_and(|msg| msg.contains("/run/netns/gone")), "{error}");
    Ok(())
}

#[test]
fn version_status_and_gc_need_no_agent() -> anyhow::Result<()> {
    let node = Node::new()?;
    let versions = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (input, version) in
        [(r#"{"cniVersion":"0.4.0"}"#, "0.4.0"), (r#"{"cniVersion":"9.0.0"}"#, "1.1.0"), ("", "1.1.0")]
    {
        let output = node.call("VERSION", input)?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(answer, json!({"cniVersion": version, "supportedVersions": versions}));
    }
    for command in ["STATUS", "GC"] {
        expect_success(&node.call(command, &node.network("1.1.0", json!({})))?, "");
    }
    Ok(())
}

/// `interceptor cni install …` on this node's directories.
fn installer(node: &Node, action: &str, flags: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(["cni", action, "--bin-dir"]).arg(node.dir.join("bin"));
    command.arg("--conf-dir").arg(node.dir.join("net.d")).args(flags);
    Ok(command)
}

fn plugins(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(node.dir.join("net.d/10-calico.conflist")).unwrap_or_default();
    let list: Value = serde_json::from_str(&text).unwrap_or_default();
    let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
    plugins.iter().filter_map(|plugin| Some(plugin["type"].as_str()?.to_owned())).collect()
}

#[test]
fn an_installed_plugin_works_and_goes_again() -> anyhow::Result<()> {
    let node = Node::new()?;
    fs::create_dir(node.dir.join("net.d"))?;
    let nothing = installer(&node, "install", &[])?.output()?;
    let stderr = String::from_utf8_lossy(&nothing.stderr);
    assert!(!nothing.status.success() && stderr.contains("install the cluster's network first"), "{stderr}");

    node.dir.write("net.d/10-calico.conflist", CALICO)?;
    let installed =
        installer(&node, "install", &["--exclude-namespaces", "kube-system,interceptor"])?.output()?;
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    assert_eq!(plugins(&node), ["calico", "portmap", "bandwidth", "interceptor-cni"]);
    let version =
        Command::new(node.dir.join("bin/interceptor-cni")).env("CNI_COMMAND", "VERSION").output()?;
    assert!(version.status.success());

    let gone = installer(&node, "uninstall", &["--remove-executable"])?.output()?;
    assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
    assert_eq!(fs::read_to_string(node.dir.join("net.d/10-calico.conflist"))?, CALICO);
    assert_eq!(fs::read_dir(node.dir.join("bin"))?.count(), 0);
    assert_eq!(fs::read_dir(node.dir.join("net.d"))?.count(), 1);
    Ok(())
}

#[test]
fn a_watching_installer_puts_the_plugin_back() -> anyhow::Result<()> {
    let node = Node::new()?;
    fs::create_dir(node.dir.join("net.d"))?;
    let start = |name: &str| {
        let log = node.dir.join(name);
        Daemon::spawn(&mut installer(&node, "install", &["--watch", "--deadline", name])?, &log)
    };
    let first = start("1s")?;
    eventually("the first to wait for a network", || first.said().contains("waiting for one"))?;
    node.dir.write("net.d/10-calico.conflist", CALICO)?;
    let is_there = || plugins(&node).iter().any(|plugin| plugin == "interceptor-cni");
    eventually("the plugin to be put in", is_there)?;

    // Another program writes its file again, in two ways; and the executable goes.
    node.dir.write("net.d/10-calico.conflist", CALICO)?;
    eventually("the plugin to be put in again", is_there)?;
    fs::rename(node.dir.write("net.d/.calico", CALICO)?, node.dir.join("net.d/10-calico.conflist"))?;
    eventually("the plugin to be put in once more", is_there)?;
    fs::remove_file(node.dir.join("bin/interceptor-cni"))?;
    eventually("the executable to be put back", || node.dir.join("bin/interceptor-cni").exists())?;

    // An upgrade: the new one waits for the old one, and then its keys hold.
    let second = start("2s")?;
    eventually("the second to wait for the first", || second.said().contains("waiting until it ends"))?;
    let conflist = || fs::read_to_string(node.dir.join("net.d/10-calico.conflist")).unwrap_or_default();
    assert!(conflist().contains("\"1s\""), "{}", conflist());
    drop(first);
    eventually("the second to take over", || conflist().contains("\"2s\""))
}
