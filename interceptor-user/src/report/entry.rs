//! A finding as other programs read it: istioctl's keys (`code`, `level`, `origin`, `reference`, `message`,
//! `documentationUrl`), and what it does not have.

use serde::Serialize;
use serde_json::Value;

use super::{code_of, documentation, level_name};
use crate::resource::code::Code;
use crate::resource::{Diagnostic, Position};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry<'a> {
    pub(super) code: &'static str,
    pub(super) level: &'static str,
    /// `VirtualService default/x`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<&'a str>,
    /// `file:line`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<String>,
    pub(super) message: &'a str,
    pub(super) effect: &'a str,
    pub(super) mend: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<&'a str>,
    #[serde(flatten)]
    pub(super) place: Option<Place>,
    pub(super) documentation_url: String,
}

/// From 1, in characters.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
    /// Just behind the last one.
    pub(super) end_column: u32,
}

impl<'a> Entry<'a> {
    pub(crate) fn of(finding: &'a Diagnostic) -> Self {
        let code = code_of(finding);
        let given = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        let place = finding.origin.as_ref().map(|origin| origin.position).filter(|place| place.line > 0);
        let reference = finding.origin.as_ref().map(|origin| match place {
            Some(place) => format!("{}:{}", origin.file, place.line),
            None => origin.file.to_string(),
        });
        Self {
            code: code.id,
            level: level_name(finding.level),
            origin: given(&finding.resource),
            reference,
            message: &finding.message,
            effect: given(&finding.effect).unwrap_or(code.effect),
            mend: given(&finding.mend).unwrap_or(code.mend),
            field: given(&finding.field),
            file: finding.origin.as_ref().map(|origin| &*origin.file),
            place: place.map(|Position { line, column, length }| Place {
                line,
                column,
                end_column: column.saturating_add(length.max(1)),
            }),
            documentation_url: documentation(code),
        }
    }
}

/// A code as other programs read it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CodeEntry {
    code: &'static str,
    level: &'static str,
    name: &'static str,
    means: &'static str,
    effect: &'static str,
    mend: &'static str,
    documentation_url: String,
}

impl CodeEntry {
    pub(super) fn of(code: &Code) -> Self {
        Self {
            code: code.id,
            level: level_name(code.level),
            name: code.name,
            means: code.means,
            effect: code.effect,
            mend: code.mend,
            documentation_url: documentation(code),
        }
    }
}

/// A list of flat mappings; JSON's scalars are YAML's.
pub(super) fn yaml(entries: impl Iterator<Item = impl Serialize>) -> String {
    let mut out = String::new();
    for entry in entries {
        let Ok(Value::Object(fields)) = serde_json::to_value(entry) else { continue };
        for (index, (name, value)) in fields.iter().enumerate() {
            let start = if index == 0 { "- " } else { "  " };
            out.push_str(&format!("{start}{name}: {value}\n"));
        }
    }
    if out.is_empty() { "[]\n".to_owned() } else { out }
}
