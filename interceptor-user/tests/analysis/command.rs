//! The command as people call it: files, standard input, exit codes, streams.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{dr, host, se, to, vs};

fn analyze(directory: &Path, arguments: &[&str], input: Option<&str>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_interceptor"))
        .arg("analyze")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may not want it.
    drop(stdin.write_all(input.unwrap_or_default().as_bytes()));
    drop(stdin);
    child.wait_with_output().expect("an end")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// An error, a warning and a note.
fn mistakes() -> String {
    let unknown = dr("r", "host: c.com");
    let wrong = vs("v", &format!("hosts: [a.com], http: [{{{}}}]", to("b.com", 80)));
    let note = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n";
    format!("{}{unknown}{wrong}{note}", host("a", "a.com"))
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    directory
}

/// An empty report must not pass for one without findings.
#[test]
fn what_cannot_be_written_is_no_success() {
    let directory = directory(&[("a.yaml", &host("a", "a.com"))]);
    let to_full = |command: &[&str]| {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
        let output = Command::new(env!("CARGO_BIN_EXE_interceptor"))
            .args(command)
            .current_dir(directory.path())
            .stdout(full)
            .output()
            .expect("the command");
        (output.status.code(), text(&output.stderr))
    };
    for command in [
        &["analyze", "-o", "sarif", "a.yaml"][..],
        &["analyze", "-o", "json", "a.yaml"],
        &["analyze", "--list-codes"],
        &["completion", "bash"],
        &["man"],
        &["--help"],
        &["--version"],
        &["help", "explain"],
        &["agent", "-h"],
    ] {
        let (code, said) = to_full(command);
        let why = "interceptor: can't write to standard output: No space left on device (os error 28)\n";
        assert_eq!((code, said.as_str()), (Some(1), why), "{command:?}");
    }
}

/// The script of a shell is more than a pipe holds.
#[test]
fn a_completion_that_nobody_reads_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_interceptor"))
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("an end");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn tutorials_are_read_as_they_stand() {
    let tutorial = "# How: to [egress
Text is `no YAML`: [
```yaml
global:
  proxy: {part: of another file}
```
- first
  ```console
  $ kubectl apply -f - <<EOF
  apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata: {name: a}
  spec: {hosts: [a.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
  EOF
  HTTP/2 200
  ```
- then
  ```yaml
  apiVersion: networking.istio.io/v1
  kind: DestinationRule
  metadata: {name: r}
  spec:
    host: b.com
  ```
";
    let directory = directory(&[("a.md", tutorial)]);
    let output = analyze(directory.path(), &["a.md"], None);
    let found = text(&output.stdout);
    assert!(found.contains("(DestinationRule default/r a.md:23:11)"), "{found}");
    assert!(found.contains("(a.md:1:1) this is Markdown"), "{found}");
    assert!(!found.contains("IST0106"), "{found}");
    assert_eq!(found.matches("mend: ").count(), 2, "{found}");
    // By what it holds, where there is no name.
    let output = analyze(directory.path(), &["-"], Some(&tutorial.replace("  ```", "```")));
    let found = text(&output.stdout);
    assert!(found.contains("this is Markdown") && !found.contains("IST0106"), "{found}");
}

#[test]
fn unix_sockets_are_errors_where_it_is_known_what_the_agent_is_allowed() {
    let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
    let entry = format!(
        "hosts: [a.com], {ports}, resolution: STATIC, endpoints: [{{address: 'unix:///run/sidecars/a.sock'}}]"
    );
    let directory = directory(&[("a.yaml", &se("a", &entry))]);
    for (flags, code, told) in [
        (&[][..], 0, "Info [EGR0124]"),
        (&["--allow-unix-endpoints", "/run/others,/srv"], 79, "allows /run/others, /srv"),
        (&["--allow-unix-endpoints", "/srv,/run/sidecars"], 0, ""),
        (&["--allow-unix-endpoints", "run/sidecars"], 2, ""),
    ] {
        let output = analyze(directory.path(), &[&["a.yaml"], flags].concat(), None);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert!(shown.contains(told) && shown.contains("EGR0124") != told.is_empty(), "{shown}");
    }
}

#[test]
fn exit_codes_and_thresholds() {
    let (good, bad) = (host("a", "a.com"), mistakes());
    let warning = format!("{}{}", host("a", "a.com"), dr("r", "host: c.com"));
    let directory = directory(&[("good.yaml", &good), ("bad.yaml", &bad), ("warning.yaml", &warning)]);
    for (arguments, expected) in [
        (&["good.yaml"][..], 0),
        (&["bad.yaml"], 79),
        (&["warning.yaml"], 0),
        (&["warning.yaml", "--failure-threshold", "Warning"], 79),
        (&["warning.yaml", "--failure-threshold", "info"], 79),
        (&["good.yaml", "--failure-threshold", "Info"], 0),
        (&["nowhere.yaml"], 1),
        (&[], 2),
        (&["good.yaml", "--suppress", "x"], 2),
        (&["good.yaml", "-o", "xml"], 2),
        (&["good.yaml", "-n", "Foo_Bar"], 2),
        (&["good.yaml", "-n", ""], 2),
        (&["good.yaml", "--failure-threshold", "Fatal"], 2),
        (&["--list-codes"], 0),
    ] {
        let output = analyze(directory.path(), arguments, None);
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn findings_on_stdout_and_the_closing_line_on_stderr() {
    let (good, bad) = (host("a", "a.com"), mistakes());
    let directory = directory(&[("good.yaml", &good), ("bad.yaml", &bad)]);
    let output = analyze(directory.path(), &["good.yaml"], None);
    assert_eq!(text(&output.stdout), "");
    assert_eq!(text(&output.stderr), "✔ No validation issues found when analyzing good.yaml.\n");
    let output = analyze(directory.path(), &["bad.yaml"], None);
    let lines = text(&output.stdout);
    let heads: Vec<&str> = lines
        .lines()
        .filter(|line| ["Error", "Warning", "Info"].iter().any(|level| line.starts_with(level)))
        .filter_map(|line| line.split(')').next())
        .collect();
    assert_eq!(heads.len(), 3, "{lines}");
    assert!(heads[0].starts_with("Error [IST0101] (VirtualService default/v bad.yaml:6:"), "{lines}");
    assert!(heads[1].starts_with("Warning [IST0174] (DestinationRule default/r bad.yaml:4:"), "{lines}");
    assert!(heads[2].starts_with("Info [EGR0118] (bad.yaml:8:1"), "{lines}");
    assert!(!lines.contains('\x1b'), "no colours in a pipe");
    assert_eq!(
        text(&output.stderr),
        "Error: Analyzers found issues when analyzing bad.yaml: 1 error, 1 warning, 1 note.\n"
    );
}

#[test]
fn directories_standard_input_and_namespaces() {
    let rule = format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: v}}, spec: {{hosts: [a.com], http: [{{{}}}]}}}}\n",
        to("a.com", 80)
    );
    let entry = se(
        "web/a",
        "hosts: [a.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS, exportTo: [.]",
    );
    let directory = directory(&[
        ("config/a/entry.yaml", &entry),
        ("config/b/rule.json", &rule),
        ("config/.hidden.yaml", "x: ["),
    ]);
    let output = analyze(directory.path(), &["config", "-n", "web"], None);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()));
    // In another namespace the entry is not seen.
    let output = analyze(directory.path(), &["config"], None);
    assert_eq!(output.status.code(), Some(79));
    assert!(
        text(&output.stdout).contains("(VirtualService default/v config/b/rule.json:1:"),
        "{}",
        text(&output.stdout)
    );
    let output = analyze(directory.path(), &["-"], Some(&mistakes()));
    assert_eq!(output.status.code(), Some(79));
    assert!(
        text(&output.stdout).contains("(VirtualService default/v (standard input):6:"),
        "{}",
        text(&output.stdout)
    );
    assert!(text(&output.stderr).contains("when analyzing standard input:"));
}

#[test]
fn suppressions_by_flag_and_by_annotation() {
    let directory = directory(&[("bad.yaml", &mistakes())]);
    let output = analyze(
        directory.path(),
        &[
            "bad.yaml",
            "--suppress",
            "IST0101=VirtualService v.default",
            "--suppress",
            "IST0174=DestinationRule *",
        ],
        None,
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    for (value, code) in [("IST0101", 0), ("IST0109, IST0101", 0), ("*", 0), ("IST0109", 79)] {
        let annotated = mistakes().replace(
            "metadata: {name: v, namespace: default}",
            &format!("metadata: {{name: v, namespace: default, annotations: {{galley.istio.io/analyze-suppress: '{value}'}}}}"),
        );
        let output = analyze(directory.path(), &["-"], Some(&annotated));
        assert_eq!(output.status.code(), Some(code), "{value}: {}", text(&output.stdout));
    }
    // Also of a resource that can't be used, and in a list.
    let wrong = "kind: List\nitems:\n- {apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: x, annotations: \
                 {galley.istio.io/analyze-suppress: IST0106}}, spec: {hosts: [a.com], resolution: DSN}}\n";
    let wrong = format!("apiVersion: v1\n{wrong}");
    let output = analyze(directory.path(), &["-"], Some(&wrong));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()));
}

#[test]
fn a_suppression_that_can_cover_nothing_is_told() {
    let directory = directory(&[("bad.yaml", &mistakes())]);
    for (suppression, code, told) in [
        (
            "IST0101=VirtualServce v.default",
            79,
            "warning: --suppress IST0101=VirtualServce v.default leaves nothing out: VirtualServce is no kind that is \
             looked at; did you mean `VirtualService`?\n",
        ),
        ("IST0101=Ingress *", 79, "Ingress is no kind that is looked at\n"),
        ("IST0110=VirtualService *", 79, ""),
        ("IST0101=*", 0, ""),
        ("IST101=VirtualService *", 2, "IST101 is no code; did you mean `IST0101`?"),
    ] {
        let output = analyze(directory.path(), &["bad.yaml", "--suppress", suppression], None);
        assert_eq!(output.status.code(), Some(code), "{suppression}");
        let said = text(&output.stderr);
        assert!(said.contains(told), "{said}");
        assert_eq!(said.contains("warning: "), said.contains("leaves nothing out"), "{said}");
    }
}

#[test]
fn mesh_configuration() {
    let tcp = se("a", "hosts: [a.com], ports: [{number: 9000, name: x, protocol: TCP}], resolution: DNS");
    let mesh = "defaultConfig: {proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true', ISTIO_META_DNS_AUTO_ALLOCATE: 'true'}}\n";
    let wrong = "outboundTrafficPolicy: {mode: REGISTRY}\n";
    let directory = directory(&[("tcp.yaml", &tcp), ("mesh.yaml", mesh), ("wrong.yaml", wrong)]);
    let arguments = ["tcp.yaml", "--failure-threshold", "Warning", "--mesh-config"];
    let with = |mesh| analyze(directory.path(), &[&arguments[..], &[mesh]].concat(), None);
    assert_eq!(with("mesh.yaml").status.code(), Some(0), "{}", text(&with("mesh.yaml").stdout));
    let output = with("wrong.yaml");
    assert_eq!(output.status.code(), Some(79));
    assert!(
        text(&output.stdout).contains("Error [IST0106] (MeshConfig wrong.yaml:1:"),
        "{}",
        text(&output.stdout)
    );
    assert!(text(&output.stdout).contains("run time: `exec`, `explain` and `config` refuse to start;"));
}

#[test]
fn nothing_found_may_be_a_mistyped_path() {
    let directory = directory(&[("config/readme.txt", "")]);
    let output = analyze(directory.path(), &["config", "--failure-threshold", "Warning"], None);
    assert_eq!(output.status.code(), Some(79));
    let said = text(&output.stdout);
    assert!(
        said.contains("no resource was found in config\n") && said.contains("mend: check the path"),
        "{said}"
    );
}

#[test]
fn what_can_be_read_is_analyzed_beside_what_cannot() {
    let directory = directory(&[("bad.yaml", &mistakes())]);
    fs::write(directory.path().join("image.yaml"), [0xff, 0xfe]).expect("a file");
    for (arguments, unreadable) in [
        (["bad.yaml", "nowhere.yaml"], "error: can't read nowhere.yaml: "),
        (["nowhere.yaml", "bad.yaml"], "error: can't read nowhere.yaml: "),
        (["bad.yaml", "image.yaml"], "error: image.yaml is not UTF-8 text"),
    ] {
        let output = analyze(directory.path(), &arguments, None);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let (said, told) = (text(&output.stdout), text(&output.stderr));
        assert!(said.contains("[IST0101] (VirtualService default/v bad.yaml:6:"), "{said}");
        assert!(!said.contains("nowhere") && !said.contains("image.yaml"), "{said}");
        assert_eq!(told.matches(unreadable).count(), 1, "{told}");
    }
}

#[test]
fn a_path_given_twice_is_read_once() {
    let directory = directory(&[("config/a.yaml", &host("a", "a.com"))]);
    for arguments in [["-", "-"], ["config", "config/a.yaml"], ["config/a.yaml", "./config/a.yaml"]] {
        let output = analyze(directory.path(), &arguments, Some(&host("a", "a.com")));
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()), "{arguments:?}");
    }
}

#[test]
fn egr0120_a_resource_that_stands_twice() {
    let directory = directory(&[("a.yaml", &host("a", "a.com")), ("b.yaml", &host("a", "b.com"))]);
    let output = analyze(directory.path(), &["."], None);
    let said = text(&output.stdout);
    assert!(
        said.contains("Warning [EGR0120] (ServiceEntry default/a ./b.yaml:2:1) stands also at ./a.yaml:2:1"),
        "{said}"
    );
}

#[test]
fn other_formats() {
    let directory = directory(&[("bad.yaml", &mistakes()), ("good.yaml", &host("a", "a.com"))]);
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_slice(&analyze(directory.path(), arguments, None).stdout).expect("JSON")
    };
    assert_eq!(json(&["bad.yaml", "-o", "json"]).as_array().map(Vec::len), Some(3));
    assert_eq!(json(&["good.yaml", "-o", "json"]), serde_json::json!([]));
    assert_eq!(json(&["bad.yaml", "-o", "sarif"])["runs"][0]["results"].as_array().map(Vec::len), Some(3));
    let yaml = text(&analyze(directory.path(), &["bad.yaml", "-o", "yaml"], None).stdout);
    assert_eq!(yaml.matches("- code: ").count(), 3, "{yaml}");
    let codes = text(&analyze(directory.path(), &["--list-codes"], None).stdout);
    assert!(codes.starts_with("EGR0101  Error    HttpOnPort443"), "{codes}");
}

/// Ten thousand resources take about a second when optimised; here only that nothing grows with the square.
#[test]
fn many_resources() {
    let many: String = (0..2_000)
        .map(|index| {
            let name = format!("h{index}");
            let name_of_host = format!("{name}.example.com");
            let rule = vs(
                &name,
                &format!("hosts: [{name_of_host}], http: [{{{}}}]", to(&format!("x{index}.example.com"), 80)),
            );
            host(&name, &name_of_host)
                + &rule
                + &dr(&name, &format!("host: {name_of_host}, subsets: [{{name: s}}]"))
        })
        .collect();
    let directory = directory(&[("many.yaml", &many)]);
    let started = std::time::Instant::now();
    let output = analyze(directory.path(), &["many.yaml", "-o", "json"], None);
    let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(findings.as_array().map(Vec::len), Some(2_000));
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn what_cannot_be_read_is_never_good() {
    let directory = directory(&[("good.yaml", &host("a", "a.com"))]);
    for format in ["text", "json", "yaml", "sarif"] {
        let output = analyze(directory.path(), &["nope", "good.yaml", "-o", format], None);
        let (shown, told) = (text(&output.stdout), text(&output.stderr));
        assert_eq!((output.status.code(), &*shown), (Some(1), ""), "{format}");
        let is_told =
            told.contains("can't read nope: No such file") && !told.contains("No validation issues");
        assert!(is_told, "{told}");
    }
    // What was found beside it is shown.
    fs::write(directory.path().join("bad.yaml"), mistakes()).expect("a file");
    let output = analyze(directory.path(), &["nope", "bad.yaml", "-o", "json"], None);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), found.as_array().map(Vec::len)), (Some(1), Some(3)));
}
