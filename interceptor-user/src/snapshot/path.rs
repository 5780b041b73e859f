//! The path as routes see it and upstreams get it (MeshConfig.pathNormalization), so that `/public/../secret`
//! cannot pass for `/public`. The query never changes.

use http::Uri;
use http::uri::PathAndQuery;

/// What is done to the path of every request before it is looked at. Each does what those before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathNormalization {
    /// Nothing.
    None,
    /// As RFC 3986 §6.2.2 has it, and Envoy: no dot segments, `\` is a slash, and what need not be
    /// percent-encoded (letters, digits, `-._~`) is not.
    #[default]
    Base,
    /// Several slashes are one.
    MergeSlashes,
    /// `%2F` and `%5C` are slashes, too, before everything else.
    DecodeAndMergeSlashes,
}

impl PathNormalization {
    /// Rewrites the target's path when it is not normal.
    pub fn apply(self, uri: &mut Uri) {
        if !self.may_change(uri.path().as_bytes()) {
            return;
        }
        let path = self.normal(uri.path());
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

    /// Few paths need a closer look.
    fn may_change(self, path: &[u8]) -> bool {
        self != Self::None
            && (path.iter().any(|byte| matches!(byte, b'%' | b'\\'))
                || path.windows(2).any(|pair| pair == b"/." || self.merges() && pair == b"//"))
    }

    fn merges(self) -> bool {
        self >= Self::MergeSlashes
    }

    fn normal(self, path: &str) -> String {
        let path = without_dot_segments(&decoded(path, self == Self::DecodeAndMergeSlashes));
        if self.merges() { one_slash_each(&path) } else { path }
    }
}

/// Backslashes as slashes and needless percent-encoding undone, once: `%252e` is not `%2e` here.
fn decoded(path: &str, slashes: bool) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(position) = rest.find(['%', '\\']) {
        out.push_str(&rest[..position]);
        rest = &rest[position..];
        let (character, length) = match encoded(rest) {
            None if rest.starts_with('\\') => ('/', 1),
            Some(b'/' | b'\\') if slashes => ('/', 3),
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => (char::from(byte), 3),
            Some(_) | None => ('%', 1),
        };
        out.push(character);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// The byte that `text` begins with as `%2F`.
fn encoded(text: &str) -> Option<u8> {
    let digits = text.strip_prefix('%')?.get(..2)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// `path` starts with a slash. A `..` above the root stays at the root.
fn without_dot_segments(path: &str) -> String {
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

fn one_slash_each(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::PathNormalization::{self, Base, DecodeAndMergeSlashes, MergeSlashes};

    fn normal(how: PathNormalization, target: &str) -> String {
        let mut uri: Uri = target.parse().unwrap();
        how.apply(&mut uri);
        uri.to_string()
    }

    #[test]
    fn dots_are_resolved() {
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
            ("/%41%2f%2E%252e", "/A%2f.%252e"),
            ("/%zz%4/%", "/%zz%4/%"),
            ("/a/../b?c=/../%2e", "/b?c=/../%2e"),
            ("/a?b=/../c\\", "/a?b=/../c\\"),
            ("http://user@host:81/a/../b?c", "http://user@host:81/b?c"),
            ("http://host", "http://host/"),
        ] {
            assert_eq!(normal(Base, target), expected, "{target}");
            assert_eq!(normal(PathNormalization::None, target), target.parse::<Uri>().unwrap().to_string());
        }
    }

    /// The rows of Istio's own test of this setting.
    #[test]
    fn slashes_are_as_the_setting_has_them() {
        for (target, base, merged, decoded) in [
            ("/app/", "/app/", "/app/", "/app/"),
            ("/app/../admin", "/admin", "/admin", "/admin"),
            ("/app//", "/app//", "/app/", "/app/"),
            ("/app/%2f", "/app/%2f", "/app/%2f", "/app/"),
            ("/app%2f/", "/app%2f/", "/app%2f/", "/app/"),
            ("/xyz%30..//abc", "/xyz0..//abc", "/xyz0../abc", "/xyz0../abc"),
            ("/app/%2E./admin", "/admin", "/admin", "/admin"),
            ("/app\\admin", "/app/admin", "/app/admin", "/app/admin"),
            ("/app/\\/\\/\\admin", "/app//////admin", "/app/admin", "/app/admin"),
            ("/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc", "/app/admin/abc"),
            (
                "/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc",
                "/%5Capp%2f%5c%2F..%2fadmin%5c/abc",
                "/%5Capp%2f%5c%2F..%2fadmin%5c/abc",
                "/app/admin/abc",
            ),
            ("/app//../admin", "/app/admin", "/app/admin", "/app/admin"),
            ("/app//../../admin", "/admin", "/admin", "/admin"),
        ] {
            for (how, expected) in [(Base, base), (MergeSlashes, merged), (DecodeAndMergeSlashes, decoded)] {
                assert_eq!(normal(how, target), expected, "{how:?} {target}");
            }
        }
    }
}
