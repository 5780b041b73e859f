//! Host names as Istio's API writes them: a name, `*.suffix`, or `*`.

use std::net::IpAddr;
use std::sync::Arc;

use super::decode::{Field, Spanned};
use super::intern::intern;

/// Reads a host, lower-cased; a mistake is reported with Istio's words.
pub(super) fn read(field: &Field<'_>) -> Option<Spanned<Arc<str>>> {
    let text = field.text()?;
    match problem(&text) {
        None => {
            if text.contains('_') {
                field.warning(format!(
                    "host {text} acts here, but Istio refuses `_` in names: letters, digits and `-` only"
                ));
            }
            Some(Spanned { value: intern(&text.to_ascii_lowercase()), position: field.position() })
        }
        Some(problem) => {
            field.error(format!("invalid host {text}: {problem}"));
            None
        }
    }
}

pub(super) fn problem(host: &str) -> Option<&'static str> {
    let name = host.strip_prefix('*').unwrap_or(host);
    let dotted = name.strip_prefix('.').filter(|_| name.len() != host.len()).unwrap_or(name);
    if host.is_empty() {
        return Some("it is empty");
    }
    if host.len() > 255 {
        return Some("it is longer than 255 characters");
    }
    if host == "*" {
        return None;
    }
    if dotted.contains('*') {
        return Some("`*` may stand only at its start, as in *.example.com");
    }
    if dotted.contains("://") || dotted.contains('/') {
        return Some("expected a name such as www.example.com, without scheme or path");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.parse::<IpAddr>().is_ok() || dotted.split('.').all(label) {
        return None;
    }
    if dotted.contains(':') {
        return Some("expected a name without a port");
    }
    if dotted.strip_suffix('.').is_some_and(|name| name.split('.').all(label)) {
        return Some("expected a name without a dot at its end: clients that write one are meant, too");
    }
    Some("expected a name such as www.example.com or *.example.com")
}

/// Neither a name that can be looked up nor an address.
pub(super) fn is_not_a_name(text: &str) -> bool {
    text.starts_with('*') || problem(text).is_some()
}

/// A short name is one of the namespace's services.
pub(super) fn complete(host: &Arc<str>, namespace: &str) -> Arc<str> {
    if host.contains('.') || host.contains('*') || host.contains(':') {
        return Arc::clone(host);
    }
    format!("{host}.{namespace}.svc.cluster.local").into()
}

/// Whether `pattern` (a host, perhaps with a wildcard) matches `host` (perhaps with one, too).
/// Both in lower case.
pub fn matches(pattern: &str, host: &str) -> bool {
    match (pattern.strip_prefix('*'), host.strip_prefix('*')) {
        (None, _) => pattern == host,
        (Some(suffix), None) => host.len() > suffix.len() && host.ends_with(suffix),
        (Some(suffix), Some(host)) => host.ends_with(suffix),
    }
}

#[cfg(test)]
mod tests {
    use super::{matches, problem};

    #[test]
    fn hosts() {
        for host in ["a.example.com", "*.example.com", "*", "*foo.com", "short", "1.2.3.4", "_a.b", "::1"] {
            assert_eq!(problem(host), None, "{host}");
        }
        for host in ["", "a.*.com", "**.com", "http://a.com", "a.com:80", "a..b", "-a.b", "a b", "a.com/x"] {
            assert!(problem(host).is_some(), "{host}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, host, expected) in [
            ("a.com", "a.com", true),
            ("*.a.com", "x.a.com", true),
            ("*.a.com", "a.com", false),
            ("*.a.com", "*.b.a.com", true),
            ("*.b.a.com", "*.a.com", false),
            ("*.a.com", "*.a.com", true),
            ("*", "*.a.com", true),
            ("a.com", "*.a.com", false),
        ] {
            assert_eq!(matches(pattern, host), expected, "{pattern} {host}");
        }
    }
}
