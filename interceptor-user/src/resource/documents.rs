//! Cuts a text into YAML documents, so that a mistake in one leaves the others alone. Also
//! recognises here-documents, as tutorials wrap their YAML in `kubectl apply -f - <<EOF` … `EOF`, and Markdown, of which
//! such here-documents and the blocks of YAML are read.

use std::sync::Arc;

use super::fence::{Fence, is_markdown};

/// One document and where its text begins in the file.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Document {
    pub(super) text: String,
    /// Lines of the file before it.
    pub(super) lines_before: u32,
    /// Characters taken away at the start of each of its lines.
    pub(super) indent: u32,
    /// What `kubectl apply -n` would have given it.
    pub(super) namespace: Option<Arc<str>>,
}

/// What a text holds.
#[derive(Debug, Default)]
pub(super) struct Split {
    pub(super) documents: Vec<Document>,
    /// Lines (from 1) that held a shell command around them.
    pub(super) command_lines: Vec<u32>,
    /// It is no YAML, but has some.
    pub(super) is_markdown: bool,
}

/// The documents of a file's text.
pub(super) fn split(file: &str, source: &str) -> Split {
    let is_markdown = is_markdown(file, source);
    let mut splitter = Splitter { split: Split { is_markdown, ..Split::default() }, ..Splitter::default() };
    for line in source.strip_prefix('\u{feff}').unwrap_or(source).split_inclusive('\n') {
        splitter.line(line);
    }
    splitter.flush();
    splitter.split
}

struct HereDocument {
    terminator: String,
    /// Leading blanks of the first line with content.
    indent: Option<usize>,
    namespace: Option<Arc<str>>,
}

#[derive(Default)]
struct Splitter {
    split: Split,
    lines_seen: u32,
    text: String,
    text_starts_after: u32,
    here: Option<HereDocument>,
    /// The block of Markdown that it is in.
    fence: Option<Fence>,
}

impl Splitter {
    fn line(&mut self, line: &str) {
        if self.split.is_markdown && self.takes_mark(line) {
            self.lines_seen = self.lines_seen.saturating_add(1);
            return;
        }
        let line = self.fence.as_ref().map_or(line, |fence| fence.unindented(line));
        let content = line.trim_end_matches(['\n', '\r']);
        if let Some(here) = &mut self.here {
            if content.trim() == here.terminator {
                self.flush();
                self.here = None;
                self.command_line();
                return;
            }
            let blanks = content.len() - content.trim_start_matches(' ').len();
            if !content.trim().is_empty() {
                here.indent.get_or_insert(blanks);
            }
            let cut = here.indent.unwrap_or(0).min(blanks);
            self.yaml_line(&line[cut..]);
        } else if let Some(here) = here_document(content).filter(|_| self.may_be_a_command(content)) {
            self.flush();
            self.here = Some(here);
            self.command_line();
        } else if !self.split.is_markdown || self.fence.as_ref().is_some_and(|fence| fence.is_yaml) {
            self.yaml_line(line);
        } else {
            self.lines_seen = self.lines_seen.saturating_add(1);
        }
    }

    /// Begins or ends a block where the line does.
    fn takes_mark(&mut self, line: &str) -> bool {
        match &self.fence {
            Some(fence) if fence.is_closed_by(line) => {
                self.flush();
                (self.fence, self.here) = (None, None);
                true
            }
            Some(_) => false,
            None => {
                self.fence = Fence::opened_by(line).filter(|_| self.here.is_none());
                self.fence.is_some()
            }
        }
    }

    /// Inside a document, an indented line that looks like a command belongs to a text of it.
    fn may_be_a_command(&self, line: &str) -> bool {
        !line.starts_with(' ') || !has_content(&self.text)
    }

    fn yaml_line(&mut self, line: &str) {
        let content = line.trim_end();
        if content == "..." {
            self.flush();
        } else {
            // A `---` at the start of a line begins a document wherever it stands (YAML 1.2, §9.1.2).
            if content == "---" || content.starts_with("--- ") || content.starts_with("---\t") {
                self.flush();
            }
            if self.text.is_empty() {
                self.text_starts_after = self.lines_seen;
            }
            self.text.push_str(line);
        }
        self.lines_seen = self.lines_seen.saturating_add(1);
    }

    fn command_line(&mut self) {
        self.lines_seen = self.lines_seen.saturating_add(1);
        self.split.command_lines.push(self.lines_seen);
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        if !has_content(&text) {
            return;
        }
        let here = self.here.as_ref();
        // What documents about resources show of other files.
        if self.split.is_markdown && here.is_none() && !may_be_a_resource(&text) {
            return;
        }
        let of_fence = self.fence.as_ref().map_or(0, |fence| fence.indent);
        let indent = of_fence + here.and_then(|here| here.indent).unwrap_or(0);
        self.split.documents.push(Document {
            text,
            lines_before: self.text_starts_after,
            indent: u32::try_from(indent).unwrap_or(0),
            namespace: here.and_then(|here| here.namespace.clone()),
        });
    }
}

/// Whether there is more than comments, directives and the mark of a document's start.
fn has_content(text: &str) -> bool {
    let is_content =
        |line: &str| !(line.is_empty() || line == "---" || line.starts_with('#') || line.starts_with('%'));
    text.lines().map(str::trim).any(is_content)
}

fn may_be_a_resource(text: &str) -> bool {
    let says = |line: &str| ["apiVersion", "kind:", "{"].iter().any(|start| line.starts_with(start));
    text.lines().any(|line| says(line.trim_start()))
}

/// `kubectl apply -f - <<EOF`, `cat <<'EOF' | kubectl apply -f -`, each also after a prompt.
fn here_document(line: &str) -> Option<HereDocument> {
    let command = line.trim_start().trim_start_matches(['$', '#', '❯', '%']).trim_start();
    if !(command.starts_with("kubectl ") || command.starts_with("cat ") || command.starts_with("istioctl ")) {
        return None;
    }
    let (_, after) = command.split_once("<<")?;
    let after = after.trim_start_matches('-').trim_start();
    let terminator: String = after
        .chars()
        .filter(|c| !matches!(c, '\'' | '"'))
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    if terminator.is_empty() {
        return None;
    }
    let mut words = command.split_whitespace();
    let mut namespace = None;
    while let Some(word) = words.next() {
        if matches!(word, "-n" | "--namespace") {
            namespace = words.next().map(Arc::from);
        } else if let Some(name) = word.strip_prefix("--namespace=").or_else(|| word.strip_prefix("-n=")) {
            namespace = Some(Arc::from(name));
        }
    }
    Some(HereDocument { terminator, indent: None, namespace })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<(String, u32, u32)> {
        split("a.yaml", source).documents.into_iter().map(|d| (d.text, d.lines_before, d.indent)).collect()
    }

    #[test]
    fn documents_keep_their_place() {
        assert_eq!(
            texts("%YAML 1.2\n---\na: 1\n---\n# nothing\n---\nb: |\n  x\n...\nc: 2"),
            [("---\na: 1\n".into(), 1, 0), ("---\nb: |\n  x\n".into(), 5, 0), ("c: 2".into(), 9, 0)]
        );
    }

    #[test]
    fn here_documents_are_unwrapped() {
        let source = "  $ kubectl apply -n web -f - <<'EOF'\n  a: 1\n  ---\n  b:\n    c: 2\n  EOF\nd: 3\n";
        let Split { documents, command_lines, .. } = split("a.yaml", source);
        assert_eq!(
            texts(source),
            [("a: 1\n".into(), 1, 2), ("---\nb:\n  c: 2\n".into(), 2, 2), ("d: 3\n".into(), 6, 0)]
        );
        assert_eq!(command_lines, [1, 6]);
        assert_eq!(documents[0].namespace.as_deref(), Some("web"));
        assert_eq!(documents[2].namespace, None);
        // A script in a ConfigMap is a text like any other.
        let script = "data:\n  run: |\n    kubectl apply -f - <<EOF\n    a: 1\n    EOF\n";
        assert_eq!(texts(script), [(script.into(), 0, 0)]);
        assert_eq!(texts("cat << EOF | kubectl apply -f -\na: 1\nEOF"), [("a: 1\n".into(), 1, 0)]);
    }

    #[test]
    fn of_markdown_blocks_and_here_documents_are_read() {
        let source = "\
# Title: a
text: `b` [
```yaml
apiVersion: 1
---
kind: 2
```
- item
  ```yml title=x
  apiVersion: 3
  ```
  ```console
  $ kubectl apply -f - <<EOF
  a: 4
  EOF
  HTTP/2 200
  ```
```bash
cat <<EOF | kubectl apply -f -
b: 5
```
kind: prose
```yaml
$ kubectl apply -f - <<EOF
c: 6
EOF
```
~~~~yaml
kind: 7
```
~~~
~~~~
```yaml
proxy:
  part: of another file
```
```yaml
kind: 8
";
        let expected = [
            ("apiVersion: 1\n", 3, 0),
            ("---\nkind: 2\n", 4, 0),
            ("apiVersion: 3\n", 9, 2),
            ("a: 4\n", 13, 2),
            ("b: 5\n", 19, 0),
            ("c: 6\n", 24, 0),
            ("kind: 7\n```\n~~~\n", 28, 0),
            ("kind: 8\n", 37, 0),
        ];
        let found: Vec<_> = split("a.md", source).documents.into_iter().collect();
        let found: Vec<_> = found.iter().map(|d| (&*d.text, d.lines_before, d.indent)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_markdown() {
        for (file, source, expected) in [
            ("a.md", "kind: x\n", true),
            ("docs/A.Markdown", "", true),
            ("-", "# Title\n\n```yaml\nkind: x\n```\n", true),
            ("a.txt", "```sh\nx\n```\n", true),
            // Marks alone are a slip, those inside are a text of the YAML's.
            ("a.yaml", "kind: x\n```\n", false),
            ("a.yaml", "data:\n  readme: |\n    ```yaml\n    a: 1\n    ```\n", false),
            ("md", "kind: x\n", false),
        ] {
            assert_eq!(split(file, source).is_markdown, expected, "{file} {source:?}");
        }
    }
}
