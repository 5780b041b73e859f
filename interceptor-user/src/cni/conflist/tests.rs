//! The files that the common networks write, with our plugin put in and taken out again.

use serde_json::json;

use super::*;

const LISTS: &[(&str, &str)] = &[
    ("calico", include_str!("../samples/10-calico.conflist")),
    ("flannel", include_str!("../samples/10-flannel.conflist")),
    ("cilium", include_str!("../samples/05-cilium.conflist")),
    ("kindnet", include_str!("../samples/10-kindnet.conflist")),
];
const BRIDGE: &str = include_str!("../samples/10-bridge.conf");

fn plugin() -> Value {
    json!({"type": PLUGIN, "deadline": "10s"})
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The text with our plugin, which must have changed it.
fn added(text: &str) -> String {
    let mut list = ConfList::parse(text).unwrap();
    assert!(list.add(&plugin()).unwrap());
    list.to_string()
}

#[test]
fn the_plugin_goes_behind_all_others() {
    for (network, text) in LISTS {
        let mut expected = value(text);
        expected["plugins"].as_array_mut().unwrap().push(plugin());
        assert_eq!(value(&added(text)), expected, "{network}");
    }
}

#[test]
fn a_second_time_changes_nothing() {
    for (network, text) in LISTS {
        let text = added(text);
        let mut list = ConfList::parse(&text).unwrap();
        assert!(!list.add(&plugin()).unwrap(), "{network}");
        assert_eq!(list.to_string(), text, "{network}");
    }
}

#[test]
fn taken_out_again_nothing_is_left() {
    for (network, text) in LISTS {
        let mut list = ConfList::parse(&added(text)).unwrap();
        assert!(list.remove(), "{network}");
        assert_eq!(value(&list.to_string()), value(text), "{network}");
        assert!(!list.remove(), "{network}");
    }
    // Files that are written the usual way come back byte by byte.
    for (_, text) in &LISTS[..2] {
        let mut list = ConfList::parse(&added(text)).unwrap();
        assert!(list.remove());
        assert_eq!(list.to_string(), *text);
    }
}

#[test]
fn what_others_wrote_stays_as_they_wrote_it() {
    let text = r#"{"zeta": 1e400, "name": "n", "cniVersion": "1.0.0",
        "plugins": [{"type":"a",  "b": 10.50}], "disableCheck":true}"#;
    let expected = r#"{
  "zeta": 1e400,
  "name": "n",
  "cniVersion": "1.0.0",
  "plugins": [
    {"type":"a",  "b": 10.50},
    {
      "deadline": "10s",
      "type": "interceptor-cni"
    }
  ],
  "disableCheck": true
}
"#;
    assert_eq!(added(text), expected);
}

#[test]
fn another_version_of_it_is_replaced_where_it_stands() {
    let text = json!({"name": "n", "cniVersion": "1.0.0", "plugins": [
        {"type": "a"}, {"type": PLUGIN, "deadline": "1s"}, {"type": "b"}, {"type": PLUGIN}]});
    let expected = json!({"name": "n", "cniVersion": "1.0.0", "plugins": [
        {"type": "a"}, plugin(), {"type": "b"}]});
    assert_eq!(value(&added(&text.to_string())), expected);
}

#[test]
fn one_plugin_becomes_a_list() {
    let mut list = ConfList::of_one(BRIDGE).unwrap();
    assert!(list.add(&plugin()).unwrap());
    let expected = json!({"cniVersion": "0.4.0", "name": "bridge", "plugins": [value(BRIDGE), plugin()]});
    assert_eq!(value(&list.to_string()), expected);
}

#[test]
fn files_that_no_runtime_would_use() {
    for (text, expected) in [
        ("", "it is no JSON object: EOF while parsing a value at line 1 column 0"),
        ("[1]", "it is no JSON object: invalid type: sequence, expected an object at line 1 column 0"),
        ("{\"name\": \"n\"", "it is no JSON object: EOF while parsing an object at line 1 column 12"),
        (r#"{"name":"n","cniVersion":"1.0.0"}"#, "it has no plugins"),
        (r#"{"name":"n","cniVersion":"1.0.0","plugins":[]}"#, "it has no plugins"),
        (r#"{"cniVersion":"1.0.0","plugins":[{}]}"#, "it has no name"),
        (
            r#"{"name":"n","plugins":[{}]}"#,
            "its cniVersion is \"\", and plugins are chained from 0.3.1 on (we speak 0.3.1, 0.4.0, 1.0.0, 1.1.0): raise it there",
        ),
    ] {
        assert_eq!(ConfList::parse(text).unwrap_err().to_string(), expected, "{text}");
    }
    let error = ConfList::of_one(r#"{"name":"n","cniVersion":"1.0.0"}"#).unwrap_err();
    assert_eq!(error.to_string(), "it has no type");
}
