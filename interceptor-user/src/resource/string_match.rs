//! StringMatch: exact, prefix, or a regular expression (RE2 style) on the whole value.

use std::fmt;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::decode::Field;

#[derive(Clone, Debug)]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    /// Anchored at both ends.
    Regex(Regex),
    /// Empty, or the regular expression `*`: any value, as long as there is one.
    Present,
}

impl PartialEq for StringMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Present, Self::Present) => true,
            (Self::Exact(_) | Self::Prefix(_) | Self::Regex(_) | Self::Present, _) => false,
        }
    }
}

impl Eq for StringMatch {}

impl StringMatch {
    pub fn matches(&self, value: &str, ignore_case: bool) -> bool {
        match self {
            Self::Exact(expected) if ignore_case => expected.eq_ignore_ascii_case(value),
            Self::Exact(expected) => **expected == *value,
            Self::Prefix(prefix) if ignore_case => {
                value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
            }
            Self::Prefix(prefix) => value.starts_with(&**prefix),
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(formatter, "exact {text:?}"),
            Self::Prefix(text) => write!(formatter, "prefix {text:?}"),
            Self::Regex(regex) => write!(formatter, "regex {:?}", as_written(regex)),
            Self::Present => formatter.write_str("present"),
        }
    }
}

/// Istio's bound on the text of a regular expression.
const REGEX_BYTES_MAX: usize = 1024;
/// Bound on a compiled one, so that counted repetitions stay small.
const REGEX_PROGRAM_BYTES_MAX: usize = 1 << 20;

pub(super) fn read(field: &Field<'_>) -> Option<StringMatch> {
    if let Some(text) = field.peek_text() {
        field.error(format!("expected one of exact, prefix or regex, as in `exact: {text}`, found text"));
        return None;
    }
    let object = field.object()?;
    let kinds = ["exact", "prefix", "regex"].iter().filter(|name| object.has(name)).count();
    if kinds > 1 {
        field.error("exact, prefix and regex exclude each other");
    }
    let (exact, prefix, regex) = (object.text("exact"), object.get("prefix"), object.get("regex"));
    if let Some(exact) = exact {
        return Some(StringMatch::Exact(exact));
    }
    if let Some(field) = prefix {
        let text = field.text()?;
        if text.is_empty() {
            field.error("prefix must not be empty");
            return None;
        }
        return Some(StringMatch::Prefix(text));
    }
    match regex {
        Some(field) => read_regex(&field),
        None => Some(StringMatch::Present),
    }
}

fn read_regex(field: &Field<'_>) -> Option<StringMatch> {
    let text = field.text()?;
    if &*text == "*" {
        return Some(StringMatch::Present);
    }
    compile(&text).map(StringMatch::Regex).map_err(|problem| field.error(problem)).ok()
}

/// A regular expression that may match anywhere.
pub(super) fn read_pattern(field: &Field<'_>) -> Option<Regex> {
    let text = field.text()?;
    build(&text, &text).map_err(|problem| field.error(problem)).ok()
}

/// A regular expression that must match the whole value.
fn compile(text: &str) -> Result<Regex, String> {
    build(text, &format!("^(?:{text})$"))
}

/// The text that [`read`] anchored.
pub fn as_written(regex: &Regex) -> &str {
    let text = regex.as_str();
    text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text)
}

fn build(text: &str, anchored: &str) -> Result<Regex, String> {
    if text.len() > REGEX_BYTES_MAX {
        return Err(format!("regex is too long: {} bytes, at most {REGEX_BYTES_MAX}", text.len()));
    }
    RegexBuilder::new(anchored).size_limit(REGEX_PROGRAM_BYTES_MAX).build().map_err(|error| {
        if matches!(error, regex::Error::CompiledTooBig(_)) {
            return "regex is too large once its repetitions are counted out".to_owned();
        }
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        format!("{text:?}: {reason}; Istio uses RE2 style regex-based match")
    })
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[test]
    fn regular_expressions_match_the_whole_value() {
        let regex = compile("/a|/b.*").unwrap();
        for (value, expected) in
            [("/a", true), ("/b/c", true), ("/ab", false), ("x/a", false), ("/a\n", false)]
        {
            assert_eq!(regex.is_match(value), expected, "{value:?}");
        }
        for text in ["(", &"a".repeat(1025), "(?:a{1000}){1000}", "(?=a)"] {
            assert!(compile(text).is_err(), "{text}");
        }
    }
}
