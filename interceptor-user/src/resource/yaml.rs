//! Reads one YAML (or JSON) document into a tree whose nodes know their place. Bounded: a document
//! nests at most [`DEPTH_MAX`] deep and has at most [`NODES_MAX`] nodes, aliases counted as often as
//! they are used.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::diagnostic::Position;
use super::documents::Document;

pub(super) const DEPTH_MAX: usize = 64;
pub(super) const NODES_MAX: usize = 1_000_000;
/// Keys of one mapping that are compared with each other sooner than hashed.
const FEW_KEYS: usize = 16;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    /// Unquoted: a number, a truth value or a text.
    Plain(Box<str>),
    /// Quoted or block: always a text.
    Text(Box<str>),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Box<str>,
    pub(super) position: Position,
    pub(super) value: Node,
}

/// Why a document can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) position: Position,
    pub(super) message: String,
}

/// A document's root, and the keys that stand twice in one mapping.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Node,
    pub(super) duplicate_keys: Vec<(Box<str>, Position)>,
}

pub(super) fn read(document: &Document) -> Result<Tree, Mistake> {
    let json = document.text.trim_start().starts_with(['{', '[']);
    // JSON may be indented by tabs, YAML may not.
    let text = if json { document.text.replace('\t', " ") } else { document.text.clone() };
    let builder =
        Builder { document, open: Vec::new(), anchors: HashMap::new(), nodes: 0, duplicate_keys: Vec::new() };
    builder.run(Parser::new_from_str(&text))
}

enum Open {
    Sequence {
        node: Vec<Node>,
        position: Position,
        anchor: usize,
        nodes_before: usize,
    },
    Mapping {
        node: Vec<Entry>,
        key: Option<(Box<str>, Position)>,
        position: Position,
        anchor: usize,
        nodes_before: usize,
    },
}

struct Builder<'a> {
    document: &'a Document,
    open: Vec<Open>,
    /// Each anchored node with its size.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    duplicate_keys: Vec<(Box<str>, Position)>,
}

impl Builder<'_> {
    fn run(mut self, mut parser: Parser<'_, StrInput<'_>>) -> Result<Tree, Mistake> {
        let mut root = None;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| Mistake {
                position: self.position(&Span::empty(*error.marker())),
                message: syntax_message(error.info(), &self.document.text, error.marker().line()),
            })?;
            if let Some(node) = self.event(event, &span)?
                && let Some(node) = self.attach(node)?
            {
                root = Some(node);
            }
        }
        let root = root.unwrap_or(Node { position: Position::default(), value: Value::Null });
        Ok(Tree { root, duplicate_keys: self.duplicate_keys })
    }

    /// A node that this event completes.
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<Option<Node>, Mistake> {
        let position = self.position(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, position)?;
                let node = Node { position, value: scalar(&text, style, tag.as_deref()) };
                self.remember(anchor, &node, 1);
                Ok(Some(node))
            }
            Event::Alias(anchor) => {
                let (mut node, size) = self.anchors.get(&anchor).cloned().ok_or_else(|| Mistake {
                    position,
                    message: "this alias names an anchor that encloses it or does not exist".into(),
                })?;
                self.count(size, position)?;
                node.position = position;
                Ok(Some(node))
            }
            Event::SequenceStart(anchor, _) => {
                self.count(1, position)?;
                self.enter(
                    Open::Sequence { node: Vec::new(), position, anchor, nodes_before: self.nodes },
                    position,
                )?;
                Ok(None)
            }
            Event::MappingStart(anchor, _) => {
                self.count(1, position)?;
                let nodes_before = self.nodes;
                self.enter(
                    Open::Mapping { node: Vec::new(), key: None, position, anchor, nodes_before },
                    position,
                )?;
                Ok(None)
            }
            Event::SequenceEnd | Event::MappingEnd => self.leave(),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(None),
        }
    }

    fn enter(&mut self, open: Open, position: Position) -> Result<(), Mistake> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Mistake { position, message: format!("nested deeper than {DEPTH_MAX} levels") });
        }
        self.open.push(open);
        Ok(())
    }

    fn leave(&mut self) -> Result<Option<Node>, Mistake> {
        let (value, position, anchor, nodes_before) = match self.open.pop() {
            Some(Open::Sequence { node, position, anchor, nodes_before }) => {
                (Value::Sequence(node), position, anchor, nodes_before)
            }
            Some(Open::Mapping { node, position, anchor, nodes_before, .. }) => {
                let merged = self.merge(node)?;
                let merged = self.without_duplicates(merged);
                (Value::Mapping(merged), position, anchor, nodes_before)
            }
            None => return Ok(None),
        };
        let node = Node { position, value };
        self.remember(anchor, &node, self.nodes - nodes_before + 1);
        Ok(Some(node))
    }

    /// Puts a finished node where it belongs; gives it back when it is the root.
    fn attach(&mut self, node: Node) -> Result<Option<Node>, Mistake> {
        match self.open.last_mut() {
            None => Ok(Some(node)),
            Some(Open::Sequence { node: items, .. }) => {
                items.push(node);
                Ok(None)
            }
            Some(Open::Mapping { node: entries, key, .. }) => {
                let Some((key, position)) = key.take() else {
                    let text = match node.value {
                        Value::Plain(text) | Value::Text(text) => text,
                        Value::Null => "null".into(),
                        Value::Sequence(_) | Value::Mapping(_) => {
                            let line = node.position.line.saturating_sub(self.document.lines_before);
                            let message = template_message(line_of(
                                &self.document.text,
                                usize::try_from(line).unwrap_or_default(),
                            ))
                            .unwrap_or("a key must be a plain name, not a list or a mapping")
                            .into();
                            return Err(Mistake { position: node.position, message });
                        }
                    };
                    *key = Some((text, node.position));
                    return Ok(None);
                };
                entries.push(Entry { key, position, value: node });
                Ok(None)
            }
        }
    }

    /// The first of each key stays.
    fn without_duplicates(&mut self, mut entries: Vec<Entry>) -> Vec<Entry> {
        if entries.len() <= FEW_KEYS {
            let repeats =
                |(index, entry): (usize, &Entry)| entries[..index].iter().any(|other| other.key == entry.key);
            if !entries.iter().enumerate().any(repeats) {
                return entries;
            }
        }
        let mut seen = HashSet::with_capacity(entries.len());
        let keep: Vec<bool> = entries.iter().map(|entry| seen.insert(&*entry.key)).collect();
        if keep.iter().any(|keep| !keep) {
            let repeated = entries.iter().zip(&keep).filter(|(_, keep)| !**keep);
            self.duplicate_keys.extend(repeated.map(|(entry, _)| (entry.key.clone(), entry.position)));
            let mut keep = keep.into_iter();
            entries.retain(|_| keep.next().unwrap_or(true));
        }
        entries
    }

    /// `<<: *anchor`: the keys of the named mappings that are not given here.
    fn merge(&mut self, mut entries: Vec<Entry>) -> Result<Vec<Entry>, Mistake> {
        while let Some(at) = entries.iter().position(|entry| &*entry.key == "<<") {
            let merged = entries.remove(at);
            let sources = match merged.value.value {
                Value::Sequence(sources) => sources,
                Value::Null | Value::Plain(_) | Value::Text(_) | Value::Mapping(_) => vec![merged.value],
            };
            for source in sources {
                let Value::Mapping(source) = source.value else {
                    let message = "`<<` takes a mapping or a list of mappings".into();
                    return Err(Mistake { position: merged.position, message });
                };
                let own: HashSet<Box<str>> = entries.iter().map(|entry| entry.key.clone()).collect();
                entries.extend(source.into_iter().filter(|entry| !own.contains(&entry.key)));
            }
        }
        Ok(entries)
    }

    fn remember(&mut self, anchor: usize, node: &Node, size: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
    }

    fn count(&mut self, nodes: usize, position: Position) -> Result<(), Mistake> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            let message =
                format!("more than {NODES_MAX} values in one document, aliases counted at each use");
            return Err(Mistake { position, message });
        }
        Ok(())
    }

    fn position(&self, span: &Span) -> Position {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let one_line = span.start.line() == span.end.line();
        Position {
            line: number(span.start.line()).saturating_add(self.document.lines_before),
            column: number(span.start.col()).saturating_add(1).saturating_add(self.document.indent),
            length: if one_line { number(span.len()).max(1) } else { 1 },
        }
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let is_text = style != ScalarStyle::Plain
        || tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    if is_text {
        return Value::Text(text.into());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        _ => Value::Plain(text.into()),
    }
}

/// The parser's words, or ours where its words don't help.
fn syntax_message(info: &str, text: &str, line: usize) -> String {
    let line = line_of(text, line);
    let blanks = line.len() - line.trim_start().len();
    if line[..blanks].contains('\t') {
        return "a tab is not allowed as indentation: use spaces".into();
    }
    if let Some(message) = template_message(line) {
        return message.into();
    }
    if info.contains("unknown anchor") {
        return "a value that begins with `*` refers to an anchor, and there is none of this name: quote what is meant as \
                text, as in \"*.example.com\""
            .into();
    }
    format!("this is not YAML: {info}")
}

fn line_of(text: &str, line: usize) -> &str {
    text.lines().nth(line.saturating_sub(1)).unwrap_or_default()
}

/// Charts are given as they are, and can't be read so.
fn template_message(line: &str) -> Option<&'static str> {
    let (_, expression) = line.split_once("{{")?;
    expression
        .contains("}}")
        .then_some("`{{ … }}` is no YAML: render the template first, as with `helm template`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tree, Mistake> {
        read(&Document { text: text.into(), lines_before: 0, indent: 0, namespace: None })
    }

    /// The tree as compact text.
    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".into(),
            Value::Plain(text) => text.to_string(),
            Value::Text(text) => format!("{text:?}"),
            Value::Sequence(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(",")),
            Value::Mapping(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|e| format!("{}={}", e.key, show(&e.value))).collect();
                format!("{{{}}}", entries.join(","))
            }
        }
    }

    #[test]
    fn documents_become_trees() {
        for (text, expected) in [
            ("a: 1\nb: [x, 'y', ~]\n", "{a=1,b=[x,\"y\",null]}"),
            ("{\n\t\"a\": {\"b\": true}\n}", "{a={b=true}}"),
            ("a: &x {p: 1}\nb:\n  <<: *x\n  q: 2\nc: *x\n", "{a={p=1},b={q=2,p=1},c={p=1}}"),
            ("a: !!str 5\nb: |\n  x\n", "{a=\"5\",b=\"x\\n\"}"),
            ("", "null"),
        ] {
            let tree = parse(text).unwrap_or_else(|mistake| panic!("{text}: {mistake:?}"));
            assert_eq!(show(&tree.root), expected, "{text}");
        }
    }

    #[test]
    fn places_are_right() {
        let document =
            Document { text: "a:\n  bcd: xyz\n".into(), lines_before: 10, indent: 2, namespace: None };
        let tree = read(&document).unwrap();
        let Value::Mapping(root) = &tree.root.value else { panic!("not a mapping") };
        let Value::Mapping(inner) = &root[0].value.value else { panic!("not a mapping") };
        assert_eq!(inner[0].position, Position { line: 12, column: 5, length: 3 });
        assert_eq!(inner[0].value.position, Position { line: 12, column: 10, length: 3 });
    }

    #[test]
    fn duplicate_keys_are_reported_and_the_first_stands() {
        let tree = parse("a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(show(&tree.root), "{a=1,b=2}");
        assert_eq!(tree.duplicate_keys, [("a".into(), Position { line: 3, column: 1, length: 1 })]);
    }

    #[test]
    fn mistakes_have_a_place() {
        let mut laughs = String::from("l0: &l0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let alias = format!("*l{}", level - 1);
            laughs.push_str(&format!("l{level}: &l{level} [{}]\n", vec![alias; 10].join(",")));
        }
        for (text, line, column, message) in [
            ("a:\n\tb: 1\n", 2, 2, "tab"),
            ("a: [1\nb: 2\n", 2, 2, "not YAML"),
            ("a: *nowhere\n", 1, 4, "refers to an anchor"),
            ("a: &a [*a]\n", 1, 8, "alias"),
            ("? [a]\n: b\n", 1, 3, "key"),
            (&"[".repeat(100), 1, 65, "deeper"),
            (&laughs, 6, 38, "values in one document"),
        ] {
            let mistake = parse(text).expect_err(text);
            assert_eq!(
                (mistake.position.line, mistake.position.column),
                (line, column),
                "{text}: {mistake:?}"
            );
            assert!(mistake.message.contains(message), "{text}: {mistake:?}");
        }
    }
}
