//! SARIF 2.1.0 (OASIS), as code hosts read it to show findings beside the lines they are about.

use serde_json::{Value, json};

use super::documentation;
use super::entry::Entry;
use crate::resource::Level;
use crate::resource::code::ALL;

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

pub(super) fn log<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Value {
    let rules: Vec<Value> = ALL
        .iter()
        .map(|code| {
            let url = documentation(code);
            let mut rule = json!({
                "id": code.id,
                "name": code.name,
                "shortDescription": { "text": code.means },
                "fullDescription": { "text": format!("{}: {}.", code.means, code.effect) },
                "help": { "text": code.mend },
                "defaultConfiguration": { "level": level(code.level) },
            });
            // SARIF wants a whole address.
            if url.starts_with("https://") {
                rule["helpUri"] = url.into();
            }
            rule
        })
        .collect();
    let results: Vec<Value> = entries.map(|entry| result(&entry)).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "interceptor",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(entry: &Entry<'_>) -> Value {
    let text = format!("{}. At run time: {}. Mend: {}.", entry.message, entry.effect, entry.mend);
    let index = ALL.iter().position(|code| code.id == entry.code);
    let mut result = json!({
        "ruleId": entry.code,
        "ruleIndex": index,
        "level": sarif_level(entry.level),
        "message": { "text": text },
    });
    let mut location = json!({});
    if let Some(file) = entry.file {
        location["physicalLocation"] = json!({ "artifactLocation": { "uri": uri(file) } });
        if let Some(place) = entry.place {
            location["physicalLocation"]["region"] = json!({
                "startLine": place.line,
                "startColumn": place.column.max(1),
                "endColumn": place.end_column.max(2),
            });
        }
    }
    if let Some(origin) = entry.origin {
        let name = entry.field.map_or_else(|| origin.to_owned(), |field| format!("{origin} {field}"));
        location["logicalLocations"] = json!([{ "fullyQualifiedName": name, "kind": "resource" }]);
    }
    if location != json!({}) {
        result["locations"] = json!([location]);
    }
    result
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "note",
    }
}

fn sarif_level(name: &str) -> &'static str {
    match name {
        "Error" => "error",
        "Warning" => "warning",
        _ => "note",
    }
}

/// A path as a URI reference: what may not stand in one is escaped.
fn uri(file: &str) -> String {
    let mut out = String::new();
    for byte in file.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
