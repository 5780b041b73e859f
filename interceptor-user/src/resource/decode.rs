//! Reads typed values out of a tree. Every field is read through here, so that every mistake becomes a
//! finding with its place and path, several in one resource, and fields nobody asked for are noticed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::code::{self, Code};
use super::diagnostic::{Diagnostic, Level, Origin, Position};
use super::duration;
use super::intern::intern;
use super::object::Object;
use super::words::{describe, did_you_mean, is_number_or_truth};
use super::yaml::{Entry, Node, Value};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    pub value: T,
    pub position: Position,
}

/// More findings than this about one resource are counted, not kept.
const FINDINGS_MAX: usize = 100;

/// Collects the findings of one resource.
#[derive(Debug)]
pub(super) struct Reader {
    file: Arc<str>,
    resource: RefCell<Arc<str>>,
    findings: RefCell<Vec<Diagnostic>>,
    wrong: Cell<bool>,
    /// A key stands twice somewhere in it: nobody knows what is meant.
    ambiguous: Cell<bool>,
    /// Errors are warnings here.
    lenient: Cell<bool>,
    not_kept: Cell<usize>,
}

impl Reader {
    pub(super) fn new(file: &Arc<str>) -> Self {
        Self {
            file: Arc::clone(file),
            resource: RefCell::new("".into()),
            findings: RefCell::default(),
            wrong: Cell::new(false),
            ambiguous: Cell::new(false),
            lenient: Cell::new(false),
            not_kept: Cell::new(0),
        }
    }

    /// What findings from here on are about.
    pub(super) fn name_resource(&self, name: Arc<str>) {
        *self.resource.borrow_mut() = name;
    }

    /// From here on an error is a warning: Kubernetes has accepted or will refuse what is read here.
    pub(super) fn be_lenient(&self) {
        self.lenient.set(true);
    }

    /// A key stands twice in what is read here, which was told.
    pub(super) fn be_ambiguous(&self) {
        self.ambiguous.set(true);
        self.wrong.set(true);
    }

    /// A finding with the code of its level.
    pub(super) fn report(&self, level: Level, position: Position, field: &str, message: String) {
        let level = if self.lenient.get() { level.max(Level::Warning) } else { level };
        let code = match level {
            Level::Error => &code::IST0106,
            Level::Warning => &code::IST0133,
            Level::Info => &code::EGR0118,
        };
        self.report_coded(code, level, position, field, message);
    }

    pub(super) fn report_coded(
        &self,
        code: &'static Code,
        level: Level,
        position: Position,
        field: &str,
        message: String,
    ) {
        if level == Level::Error {
            self.wrong.set(true);
        }
        if self.is_full() {
            self.not_kept.set(self.not_kept.get() + 1);
            return;
        }
        self.findings.borrow_mut().push(Diagnostic {
            level,
            code: Some(code.id),
            origin: Some(Origin { file: Arc::clone(&self.file), position }),
            resource: Arc::clone(&self.resource.borrow()),
            field: field.to_owned(),
            message,
            effect: String::new(),
            mend: String::new(),
        });
    }

    pub(super) fn is_full(&self) -> bool {
        self.findings.borrow().len() >= FINDINGS_MAX
    }

    /// Whether an error was reported.
    pub(super) fn is_wrong(&self) -> bool {
        self.wrong.get()
    }

    pub(super) fn into_findings(self) -> Vec<Diagnostic> {
        let mut findings = self.findings.into_inner();
        let not_kept = self.not_kept.get();
        if let Some(last) = findings.last().cloned().filter(|_| not_kept > 0) {
            let message = format!("{not_kept} more like these");
            let code = Some(code::EGR0118.id);
            findings.push(Diagnostic { level: Level::Info, code, field: String::new(), message, ..last });
        }
        findings
    }
}

/// One value with its path.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) reader: &'a Reader,
    pub(super) node: &'a Node,
    pub(super) path: String,
}

impl<'a> Field<'a> {
    pub(super) fn root(reader: &'a Reader, node: &'a Node) -> Self {
        Self { reader, node, path: String::new() }
    }

    pub(super) fn position(&self) -> Position {
        self.node.position
    }

    /// The same value, its findings going to another reader.
    pub(super) fn in_reader<'b>(&self, reader: &'b Reader) -> Field<'b>
    where
        'a: 'b,
    {
        Field { reader, node: self.node, path: self.path.clone() }
    }

    /// What findings from here on are about.
    pub(super) fn name_resource(&self, name: Arc<str>) {
        self.reader.name_resource(name);
    }

    /// From here on what is wrong is a warning.
    pub(super) fn be_lenient(&self) {
        self.reader.be_lenient();
    }

    pub(super) fn error(&self, message: impl Into<String>) {
        self.reader.report(Level::Error, self.node.position, &self.path, message.into());
    }

    pub(super) fn warning(&self, message: impl Into<String>) {
        self.reader.report(Level::Warning, self.node.position, &self.path, message.into());
    }

    /// A warning with a code of its own.
    pub(super) fn coded_warning(&self, code: &'static Code, message: impl Into<String>) {
        self.reader.report_coded(code, Level::Warning, self.node.position, &self.path, message.into());
    }

    pub(super) fn info(&self, message: impl Into<String>) {
        self.reader.report(Level::Info, self.node.position, &self.path, message.into());
    }

    /// Whether an error was reported for this resource so far.
    pub(super) fn is_wrong(&self) -> bool {
        self.reader.is_wrong()
    }

    /// Whether a key stands twice somewhere in this resource.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.reader.ambiguous.get()
    }

    /// The text, if it is one; nothing is reported.
    pub(super) fn peek_text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Plain(text) | Value::Text(text) => Some(text),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// Whether a mapping `name`, at any depth, satisfies `is_it`, which is given the text of its field
    /// `inner`; nothing is reported.
    pub(super) fn contains(&self, name: &str, inner: &str, is_it: &dyn Fn(Option<&str>) -> bool) -> bool {
        contains(self.node, name, inner, is_it)
    }

    fn expected<T>(&self, what: &str) -> Option<T> {
        self.error(format!("expected {what}, found {}", describe(&self.node.value)));
        None
    }

    pub(super) fn text(&self) -> Option<Arc<str>> {
        match &self.node.value {
            Value::Text(text) => Some(intern(text)),
            Value::Plain(text) if is_number_or_truth(text) => {
                self.error(format!(
                    "expected text, found {}: write it in quotes: \"{text}\"",
                    describe(&self.node.value)
                ));
                None
            }
            Value::Plain(text) => Some(intern(text)),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => self.expected("text"),
        }
    }

    /// Whether [`Self::text`] would find one; nothing is reported.
    pub(super) fn is_text(&self) -> bool {
        match &self.node.value {
            Value::Text(_) => true,
            Value::Plain(text) => !is_number_or_truth(text),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => false,
        }
    }

    /// A whole number; also in quotes, as protobuf's JSON allows.
    pub(super) fn integer(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let what = format!("a whole number from {} to {}", range.start(), range.end());
        let (Value::Plain(text) | Value::Text(text)) = &self.node.value else { return self.expected(&what) };
        match text.parse::<i64>() {
            Ok(number) if range.contains(&number) => Some(number),
            Ok(_) | Err(_) => self.expected(&what),
        }
    }

    pub(super) fn unsigned(&self) -> Option<u32> {
        self.integer(0..=i64::from(u32::MAX)).and_then(|number| u32::try_from(number).ok())
    }

    /// A number that is not negative, in thousandths.
    pub(super) fn thousandths(&self) -> Option<u32> {
        let what = "a number, such as 10 or 1.5";
        let (Value::Plain(text) | Value::Text(text)) = &self.node.value else { return self.expected(what) };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let fits = !whole.is_empty() && digits(whole) && digits(fraction);
        let thousandths = fits.then(|| format!("{whole}{:0<3.3}", fraction).parse().ok()).flatten();
        thousandths.or_else(|| self.expected(what))
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.integer(1..=65535).and_then(|number| u16::try_from(number).ok())
    }

    /// A port where 0 is as good as absent, as protobuf has it.
    pub(super) fn port_or_zero(&self) -> Option<u16> {
        if self.peek_text() == Some("0") { None } else { self.port() }
    }

    /// A number, whole or not.
    pub(super) fn number(&self) -> Option<f64> {
        let (Value::Plain(text) | Value::Text(text)) = &self.node.value else {
            return self.expected("a number");
        };
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Some(number),
            Ok(_) | Err(_) => self.expected("a number"),
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match &self.node.value {
            Value::Plain(text) => match &**text {
                "true" | "True" | "TRUE" => Some(true),
                "false" | "False" | "FALSE" => Some(false),
                _ => self.expected("true or false"),
            },
            Value::Null | Value::Text(_) | Value::Sequence(_) | Value::Mapping(_) => {
                self.expected("true or false")
            }
        }
    }

    /// `3s`, `100ms`, `1h2m`.
    pub(super) fn duration(&self) -> Option<Duration> {
        let what = "a duration such as 3s, 100ms or 1h30m";
        let (Value::Plain(text) | Value::Text(text)) = &self.node.value else { return self.expected(what) };
        duration::parse(text).or_else(|| self.expected(what))
    }

    /// One of `names`, exactly as spelled there.
    pub(super) fn one_of<T: Copy>(&self, names: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = names.iter().find(|(name, _)| *name == &*text) {
            return Some(*value);
        }
        let known: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        self.error(format!("`{text}` is not one of {}{}", known.join(", "), did_you_mean(&text, &known)));
        None
    }

    /// Each element through `decode`; those that it refuses are left out.
    pub(super) fn list<T>(&self, mut decode: impl FnMut(Field<'a>) -> Option<T>) -> Vec<T> {
        let Value::Sequence(items) = &self.node.value else {
            return self.expected("a list").unwrap_or_default();
        };
        let field =
            |(index, node)| Field { reader: self.reader, node, path: format!("{}[{index}]", self.path) };
        let mut list: Vec<T> = items.iter().enumerate().map(field).filter_map(&mut decode).collect();
        // Room for four is made at first, and most lists have one element: there are thousands of them.
        list.shrink_to_fit();
        list
    }

    pub(super) fn texts(&self) -> Vec<Arc<str>> {
        self.list(|item| item.text())
    }

    pub(super) fn object(&self) -> Option<Object<'a>> {
        let entries = match &self.node.value {
            Value::Mapping(entries) => &entries[..],
            Value::Null => &[],
            Value::Plain(_) | Value::Text(_) | Value::Sequence(_) => {
                return self.expected("a mapping of fields");
            }
        };
        let unknown_level = Cell::new(Some(Level::Warning));
        Some(Object { field: self.clone(), entries, known: RefCell::default(), unknown_level })
    }

    /// How many values a list or mapping has; nothing is reported.
    pub(super) fn size(&self) -> Option<usize> {
        match &self.node.value {
            Value::Sequence(items) => Some(items.len()),
            Value::Mapping(entries) => Some(entries.len()),
            Value::Null | Value::Plain(_) | Value::Text(_) => None,
        }
    }

    /// Each entry of a mapping with free keys.
    pub(super) fn entries(&self) -> Vec<(Spanned<&'a str>, Field<'a>)> {
        let Value::Mapping(entries) = &self.node.value else {
            return self.expected("a mapping").unwrap_or_default();
        };
        entries
            .iter()
            .map(|entry| {
                let path = format!("{}[{}]", self.path, entry.key);
                let key = Spanned { value: &*entry.key, position: entry.position };
                (key, Field { reader: self.reader, node: &entry.value, path })
            })
            .collect()
    }

    /// A mapping from text to text: labels.
    pub(super) fn text_map(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        self.entries()
            .into_iter()
            .filter_map(|(key, value)| Some((Arc::from(key.value), value.text()?)))
            .collect()
    }
}

fn contains(node: &Node, name: &str, inner: &str, is_it: &dyn Fn(Option<&str>) -> bool) -> bool {
    let here = |entry: &Entry| {
        let Value::Mapping(fields) = &entry.value.value else { return false };
        let text =
            fields.iter().find(|field| &*field.key == inner).and_then(|field| match &field.value.value {
                Value::Plain(text) | Value::Text(text) => Some(&**text),
                Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
            });
        &*entry.key == name && is_it(text)
    };
    match &node.value {
        Value::Null | Value::Plain(_) | Value::Text(_) => false,
        Value::Sequence(items) => items.iter().any(|item| contains(item, name, inner, is_it)),
        Value::Mapping(entries) => {
            entries.iter().any(|entry| here(entry) || contains(&entry.value, name, inner, is_it))
        }
    }
}
