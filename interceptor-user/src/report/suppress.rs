//! Which findings somebody does not want to see: `CODE=Kind name.namespace`, with `*`, and the annotation
//! `galley.istio.io/analyze-suppress`.

use std::str::FromStr;

use crate::resource::Diagnostic;
use crate::resource::Kind;
use crate::resource::code::{ALL, Code};
use crate::resource::words::did_you_mean;

/// The annotation whose value lists codes, or is `*`.
pub const ANNOTATION: &str = "galley.istio.io/analyze-suppress";

/// A code and the resources that it is not told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    code: &'static str,
    /// `Kind namespace/name` or `Kind name.namespace`; `*` stands for anything.
    resource: String,
}

/// Why a suppression can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SuppressionError {
    #[error(
        "expected CODE=KIND NAME.NAMESPACE, as in \"IST0109=VirtualService reviews.default\" or \"IST0174=DestinationRule *\""
    )]
    Shape,
    #[error("{code} is no code{hint}: `interceptor analyze --list-codes` prints them")]
    Code { code: String, hint: String },
}

impl FromStr for Suppression {
    type Err = SuppressionError;

    fn from_str(text: &str) -> Result<Self, SuppressionError> {
        let (code, resource) = text.split_once('=').ok_or(SuppressionError::Shape)?;
        let resource = resource.trim();
        if resource.is_empty() {
            return Err(SuppressionError::Shape);
        }
        let unknown = || {
            let ids: Vec<&str> = ALL.iter().map(|code| code.id).collect();
            SuppressionError::Code { code: code.trim().into(), hint: did_you_mean(code.trim(), &ids) }
        };
        let code = Code::find(code.trim()).ok_or_else(unknown)?;
        Ok(Self { code: code.id, resource: resource.to_owned() })
    }
}

impl Suppression {
    /// Why it can't cover anything: there are no resources of that kind.
    pub fn is_ineffective(&self) -> Option<String> {
        let kind = self.resource.split(' ').next().unwrap_or_default();
        let known: Vec<&str> = Kind::all().map(Kind::name).chain(["MeshConfig"]).collect();
        if kind.contains('*') || known.contains(&kind) {
            return None;
        }
        Some(format!(
            "--suppress {}={} leaves nothing out: {kind} is no kind that is looked at{}",
            self.code,
            self.resource,
            did_you_mean(kind, &known)
        ))
    }

    pub fn covers(&self, finding: &Diagnostic) -> bool {
        super::code_of(finding).id == self.code
            && (glob(&self.resource, &finding.resource)
                || glob(&self.resource, &name_first(&finding.resource)))
    }
}

/// Whether the value of the annotation names the finding's code.
pub fn annotated(value: &str, finding: &Diagnostic) -> bool {
    let code = super::code_of(finding).id;
    value.split(',').map(str::trim).any(|named| named == "*" || named == code)
}

/// `Kind namespace/name` as `Kind name.namespace`.
fn name_first(resource: &str) -> String {
    let named = resource.split_once(' ').and_then(|(kind, rest)| Some((kind, rest.split_once('/')?)));
    named.map_or_else(String::new, |(kind, (namespace, name))| format!("{kind} {name}.{namespace}"))
}

/// `*` stands for any number of characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(found) = rest.find(part) else { return false };
        rest = rest.get(found + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("VirtualService *", "VirtualService x.y", true),
            ("VirtualService *.y", "VirtualService x.y", true),
            ("VirtualService *.z", "VirtualService x.y", false),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
