//! Cuts a text into YAML documents, so that a mistake in one leaves the others alone. Also
//! recognises here-documents, as tutorials wrap their YAML in `kubectl apply -f - <<EOF` … `EOF`.

use std::sync::Arc;

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

/// The documents of a text, and the lines (from 1) that held a shell command around them.
pub(super) fn split(source: &str) -> (Vec<Document>, Vec<u32>) {
    let mut splitter = Splitter::default();
    for line in source.strip_prefix('\u{feff}').unwrap_or(source).split_inclusive('\n') {
        splitter.line(line);
    }
    splitter.flush();
    (splitter.documents, splitter.command_lines)
}

struct HereDocument {
    terminator: String,
    /// Leading blanks of the first line with content.
    indent: Option<usize>,
    namespace: Option<Arc<str>>,
}

#[derive(Default)]
struct Splitter {
    documents: Vec<Document>,
    command_lines: Vec<u32>,
    lines_seen: u32,
    text: String,
    text_starts_after: u32,
    here: Option<HereDocument>,
}

impl Splitter {
    fn line(&mut self, line: &str) {
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
        } else {
            self.yaml_line(line);
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
        self.command_lines.push(self.lines_seen);
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        if !has_content(&text) {
            return;
        }
        let here = self.here.as_ref();
        let indent =
            here.and_then(|here| here.indent).and_then(|indent| u32::try_from(indent).ok()).unwrap_or(0);
        self.documents.push(Document {
            text,
            lines_before: self.text_starts_after,
            indent,
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
        split(source).0.into_iter().map(|d| (d.text, d.lines_before, d.indent)).collect()
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
        let (documents, commands) = split(source);
        assert_eq!(
            texts(source),
            [("a: 1\n".into(), 1, 2), ("---\nb:\n  c: 2\n".into(), 2, 2), ("d: 3\n".into(), 6, 0)]
        );
        assert_eq!(commands, [1, 6]);
        assert_eq!(documents[0].namespace.as_deref(), Some("web"));
        assert_eq!(documents[2].namespace, None);
        // A script in a ConfigMap is a text like any other.
        let script = "data:\n  run: |\n    kubectl apply -f - <<EOF\n    a: 1\n    EOF\n";
        assert_eq!(texts(script), [(script.into(), 0, 0)]);
        assert_eq!(texts("cat << EOF | kubectl apply -f -\na: 1\nEOF"), [("a: 1\n".into(), 1, 0)]);
    }
}
