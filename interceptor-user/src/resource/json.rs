//! An object as the API server sends it. It becomes the same tree that a YAML document becomes, without places and
//! without a text in between.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::diagnostic::Position;
use super::yaml::{Entry, Node, Value};

/// One object of the API server's.
#[derive(Clone, Debug)]
pub struct Json(pub(super) Node);

/// Who wrote which field: often larger than all the rest, and nobody here asks.
const MANAGED_FIELDS: &str = "managedFields";

impl Json {
    /// The text at a path of field names; `None` when there is none, or something else.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        match &self.at(path)?.value {
            Value::Text(text) => Some(text),
            Value::Null | Value::Plain(_) | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// The names and texts of a mapping at a path.
    pub fn texts(&self, path: &[&str]) -> impl Iterator<Item = (&str, &str)> {
        let entries = match self.at(path).map(|node| &node.value) {
            Some(Value::Mapping(entries)) => &entries[..],
            Some(Value::Null | Value::Plain(_) | Value::Text(_) | Value::Sequence(_)) | None => &[],
        };
        entries.iter().filter_map(|entry| match &entry.value.value {
            Value::Text(text) => Some((&*entry.key, &**text)),
            Value::Null | Value::Plain(_) | Value::Sequence(_) | Value::Mapping(_) => None,
        })
    }

    fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(&self.0, |node, name| match &node.value {
            Value::Mapping(entries) => {
                entries.iter().find(|entry| *entry.key == **name).map(|entry| &entry.value)
            }
            Value::Null | Value::Plain(_) | Value::Text(_) | Value::Sequence(_) => None,
        })
    }

    /// Forgets a field of a field.
    pub fn remove(&mut self, [outer, inner]: &[&str; 2]) {
        let Value::Mapping(entries) = &mut self.0.value else { return };
        for entry in entries.iter_mut().filter(|entry| *entry.key == **outer) {
            if let Value::Mapping(fields) = &mut entry.value.value {
                fields.retain(|field| *field.key != **inner);
            }
        }
    }

    /// Items of a list don't say what they are: the request did.
    pub fn declare(&mut self, api_version: &str, kind: &str) {
        let Value::Mapping(entries) = &mut self.0.value else { return };
        for (name, value) in [("apiVersion", api_version), ("kind", kind)] {
            if !entries.iter().any(|entry| &*entry.key == name) {
                entries.push(entry(name.into(), node(Value::Text(value.into()))));
            }
        }
    }
}

fn node(value: Value) -> Node {
    Node { position: Position::default(), value }
}

fn entry(key: Box<str>, value: Node) -> Entry {
    Entry { key, position: Position::default(), value }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RootVisitor).map(|value| Self(node(value)))
    }
}

/// An object has fields; anything else is a mistake of whoever sent it.
struct RootVisitor;

impl<'de> Visitor<'de> for RootVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        NodeVisitor.visit_map(map).map(|node| node.value)
    }
}

struct NodeVisitor;

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(node(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(node(Value::Plain(value.to_string().into())))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(node(Value::Plain(value.to_string().into())))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(node(Value::Plain(value.to_string().into())))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(node(Value::Plain(value.to_string().into())))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(node(Value::Text(value.into())))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Node, E> {
        Ok(node(Value::Text(value.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(node(Value::Sequence(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Box<str>>()? {
            if &*key == MANAGED_FIELDS {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push(entry(key, map.next_value()?));
            }
        }
        Ok(node(Value::Mapping(entries)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Json;
    use crate::resource::{parse, parse_json};

    const ENTRY: &str = r#"{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "e", "namespace": "shop", "managedFields": [{"manager": "kubectl"}],
                     "labels": {"a": "1", "smile": "\ud83d\ude00 \u003c"}},
        "spec": {"hosts": ["a.example.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                 "resolution": "DNS", "exportTo": null, "wrong": true}}"#;

    #[test]
    fn an_object_reads_as_its_file_does() {
        let json: Json = serde_json::from_str(ENTRY).unwrap();
        let (file, namespace): (Arc<str>, Arc<str>) = ("shop/e@7".into(), "default".into());
        let of_json = parse_json(&file, &json);
        let of_text = parse(&file, &ENTRY.replace(r"\ud83d\ude00", "\u{1f600}"), &namespace);
        let place_less = |mut parsed: crate::resource::ParsedFile| {
            for finding in &mut parsed.diagnostics {
                finding.origin = None;
            }
            parsed
        };
        let (of_json, of_text) = (place_less(of_json), place_less(of_text));
        assert_eq!(of_json.diagnostics, of_text.diagnostics);
        assert_eq!(of_json.diagnostics[0].field, "spec.wrong");
        assert_eq!(of_json.resources.len(), 1);
        let (meta, expected) = (of_json.resources[0].meta(), of_text.resources[0].meta());
        assert_eq!((&meta.key, &meta.labels), (&expected.key, &expected.labels));
        assert_eq!(meta.origin.to_string(), "shop/e@7");
        assert_eq!(&*meta.labels["smile"], "\u{1f600} <");
    }

    #[test]
    fn what_is_removed_is_not_read() {
        let mut json: Json = serde_json::from_str(ENTRY).unwrap();
        json.remove(&["metadata", "labels"]);
        json.remove(&["spec", "wrong"]);
        json.remove(&["kind", "none"]);
        let parsed = parse_json(&"shop/e@7".into(), &json);
        assert!(parsed.diagnostics.is_empty() && parsed.resources[0].meta().labels.is_empty());
    }

    #[test]
    fn what_it_is_comes_from_the_request_when_it_does_not_say_so() {
        let mut json: Json = serde_json::from_str(r#"{"metadata": {"name": "n", "uid": "u"}}"#).unwrap();
        json.declare("v1", "Namespace");
        json.declare("v2", "Other");
        assert_eq!(json.text(&["metadata", "uid"]), Some("u"));
        assert_eq!(json.texts(&["metadata"]).last(), Some(("uid", "u")));
        let parsed = parse_json(&"n@1".into(), &json);
        assert_eq!(parsed.resources[0].meta().key.to_string(), "Namespace n");
        assert!(serde_json::from_str::<Json>("[]").is_err());
    }
}
