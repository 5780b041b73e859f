//! `explain --pod` and `config --pod`: what they print, and what they say when nobody answers.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use interceptor_user::agent::view::{PodState, View};

use crate::support::{Agent, CART, RESOURCES, pod_that_is, run, stdout, view_of};

/// The same resources in a file, and in force.
fn both() -> (tempfile::TempDir, String, Agent) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.yaml");
    fs::write(&path, RESOURCES).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let agent = Agent::start(view_of(&path, RESOURCES));
    (directory, path, agent)
}

#[test]
fn a_pod_is_explained_as_if_from_files() {
    let (_directory, path, agent) = both();
    for question in [
        &["http://www.example.com/x"][..],
        &["http://10.1.2.3/"],
        &["https://www.example.com", "--sni", "b.example.com"],
        &["www.example.com:80", "--protocol", "tcp", "--address", "192.0.2.9"],
        &["http://www.example.com", "--method", "POST", "--header", "X-A: b: c", "--header", "x-a: d"],
        &["http://www.example.com", "--resolve", "--address", "192.0.2.9"],
        &["http://www.example.com", "-o", "json"],
        &["http://www.example.com", "-o", "yaml"],
    ] {
        let offline = stdout(run(&[&["explain", "-c", &path, "--from", CART], question].concat()));
        let answered = stdout(agent.run(&[&["explain", "--pod", CART], question].concat()));
        assert_eq!(answered, offline, "{question:?}");
        assert!(answered.contains("shop"), "{answered}");
    }
    let left_alone = stdout(agent.run(&["explain", "--pod", CART, "http://10.1.2.3/"]));
    let by =
        format!("by Pod {CART} annotation traffic.sidecar.istio.io/excludeOutboundIPRanges ({path}:24:67)");
    assert!(left_alone.contains(&by), "{left_alone}");
}

#[test]
fn what_would_not_be_carried_exits_3() {
    let yaml = RESOURCES.replace("metadata: {name: bank,", "metadata: {annotations: {}, name: bank,");
    let mut view = view_of("a.yaml", &yaml);
    let refusing = RESOURCES.replace(
        "timeout: 3s, route: [{destination: {host: www.example.com}}]",
        "directResponse: {status: 503}",
    );
    view.pods = view_of("a.yaml", &refusing).pods;
    let agent = Agent::start(view);
    let output = agent.run(&["explain", "--pod", CART, "http://www.example.com"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("503"), "{text}");
}

#[test]
fn tables_are_those_of_files() {
    let (_directory, path, agent) = both();
    for question in [
        &["listeners", "--port", "443"][..],
        &["listeners", "--address", "0.0.0.0"],
        &["routes", "--name", "80"],
        &["clusters", "--fqdn", "www.example.com", "--port", "80", "--subset", ""],
        &[
            "endpoints",
            "--cluster",
            "outbound|80||www.example.com",
            "--status",
            "healthy",
            "--address",
            "192.0.2.7",
        ],
        &["registry", "--fqdn", "www.example.com", "-o", "json"],
        &["registry", "--port", "80", "-o", "yaml"],
    ] {
        let offline = stdout(run(&[&["config"], question, &["-c", &path, "--from", CART]].concat()));
        let answered = stdout(agent.run(&[&["config"], question, &["--pod", CART]].concat()));
        assert_eq!(answered, offline, "{question:?}");
        assert!(answered.lines().count() > 1, "{question:?}: {answered}");
    }
}

#[track_caller]
fn fails(output: std::process::Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(stderr.contains(says), "expected {says:?}: {stderr}");
    assert_eq!(code == 1, stderr.trim_end().lines().count() == 1, "{stderr}");
}

#[test]
fn what_the_agent_refuses_is_told_in_its_words() {
    let mut view = view_of("a.yaml", RESOURCES);
    view.pods.push(pod_that_is(
        "shop",
        "db",
        PodState::LeftAlone("a label or annotation of the pod says no".into()),
    ));
    let agent = Agent::start(view);
    let not_ours =
        "interceptor: pod shop/db is not intercepted: left alone: a label or annotation of the pod says no";
    fails(agent.run(&["explain", "--pod", "shop/db", "http://a"]), 1, not_ours);
    fails(agent.run(&["config", "routes", "--pod", "shop/db"]), 1, not_ours);
    let near = "interceptor: no pod shop/bd on this node; there are shop/db, ";
    fails(agent.run(&["config", "routes", "--pod", "shop/bd"]), 1, near);
    fails(agent.run(&["config", "routes", "--pod", "db"]), 2, "expected NAMESPACE/NAME of a pod");
    let conflict = "cannot be used with '--config";
    fails(agent.run(&["config", "routes", "--pod", "a/b", "-c", "x.yaml"]), 2, conflict);
    for flag in [
        ["--namespace", "x"],
        ["--labels", "a=b"],
        ["--annotations", "a=b"],
        ["--from", "a/b"],
        ["--mesh-config", "x"],
    ] {
        fails(agent.run(&[&["explain", "--pod", "a/b", "http://a"], &flag[..]].concat()), 2, flag[0]);
    }
}

#[test]
fn nobody_to_ask() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let path = socket.to_str().unwrap();
    let ask = ["config", "routes", "--pod", "a/b", "--agent-socket", path];
    let missing = format!(
        "interceptor: no agent answers at {path}: there is no such socket; is `interceptor agent` running"
    );
    fails(run(&ask), 1, &missing);
    fails(run(&["flows", "--agent-socket", path]), 1, &missing);
    drop(UnixListener::bind(&socket).unwrap());
    fails(
        run(&ask),
        1,
        &format!("interceptor: no agent answers at {path}: the one that made the socket has ended"),
    );
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let path = file.to_str().unwrap();
    let no_socket =
        format!("interceptor: no agent answers at {path}: that is no socket; --agent-socket names another");
    fails(run(&["flows", "--agent-socket", path]), 1, &no_socket);
}

#[test]
fn the_socket_is_roots() {
    let agent = Agent::start(View::default());
    let socket = agent.socket();
    // Where others can get at it: a copy of the command, and the directory of the socket.
    let directory = tempfile::tempdir().unwrap();
    let command = directory.path().join("interceptor");
    fs::copy(env!("CARGO_BIN_EXE_interceptor"), &command).unwrap();
    for open in [directory.path(), socket.parent().unwrap()] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut asking = Command::new(command);
    asking.args(["config", "routes", "--pod", "a/b", "--agent-socket", socket.to_str().unwrap()]);
    asking.uid(65534).gid(65534);
    // A child that another test forks meanwhile has the copy open for writing until it becomes its program.
    let output = loop {
        match asking.output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            asked => break asked.unwrap(),
        }
    };
    fails(output, 1, "permission denied at");
}
