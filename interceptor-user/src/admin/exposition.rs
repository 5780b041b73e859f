//! Prometheus' text format, version 0.0.4.

use std::fmt::{self, Display, Write as _};

pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

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

    fn new(out: &'a mut String, name: &'static str, kind: &str, help: &str) -> Self {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        write(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Self { out, name }
    }

    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.out.push_str(self.name);
        for (index, (name, text)) in labels.iter().enumerate() {
            let start = if index == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write(self.out, format_args!("{start}{name}=\"{text}\""));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        write(self.out, format_args!("{end} {value}\n"));
        self
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
