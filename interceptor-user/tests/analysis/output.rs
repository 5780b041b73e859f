//! How findings are written: text, JSON, YAML and SARIF, and the documents that list the codes.

use std::collections::BTreeSet;
use std::fs;

use interceptor_user::report::{Finding, Format, Suppression, codes, render};
use interceptor_user::resource::Level;
use interceptor_user::resource::code::ALL;
use serde_json::Value;

use crate::support::found;

const SAMPLE: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec: {hosts: [a.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [a.com]
  http:
  - route:
    - destination:
        host: b.com
";

fn rendered(format: Format, colours: bool) -> String {
    let yaml = SAMPLE;
    let findings = found(yaml, "");
    let shown: Vec<_> = findings
        .iter()
        .map(|diagnostic| {
            let line = diagnostic.origin.as_ref().expect("a place").position.line as usize;
            Finding { diagnostic, line: yaml.lines().nth(line - 1) }
        })
        .collect();
    render(&shown, format, colours)
}

#[test]
fn text() {
    let expected = "\
Error [IST0101] (VirtualService default/v f.yaml:14:15) Referenced host not found: \"b.com\"
 14 |         host: b.com
    |               ^^^^^
  at run time: requests that are sent there get 503 (NC)
  mend: declare it with a ServiceEntry
";
    assert_eq!(rendered(Format::Text, false), expected);
    let coloured = rendered(Format::Text, true);
    assert!(coloured.starts_with("\x1b[1;31mError\x1b[0m [IST0101]"), "{coloured}");
    assert_eq!(render(&[], Format::Text, false), "");
}

/// Of a long line the part around the place.
#[test]
fn long_lines() {
    let entry = |name: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}}}, spec: {{hosts: [a.com], resolution: DSN}}}}"
        )
    };
    let yaml = entry(&"a".repeat(200));
    let finding = &found(&yaml, "")[0];
    let shown = render(&[Finding { diagnostic: finding, line: Some(&yaml) }], Format::Text, false);
    let lines: Vec<&str> = shown.lines().collect();
    let column = lines[2].find('^').expect("underlined");
    let under: String = lines[1].chars().skip(column).take(lines[2].len() - column).collect();
    assert_eq!(under, "DSN", "{shown}");
    assert!(lines[1].starts_with(" 1 | …") && lines[1].chars().count() < 180, "{shown}");
}

#[test]
fn json() {
    let value: Value = serde_json::from_str(&rendered(Format::Json, false)).expect("JSON");
    assert_eq!(
        value,
        serde_json::json!([{
            "code": "IST0101",
            "level": "Error",
            "origin": "VirtualService default/v",
            "reference": "f.yaml:14",
            "message": "Referenced host not found: \"b.com\"",
            "effect": "requests that are sent there get 503 (NC)",
            "mend": "declare it with a ServiceEntry",
            "field": "spec.http[0].route[0].destination.host",
            "file": "f.yaml",
            "line": 14,
            "column": 15,
            "endColumn": 20,
            "documentationUrl": "https://istio.io/latest/docs/reference/config/analysis/ist0101/",
        }])
    );
    assert_eq!(render(&[], Format::Json, false), "[]\n");
}

/// The YAML says the same as the JSON.
#[test]
fn yaml() {
    let json: Value = serde_json::from_str(&rendered(Format::Json, false)).expect("JSON");
    let lines: Vec<String> = json[0]
        .as_object()
        .expect("a mapping")
        .iter()
        .enumerate()
        .map(|(index, (key, value))| format!("{}{key}: {value}\n", if index == 0 { "- " } else { "  " }))
        .collect();
    assert_eq!(rendered(Format::Yaml, false), lines.concat());
    assert_eq!(render(&[], Format::Yaml, false), "[]\n");
}

/// What the schema of SARIF 2.1.0 requires, and what code hosts need to show a finding beside its line.
#[test]
fn sarif() {
    for text in [rendered(Format::Sarif, false), render(&[], Format::Sarif, false)] {
        let log: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(log["version"], "2.1.0");
        assert!(log["$schema"].as_str().expect("a schema").contains("sarif-2.1.0"));
        let [run] = &log["runs"].as_array().expect("runs")[..] else { panic!("one run") };
        let driver = &run["tool"]["driver"];
        assert_eq!(driver["name"], "interceptor");
        let rules = driver["rules"].as_array().expect("rules");
        assert_eq!(rules.len(), ALL.len());
        for rule in rules {
            assert!(rule["id"].is_string() && rule["shortDescription"]["text"].is_string(), "{rule}");
            let level = rule["defaultConfiguration"]["level"].as_str().expect("a level");
            assert!(["error", "warning", "note"].contains(&level), "{rule}");
        }
        for result in run["results"].as_array().expect("results") {
            let index = usize::try_from(result["ruleIndex"].as_u64().expect("an index")).expect("small");
            assert_eq!(rules[index]["id"], result["ruleId"]);
            assert!(["error", "warning", "note"].contains(&result["level"].as_str().expect("a level")));
            assert!(!result["message"]["text"].as_str().expect("a text").is_empty());
            let place = &result["locations"][0]["physicalLocation"];
            assert_eq!(place["artifactLocation"]["uri"], "f.yaml");
            assert!(place["region"]["startLine"].as_u64() >= Some(1));
            assert!(place["region"]["startColumn"].as_u64() < place["region"]["endColumn"].as_u64());
        }
    }
    let log: Value = serde_json::from_str(&rendered(Format::Sarif, false)).expect("JSON");
    assert_eq!(log["runs"][0]["results"].as_array().map(Vec::len), Some(1));
}

#[test]
fn every_code_is_listed() {
    let text = codes(Format::Text);
    assert_eq!(text.lines().count(), ALL.len());
    let json: Value = serde_json::from_str(&codes(Format::Json)).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(ALL.len()));
    for code in ALL {
        assert!(
            text.contains(&format!("{}  {:7}  {}", code.id, format!("{:?}", code.level), code.name)),
            "{text}"
        );
    }
}

/// docs/analyze.md has a section for each code with its level, and none besides.
#[test]
fn documents_and_code_agree() {
    let path = format!("{}/../docs/analyze.md", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("docs/analyze.md");
    let listed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let expected: Vec<String> =
        ALL.iter().map(|code| format!("{} {} ({})", code.id, code.name, level(code.level))).collect();
    assert_eq!(listed, expected);
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
    }
}

/// Every code is what some test asks for.
#[test]
fn every_code_is_tested() {
    let directory = format!("{}/tests/analysis", env!("CARGO_MANIFEST_DIR"));
    let tests: String = fs::read_dir(directory)
        .expect("the tests")
        .map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("a text"))
        .collect();
    let untested: BTreeSet<&str> = ALL
        .iter()
        .map(|code| code.id)
        .filter(|id| !tests.contains(&format!(" {id} ")) && !tests.contains(&format!("[{id}]")))
        .collect();
    // Told to one client only: tests/config/registry.rs asks for it.
    assert_eq!(untested, BTreeSet::from(["EGR0108"]));
}

#[test]
fn suppressions() {
    let finding = &found(SAMPLE, "")[0];
    for (text, covers) in [
        ("IST0101=VirtualService v.default", true),
        ("IST0101=VirtualService default/v", true),
        ("IST0101=VirtualService *.default", true),
        ("IST0101=VirtualService *", true),
        ("IST0101=*", true),
        ("IST0101=VirtualService v.other", false),
        ("IST0101=Gateway v.default", false),
        ("IST0109=VirtualService v.default", false),
    ] {
        let suppression: Suppression = text.parse().expect(text);
        assert_eq!(suppression.covers(finding), covers, "{text}");
    }
    for (text, said) in
        [("IST0101", "expected CODE="), ("IST0101=", "expected CODE="), ("IST9999=x", "IST9999 is no code")]
    {
        let error = text.parse::<Suppression>().expect_err(text).to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}
