//! Prometheus' text format, version 0.0.4.

use std::fmt::{self, Display, Write as _};

pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A label's value, with what must be escaped.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escaping<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for piece in text.split_inclusive(['\\', '"', '\n']) {
                    let last = piece.len().saturating_sub(1);
                    let (plain, escape) = match piece.as_bytes().last() {
                        Some(b'\\') => (&piece[..last], "\\\\"),
                        Some(b'"') => (&piece[..last], "\\\""),
                        Some(b'\n') => (&piece[..last], "\\n"),
                        _ => (piece, ""),
                    };
                    self.0.write_str(plain)?;
                    self.0.write_str(escape)?;
                }
                Ok(())
            }
        }
        write!(Escaping(formatter), "{}", self.0)
    }
}

/// One family: its head is written when this is made, then sample by sample.
#[derive(Debug)]
pub struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    /// What only grows; `name` ends in `_total`.
    pub fn counter(out: &'a mut String, name: &'static str, help: &str) -> Self {
        Self::new(out, name, "counter", help)
    }

    pub fn gauge(out: &'a mut String, name: &'static str, help: &str) -> Self {
        Self::new(out, name, "gauge", help)
    }

    pub fn histogram(out: &'a mut String, name: &'static str, help: &str) -> Self {
        Self::new(out, name, "histogram", help)
    }

    fn new(out: &'a mut String, name: &'static str, kind: &str, help: &str) -> Self {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        write(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Self { out, name }
    }

    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.out.push_str(self.name);
        for (index, (name, text)) in labels.iter().enumerate() {
            let start = if index == 0 { '{' } else { ',' };
            write(self.out, format_args!("{start}{name}=\"{}\"", Escaped(text)));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        write(self.out, format_args!("{end} {value}\n"));
        self
    }
}

impl Family<'_> {
    /// A sample with labels that are written already. `suffix` follows the name: a histogram has several samples.
    pub(super) fn written(&mut self, suffix: &str, labels: fmt::Arguments<'_>, value: impl Display) {
        let name = self.name;
        write(self.out, format_args!("{name}{suffix}{{{labels}}} {value}\n"));
    }
}

/// A String takes whatever is written.
fn write(out: &mut String, arguments: fmt::Arguments<'_>) {
    let _written = out.write_fmt(arguments).is_ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_samples_and_what_must_be_escaped() {
        let mut out = String::new();
        Family::gauge(&mut out, "a_pods", "Pods\nof \\ this node").sample(&[], 3);
        let mut family = Family::counter(&mut out, "a_total", "All");
        family.sample(&[("x", "1"), ("why", "a \"b\" \\ \n")], 0.5).sample(&[("x", "2")], 7);
        let expected = "# HELP a_pods Pods\\nof \\\\ this node\n# TYPE a_pods gauge\na_pods 3\n\
            # HELP a_total All\n# TYPE a_total counter\n\
            a_total{x=\"1\",why=\"a \\\"b\\\" \\\\ \\n\"} 0.5\na_total{x=\"2\"} 7\n";
        assert_eq!(out, expected);
    }
}
