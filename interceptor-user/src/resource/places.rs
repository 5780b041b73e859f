//! Finds where a field is written, by its path, in a text that was read before. For findings that know their
//! field and not its place.

use std::cell::OnceCell;

use super::diagnostic::Position;
use super::documents::{self, Document};
use super::yaml::{self, Node, Value};

/// The documents of a text; each is read when it is asked about for the first time.
#[derive(Debug)]
pub struct Places {
    documents: Vec<(Document, OnceCell<Option<Node>>)>,
}

impl Places {
    pub fn new(file: &str, source: &str) -> Self {
        let documents = documents::split(file, source).documents;
        Self { documents: documents.into_iter().map(|document| (document, OnceCell::new())).collect() }
    }

    /// The place of `path` (`spec.hosts[0]`, `metadata.annotations[a.b/c]`, `x.portLevelSettings[port 80]`) in the resource that stands at or
    /// around `near`: of its value, or of its name when the value is a list, a mapping or nothing.
    pub fn find(&self, near: Position, path: &str) -> Option<Position> {
        let (name, node) = walk(self.resource(near)?, path)?;
        let whole = match &node.value {
            Value::Plain(_) | Value::Text(_) => None,
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => name,
        };
        Some(whole.unwrap_or(node.position))
    }

    /// The text at `path` in that resource.
    pub fn text(&self, near: Position, path: &str) -> Option<&str> {
        match &walk(self.resource(near)?, path)?.1.value {
            Value::Plain(text) | Value::Text(text) => Some(text),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    fn resource(&self, near: Position) -> Option<&Node> {
        let after = self.documents.partition_point(|(document, _)| document.lines_before < near.line);
        let (document, tree) = self.documents.get(after.checked_sub(1)?)?;
        let tree = tree.get_or_init(|| yaml::read(document).ok().map(|tree| tree.root));
        Some(resource_near(tree.as_ref()?, near))
    }
}

/// The root, or an item of a list.
fn resource_near(node: &Node, near: Position) -> &Node {
    let Value::Mapping(entries) = &node.value else { return node };
    let is_list = entries.iter().any(|entry| {
        &*entry.key == "kind"
            && matches!(&entry.value.value, Value::Plain(kind) | Value::Text(kind) if kind.ends_with("List"))
    });
    let items = entries.iter().find(|entry| is_list && &*entry.key == "items");
    let Some(Value::Sequence(items)) = items.map(|entry| &entry.value.value) else { return node };
    let place = |position: Position| (position.line, position.column);
    let after = items.partition_point(|item| place(item.position) <= place(near));
    match after.checked_sub(1).and_then(|index| items.get(index)) {
        Some(item) => resource_near(item, near),
        None => node,
    }
}

/// The node at a path, and where its name stands.
fn walk<'a>(node: &'a Node, path: &str) -> Option<(Option<Position>, &'a Node)> {
    let mut node = node;
    let mut name = None;
    for step in steps(path) {
        match &node.value {
            Value::Mapping(entries) => {
                let entry = entries.iter().find(|entry| *entry.key == *step)?;
                name = Some(entry.position);
                node = &entry.value;
            }
            Value::Sequence(items) => {
                name = None;
                node = match step.strip_prefix("port ") {
                    Some(port) => items.iter().find(|item| is_for_port(item, port))?,
                    None => items.get(step.parse::<usize>().ok()?)?,
                };
            }
            Value::Null | Value::Plain(_) | Value::Text(_) => return None,
        }
    }
    Some((name, node))
}

/// An item of portLevelSettings.
fn is_for_port(item: &Node, port: &str) -> bool {
    let number = walk(item, "port.number").map(|(_, node)| &node.value);
    matches!(number, Some(Value::Plain(text) | Value::Text(text)) if **text == *port)
}

/// `a.b[0].c[x.y]` as `a`, `b`, `0`, `c`, `x.y`.
fn steps(path: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let step = match rest.strip_prefix('[') {
            Some(inside) => {
                let (step, after) = inside.split_once(']').unwrap_or((inside, ""));
                rest = after;
                step
            }
            None => {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (step, after) = rest.split_at(end);
                rest = after;
                step
            }
        };
        steps.push(step);
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_path() {
        let text = "a: 1\n---\nkind: List\nitems:\n- spec:\n    hosts: [x, yz]\n    none:\n    map: {k.l/m: v}\n    p: [{}, {port: {number: 80}, tls: {}}]\n";
        let places = Places::new("a.yaml", text);
        let item = Position { line: 5, column: 3, length: 1 };
        for (path, expected) in [
            ("spec.hosts[1]", Some((6, 16, 2))),
            ("spec.hosts", Some((6, 5, 5))),
            ("spec.none", Some((7, 5, 4))),
            ("spec.map[k.l/m]", Some((8, 18, 1))),
            ("spec.p[port 80].tls", Some((9, 34, 3))),
            ("spec.p[port 81].tls", None),
            ("spec.hosts[2]", None),
            ("spec.hosts.x", None),
            ("nowhere[", None),
        ] {
            let found = places.find(item, path).map(|place| (place.line, place.column, place.length));
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(places.find(Position { line: 1, column: 1, length: 1 }, "a").map(|p| p.column), Some(4));
        assert_eq!(places.find(Position::default(), "a"), None);
        assert_eq!(places.text(Position { line: 7, column: 9, length: 1 }, "spec.map[k.l/m]"), Some("v"));
    }
}
