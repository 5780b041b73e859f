//! Shows findings: as text for people, as JSON, YAML and SARIF for other programs; and leaves out those that
//! somebody does not want to see. Pure: values in, text out.

mod entry;
mod sarif;
mod suppress;
mod text;

pub(crate) use entry::Entry;
pub use suppress::{ANNOTATION, Suppression, SuppressionError, annotated};

use crate::resource::code::{ALL, Code};
use crate::resource::{Diagnostic, Level};

/// How findings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
    Yaml,
    Sarif,
}

/// A finding, and the line of its file that it is about when that is known.
#[derive(Clone, Copy, Debug)]
pub struct Finding<'a> {
    pub diagnostic: &'a Diagnostic,
    pub line: Option<&'a str>,
}

/// All findings, in the order given. `colours`: for a terminal, text only.
pub fn render(findings: &[Finding<'_>], format: Format, colours: bool) -> String {
    let entries = || findings.iter().map(|finding| Entry::of(finding.diagnostic));
    match format {
        Format::Text => text::findings(findings, colours),
        Format::Json => pretty(&entries().collect::<Vec<_>>()),
        Format::Yaml => entry::yaml(entries()),
        Format::Sarif => pretty(&sarif::log(entries())),
    }
}

/// Every code with its level, name and meaning.
pub fn codes(format: Format) -> String {
    match format {
        Format::Text => text::codes(),
        Format::Json => pretty(&ALL.iter().map(|code| entry::CodeEntry::of(code)).collect::<Vec<_>>()),
        Format::Yaml => entry::yaml(ALL.iter().map(|code| entry::CodeEntry::of(code))),
        Format::Sarif => pretty(&sarif::log([].into_iter())),
    }
}

fn pretty(value: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("names and texts, which JSON can hold");
    text.push('\n');
    text
}

/// As istioctl writes it.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "Error",
        Level::Warning => "Warning",
        Level::Info => "Info",
    }
}

/// The code of a finding; those without one are about how something is written.
fn code_of(finding: &Diagnostic) -> &'static Code {
    use crate::resource::code;
    finding.code.and_then(Code::find).unwrap_or(match finding.level {
        Level::Error => &code::IST0106,
        Level::Warning => &code::IST0133,
        Level::Info => &code::EGR0118,
    })
}

/// Where a code is explained.
fn documentation(code: &Code) -> String {
    if code.id.starts_with("IST") {
        let id = code.id.to_ascii_lowercase();
        return format!("https://istio.io/latest/docs/reference/config/analysis/{id}/");
    }
    format!("docs/analyze.md#{}", code.id.to_ascii_lowercase())
}
