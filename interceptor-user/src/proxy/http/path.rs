//! The path as routes see it and upstreams get it: without dot segments (RFC 3986 §5.2.4), so that
//! `/public/../secret` cannot pass for `/public`. `%2e` is a dot. Nothing else changes, the query never.

use http::Uri;
use http::uri::PathAndQuery;

/// Rewrites the target's path when dots make another one of it.
pub fn normalize(uri: &mut Uri) {
    if !has_dots(uri.path().as_bytes()) {
        return;
    }
    let path = without_dot_segments(uri.path());
    if path == uri.path() {
        return;
    }
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    // What is left of a valid path is one.
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(normal) = Uri::from_parts(parts) {
        *uri = normal;
    }
}

/// Whether a segment begins with a dot, or a dot is encoded: few paths need a closer look.
fn has_dots(path: &[u8]) -> bool {
    path.windows(2).any(|pair| pair == b"/.")
        || path.windows(3).any(|triple| triple.eq_ignore_ascii_case(b"%2e"))
}

/// `path` starts with a slash. A `..` above the root stays at the root.
fn without_dot_segments(path: &str) -> String {
    let path = path.replace("%2e", ".").replace("%2E", ".");
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            // The directory itself, not the file of that name.
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::normalize;

    #[test]
    fn dots_are_resolved_and_nothing_else() {
        for (target, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/a/b", "/a/b"),
            ("/public/../secret", "/secret"),
            ("/public/%2e%2e/secret", "/secret"),
            ("/public/.%2E/secret", "/secret"),
            ("/a/./b/%2e/c", "/a/b/c"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/a//../b", "/a/b"),
            ("/a%2eb", "/a.b"),
            ("/.well-known/a..b/..c/...", "/.well-known/a..b/..c/..."),
            ("/a//b/", "/a//b/"),
            ("/%41%2f%2E%252e", "/%41%2f.%252e"),
            ("/a/../b?c=/../%2e", "/b?c=/../%2e"),
            ("/a?b=/../c", "/a?b=/../c"),
            ("http://user@host:81/a/../b?c", "http://user@host:81/b?c"),
            ("http://host", "http://host/"),
        ] {
            let mut uri: Uri = target.parse().unwrap();
            normalize(&mut uri);
            assert_eq!(uri.to_string(), expected, "{target}");
        }
    }
}
