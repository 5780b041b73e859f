//! How findings put what they found, and which known name a mistyped one probably means.

use super::yaml::Value;

pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Plain(text) if matches!(&**text, "true" | "false") => format!("the truth value {text}"),
        Value::Plain(text) if text.parse::<f64>().is_ok() => format!("the number {text}"),
        Value::Plain(text) | Value::Text(text) => format!("`{}`", shortened(text)),
        Value::Sequence(_) => "a list".into(),
        Value::Mapping(_) => "a mapping".into(),
    }
}

pub(super) fn shortened(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    if text.chars().count() <= SHOWN_MAX {
        return text.to_owned();
    }
    text.chars().take(SHOWN_MAX).chain(['…']).collect()
}

pub(super) fn is_number_or_truth(text: &str) -> bool {
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    (numeric && text.parse::<f64>().is_ok())
        || matches!(text, "true" | "false" | "True" | "False" | "TRUE" | "FALSE")
}

/// `; did you mean …?` when a known name is close enough.
pub(crate) fn did_you_mean(name: &str, known: &[&str]) -> String {
    let closest = closest(name, known);
    closest.map(|candidate| format!("; did you mean `{candidate}`?")).unwrap_or_default()
}

/// The known name that a mistyped one probably means.
pub(crate) fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
    let wanted = plain(name);
    let closest = known
        .iter()
        .map(|candidate| (edit_distance(&wanted, &plain(candidate)), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(wanted.len()) / 4);
    closest.map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, of names short enough to be Kubernetes'.
pub(crate) fn edit_distance(a: &str, b: &str) -> usize {
    const NAME_BYTES_MAX: usize = 253;
    if a.len() > NAME_BYTES_MAX || b.len() > NAME_BYTES_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{did_you_mean, edit_distance};

    #[test]
    fn close_names_are_suggested() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        let known = ["protocol", "number", "targetPort", "name"];
        for (name, expected) in [
            ("protocl", "; did you mean `protocol`?"),
            ("target_port", "; did you mean `targetPort`?"),
            ("targetport", "; did you mean `targetPort`?"),
            ("numbr", "; did you mean `number`?"),
            ("weight", ""),
        ] {
            assert_eq!(did_you_mean(name, &known), expected, "{name}");
        }
    }
}
