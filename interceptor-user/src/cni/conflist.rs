//! A node's CNI configuration with our plugin in it, or without. Pure: the text of a file in, the text of a file out;
//! what others wrote keeps its order and its spelling.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::network::VERSIONS;

/// The name of the executable, by which the runtime finds the plugin and we find our entry.
pub const PLUGIN: &str = "interceptor-cni";

/// Why a file is no configuration that runtimes would use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it is no JSON object: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has no plugins")]
    NoPlugins,
    #[error("it has no type")]
    NoType,
    #[error("it has no name")]
    NoName,
    #[error(
        "its cniVersion is {found:?}, and plugins are chained from 0.3.1 on (we speak {}): raise it there",
        VERSIONS.join(", ")
    )]
    Version { found: String },
}

/// A JSON object whose values stay as they are written.
#[derive(Debug)]
struct Object(Vec<(String, Box<RawValue>)>);

/// A list of plugins: the content of a `.conflist`.
#[derive(Debug)]
pub(super) struct ConfList {
    object: Object,
    plugins: Vec<Box<RawValue>>,
}

impl ConfList {
    /// Of a `.conflist`.
    pub(super) fn parse(text: &str) -> Result<Self, Unusable> {
        let object: Object = serde_json::from_str(text)?;
        let plugins: Vec<Box<RawValue>> = match object.get("plugins") {
            Some(plugins) => serde_json::from_str(plugins.get())?,
            None => return Err(Unusable::NoPlugins),
        };
        if plugins.is_empty() {
            return Err(Unusable::NoPlugins);
        }
        object.check()?;
        Ok(Self { object, plugins })
    }

    /// Of a `.conf`, which has one plugin; as the library of container runtimes makes a list of it.
    pub(super) fn of_one(text: &str) -> Result<Self, Unusable> {
        let one: Object = serde_json::from_str(text)?;
        if one.get("type").is_none() {
            return Err(Unusable::NoType);
        }
        one.check()?;
        let keep = |(name, _): &&(String, Box<RawValue>)| matches!(name.as_str(), "cniVersion" | "name");
        let object = one.0.iter().filter(keep).cloned().collect();
        Ok(Self { object: Object(object), plugins: vec![serde_json::from_str(text.trim())?] })
    }

    /// Puts `plugin` behind all others, or where it stands already. False when it is there just so.
    pub(super) fn add(&mut self, plugin: &Value) -> Result<bool, Unusable> {
        let mut ours = self.plugins.iter().enumerate().filter(|(_, plugin)| is_ours(plugin));
        let (first, more) = (ours.next().map(|(at, _)| at), ours.next().is_some());
        let raw = || RawValue::from_string(pretty(plugin));
        match first {
            Some(at) if !more && serde_json::from_str::<Value>(self.plugins[at].get())? == *plugin => {
                return Ok(false);
            }
            Some(at) => {
                self.plugins[at] = raw()?;
                let mut position = 0;
                self.plugins.retain(|plugin| {
                    position += 1;
                    position <= at + 1 || !is_ours(plugin)
                });
            }
            None => self.plugins.push(raw()?),
        }
        Ok(true)
    }

    pub(super) fn has_plugin(&self) -> bool {
        self.plugins.iter().any(|plugin| is_ours(plugin))
    }

    /// False when it is not there.
    pub(super) fn remove(&mut self) -> bool {
        let before = self.plugins.len();
        self.plugins.retain(|plugin| !is_ours(plugin));
        self.plugins.len() != before
    }
}

impl Object {
    fn get(&self, wanted: &str) -> Option<&RawValue> {
        self.0.iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value)
    }

    fn string(&self, name: &str) -> String {
        self.get(name).and_then(|value| serde_json::from_str(value.get()).ok()).unwrap_or_default()
    }

    /// What a list needs, whether or not it was one before.
    fn check(&self) -> Result<(), Unusable> {
        if self.string("name").is_empty() {
            return Err(Unusable::NoName);
        }
        let found = self.string("cniVersion");
        if VERSIONS.contains(&found.as_str()) { Ok(()) } else { Err(Unusable::Version { found }) }
    }
}

/// As people write such files: an item a line, and what is inside of one as it was.
impl fmt::Display for ConfList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plugins: Vec<&str> = self.plugins.iter().map(|plugin| plugin.get()).collect();
        let plugins = format!("[\n    {}\n  ]", plugins.join(",\n    "));
        let mut members: Vec<(&str, &str)> =
            self.object.0.iter().map(|(name, value)| (name.as_str(), value.get())).collect();
        match members.iter_mut().find(|(name, _)| *name == "plugins") {
            Some(member) => member.1 = &plugins,
            None => members.push(("plugins", &plugins)),
        }
        let lines: Vec<String> =
            members.iter().map(|(name, value)| format!("  {}: {value}", Value::from(*name))).collect();
        writeln!(f, "{{\n{}\n}}", lines.join(",\n"))
    }
}

/// Indented as an item of the list.
fn pretty(plugin: &Value) -> String {
    format!("{plugin:#}").replace('\n', "\n    ")
}

fn is_ours(plugin: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Type {
        r#type: String,
    }
    serde_json::from_str::<Type>(plugin.get()).is_ok_and(|plugin| plugin.r#type == PLUGIN)
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests;
