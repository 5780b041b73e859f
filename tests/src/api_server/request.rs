//! One request: what it is for, read from its head.

use std::io::{self, Read};

use super::objects::{BUILT_IN, ISTIO, ISTIO_KINDS};
use crate::{content_length, read_head};

#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// Objects of a kind, or one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
}

impl Request {
    /// `None` when the connection ends.
    pub(super) fn read(socket: &mut impl Read) -> io::Result<Option<Self>> {
        let head = read_head(socket)?;
        let mut words = head.lines().next().unwrap_or_default().split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut body = vec![0; content_length(&head)];
        socket.read_exact(&mut body)?;
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Ok(Some(Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.map(|(name, value)| (name.to_owned(), decoded(value))).collect(),
            body,
        }))
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    /// As a person would write it.
    pub(super) fn shown(&self) -> String {
        let query: Vec<String> = self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{} {}{mark}{}", self.method, self.path, query.join("&"))
    }

    /// `None` when there is no such kind.
    pub(super) fn target(&self) -> Option<Target> {
        let steps: Vec<&str> = self.path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match &steps[..] {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, plural, name) = match rest {
            ["namespaces"] => (None, "namespaces", None),
            ["namespaces", name] => (None, "namespaces", Some(*name)),
            ["namespaces", namespace, plural] => (Some(*namespace), *plural, None),
            ["namespaces", namespace, plural, name] => (Some(*namespace), *plural, Some(*name)),
            [plural] => (None, *plural, None),
            _ => return None,
        };
        let kind = if group == ISTIO {
            ISTIO_KINDS.iter().find(|(of, _)| *of == plural)?.1
        } else {
            BUILT_IN
                .iter()
                .find(|(of_group, of_version, of, _, _)| {
                    *of_group == group && *of_version == version && *of == plural
                })?
                .3
        };
        let owned = |text: &str| text.to_owned();
        Some(Target {
            group: owned(group),
            version: owned(version),
            plural: owned(plural),
            kind: owned(kind),
            namespace: namespace.map(owned),
            name: name.map(owned),
        })
    }
}

/// Which objects a list or watch is about.
#[derive(Debug)]
pub(super) struct Selection {
    namespace: Option<String>,
    /// Field, value, and whether it is wanted.
    fields: Vec<(String, String, bool)>,
    /// Requirements of a label selector.
    labels: Vec<String>,
}

impl Selection {
    pub(super) fn of(request: &Request, target: &Target) -> Result<Self, String> {
        let mut fields = Vec::new();
        for part in request.parameter("fieldSelector").unwrap_or_default().split(',') {
            let Some((field, value)) = part.split_once('=').filter(|_| !part.is_empty()) else { continue };
            let (field, is_wanted) = field.strip_suffix('!').map_or((field, true), |field| (field, false));
            let is_known = matches!(field, "metadata.name" | "metadata.namespace")
                || (target.plural == "pods" && matches!(field, "spec.nodeName" | "status.phase"));
            if !is_known {
                return Err(format!("field label not supported: {field}"));
            }
            fields.push((field.to_owned(), value.trim_start_matches('=').to_owned(), is_wanted));
        }
        let labels = request.parameter("labelSelector").unwrap_or_default().split(',');
        let labels = labels.filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Ok(Self { namespace: target.namespace.clone(), fields, labels })
    }

    pub(super) fn has(&self, object: &serde_json::Value) -> bool {
        let text = |pointer: &str| object.pointer(pointer).and_then(serde_json::Value::as_str);
        let is_in = self.namespace.as_deref().is_none_or(|own| text("/metadata/namespace") == Some(own));
        let field = |(field, value, is_wanted): &(String, String, bool)| {
            (text(&format!("/{}", field.replace('.', "/"))).unwrap_or_default() == value) == *is_wanted
        };
        let label = |name: &str| object["metadata"]["labels"].get(name).and_then(serde_json::Value::as_str);
        let requirement = |part: &String| match (part.strip_prefix('!'), part.split_once("!=")) {
            (Some(name), _) => label(name).is_none(),
            (None, Some((name, value))) => label(name) != Some(value),
            (None, None) => match part.split_once('=') {
                Some((name, value)) => label(name) == Some(value.trim_start_matches('=')),
                None => label(part).is_some(),
            },
        };
        is_in && self.fields.iter().all(field) && self.labels.iter().all(requirement)
    }
}

/// `%3D` and `+`.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        let code = text.get(index + 1..index + 3).and_then(|code| u8::from_str_radix(code, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                out.push(code);
                index += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(*byte),
        }
        index += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
