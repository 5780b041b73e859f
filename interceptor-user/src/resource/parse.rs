//! How a file's text becomes resources: document by document, each on its own, on all cores when there
//! are many, and only those that were not there before.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use super::decode::{Field, Reader};
use super::diagnostic::{Diagnostic, Level, Position};
use super::documents::{self, Document, Split};
use super::json::Json;
use super::meta::ResourceKey;
use super::parallel;
use super::world::{Outcome, Resource, read_root};
use super::yaml;

/// A resource that is there and can't be used as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub key: ResourceKey,
    /// What must hold when there is no last good form of it: [`Resource::is_guard`].
    pub instead: Option<Resource>,
}

/// What one file holds.
#[derive(Debug, Default)]
pub struct ParsedFile {
    pub resources: Vec<Resource>,
    pub refused: Vec<Refused>,
    /// A part of the file can't be read at all: nobody knows what it holds.
    pub unreadable: bool,
    pub diagnostics: Vec<Diagnostic>,
    /// Of each document of the text, in order.
    documents: Vec<Arc<ParsedDocument>>,
}

/// What one document holds; nothing in it depends on other documents. Ten thousands are kept, with nothing to tell mostly.
#[derive(Debug)]
struct ParsedDocument {
    fingerprint: u64,
    resources: Box<[Resource]>,
    told: Option<Box<Told>>,
}

/// What there is to tell of a document.
#[derive(Debug, Default)]
struct Told {
    refused: Vec<Refused>,
    unreadable: bool,
    diagnostics: Vec<Diagnostic>,
    findings_not_kept: usize,
}

/// What has been read of a document so far.
#[derive(Default)]
struct Reading {
    resources: Vec<Resource>,
    told: Told,
}

/// Its keys are this process's own, so that nobody can write a document with the fingerprint of another.
static FINGERPRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Fewer are read faster than a thread is started.
const DOCUMENTS_PER_THREAD_MIN: usize = 64;

/// More findings than this about one file are counted, not kept.
const FINDINGS_MAX: usize = 1000;

/// Reads the text of a file. Never fails: what can't be used is left out, with findings.
pub fn parse(file: &Arc<str>, source: &str, default_namespace: &Arc<str>) -> ParsedFile {
    parse_again(file, source, default_namespace, &ParsedFile::default())
}

/// As [`parse`], for a file that was read as `previous`: documents that stand where they stood, with the same text, are not
/// read again, and their resources are the same [`Arc`]s.
pub fn parse_again(
    file: &Arc<str>,
    source: &str,
    default_namespace: &Arc<str>,
    previous: &ParsedFile,
) -> ParsedFile {
    let Split { documents, command_lines, is_markdown } = documents::split(file, source);
    let known = KnownDocuments::of(previous);
    let read = parallel::map(&documents, DOCUMENTS_PER_THREAD_MIN, |document| {
        let fingerprint = FINGERPRINTS.hash_one(document);
        let read = || Arc::new(ParsedDocument::read(file, document, fingerprint, default_namespace));
        known.get(fingerprint).unwrap_or_else(read)
    });
    let around = if is_markdown {
        Some((1, "this is Markdown: its blocks of YAML and its here-documents are read, the rest is not"))
    } else {
        let told = "this line is a shell command around YAML: skipped, the YAML inside is read";
        command_lines.first().map(|line| (*line, told))
    };
    ParsedFile::of(file, read, around)
}

/// Reads one object of the API server's. `origin` is what findings name as its place.
pub fn parse_json(origin: &Arc<str>, json: &Json) -> ParsedFile {
    let mut parsed = Reading::default();
    let reader = Reader::new(origin);
    // What has no namespace here has none: the server has filled it in.
    parsed.read_resource(origin, Field::root(&reader, &json.0), &"".into(), false);
    parsed.keep(reader.into_findings());
    let Reading { resources, told: Told { refused, unreadable, diagnostics, findings_not_kept: _ } } = parsed;
    ParsedFile { resources, refused, unreadable, diagnostics, documents: Vec::new() }
}

/// The documents that a file held before.
struct KnownDocuments<'a>(HashMap<u64, &'a Arc<ParsedDocument>>);

impl<'a> KnownDocuments<'a> {
    fn of(previous: &'a ParsedFile) -> Self {
        Self(previous.documents.iter().map(|document| (document.fingerprint, document)).collect())
    }

    fn get(&self, fingerprint: u64) -> Option<Arc<ParsedDocument>> {
        self.0.get(&fingerprint).map(|known| Arc::clone(known))
    }
}

impl ParsedFile {
    /// `around`: what there is to tell of what is no YAML, and on which line.
    fn of(file: &Arc<str>, documents: Vec<Arc<ParsedDocument>>, around: Option<(u32, &str)>) -> Self {
        let mut whole = Self::default();
        let mut not_kept = 0;
        if let Some((line, message)) = around {
            let position = Position { line, column: 1, length: 1 };
            whole.diagnostics.extend(note(file, Level::Info, position, message.to_owned()));
        }
        for document in &documents {
            whole.resources.extend(document.resources.iter().cloned());
            let Some(told) = &document.told else { continue };
            whole.refused.extend(told.refused.iter().cloned());
            whole.unreadable |= told.unreadable;
            let room = FINDINGS_MAX.saturating_sub(whole.diagnostics.len());
            whole.diagnostics.extend(told.diagnostics.iter().take(room).cloned());
            not_kept += told.findings_not_kept + told.diagnostics.len().saturating_sub(room);
        }
        if not_kept > 0 {
            let message = format!("{not_kept} more findings about this file are not shown");
            whole.diagnostics.extend(note(file, Level::Warning, Position::default(), message));
        }
        whole.diagnostics.sort_by(|a, b| a.origin.cmp(&b.origin));
        whole.documents = documents;
        whole
    }
}

/// A finding about a file, not about a resource in it.
fn note(file: &Arc<str>, level: Level, position: Position, message: String) -> Vec<Diagnostic> {
    let reader = Reader::new(file);
    reader.report(level, position, "", message);
    reader.into_findings()
}

impl ParsedDocument {
    fn read(file: &Arc<str>, document: &Document, fingerprint: u64, default_namespace: &Arc<str>) -> Self {
        let mut reading = Reading::default();
        reading.read_document(file, document, default_namespace);
        let Reading { resources, told } = reading;
        let is_silent = told.refused.is_empty() && !told.unreadable && told.diagnostics.is_empty();
        let told = (!is_silent).then(|| Box::new(told));
        Self { fingerprint, resources: resources.into(), told }
    }
}

impl Reading {
    fn keep(&mut self, findings: Vec<Diagnostic>) {
        let room = FINDINGS_MAX.saturating_sub(self.told.diagnostics.len());
        self.told.findings_not_kept += findings.len().saturating_sub(room);
        self.told.diagnostics.extend(findings.into_iter().take(room));
    }

    fn read_document(&mut self, file: &Arc<str>, document: &Document, default_namespace: &Arc<str>) {
        let namespace = document.namespace.as_ref().unwrap_or(default_namespace);
        let reader = Reader::new(file);
        match yaml::read(document) {
            Err(mistake) => {
                reader.report(Level::Error, mistake.position, "", mistake.message);
                self.told.unreadable = true;
            }
            Ok(tree) => {
                for (key, position) in &tree.duplicate_keys {
                    let message = format!("`{key}` stands here for the second time in one mapping: keep one");
                    reader.report(Level::Error, *position, key, message);
                }
                let ambiguous = !tree.duplicate_keys.is_empty();
                self.read_resource(file, Field::root(&reader, &tree.root), namespace, ambiguous);
            }
        }
        self.keep(reader.into_findings());
    }

    /// `ambiguous`: a key stands twice somewhere in it.
    fn read_resource(&mut self, file: &Arc<str>, field: Field<'_>, namespace: &Arc<str>, ambiguous: bool) {
        let reader = Reader::new(file);
        if ambiguous {
            reader.be_ambiguous();
        }
        let outcome =
            field.in_reader(&reader).object().map(|root| read_root(&root.open_quietly(), file, namespace));
        let wrong = reader.is_wrong();
        let mut instead = None;
        match outcome {
            None => {}
            Some(Outcome::List(items)) => {
                for item in items {
                    self.read_resource(file, item.in_reader(&reader), namespace, ambiguous);
                }
            }
            Some(Outcome::Resource(resource)) if !wrong => self.resources.push(resource),
            Some(Outcome::Resource(resource)) => {
                instead = Some((resource.meta().key.clone(), resource.into_guard()));
            }
            Some(Outcome::Refused(key)) => instead = Some((key, None)),
            Some(Outcome::Nameless(guard)) => {
                self.told.unreadable = true;
                instead = guard.map(|guard| (guard.meta().key.clone(), Some(guard)));
            }
            Some(Outcome::Skipped) => {}
        }
        if let Some((_, Some(guard))) = instead.as_ref().filter(|_| ambiguous) {
            let place = guard.meta().origin.position;
            reader.report(
                Level::Error,
                place,
                "",
                "a key stands twice in it: nobody knows what is meant".into(),
            );
        }
        let mut findings = reader.into_findings();
        if let Some((key, instead)) = instead {
            if let Some(effect) = instead.as_ref().and_then(Resource::effect_of_mistakes) {
                let errors = findings.iter_mut().filter(|finding| finding.level == Level::Error);
                errors.for_each(|finding| finding.effect.clone_from(&effect));
            }
            self.told.refused.push(Refused { key, instead });
        }
        self.keep(findings);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{ParsedFile, parse, parse_again};

    /// A document that is good, wrong, or no YAML.
    fn document(index: usize, kind: u8) -> String {
        let spec = match kind {
            0 => {
                "{hosts: [a.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}"
            }
            1 => "{hosts: [], wrong: 1}",
            2 => "{hosts: [",
            _ => "{hosts: [b.example.com],\n  resolution: NONE}",
        };
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: n{index}}}\nspec: {spec}\n"
        )
    }

    fn file(kinds: &[u8]) -> String {
        let documents: Vec<String> =
            kinds.iter().enumerate().map(|(index, kind)| document(index, *kind)).collect();
        documents.join("---\n")
    }

    fn assert_same(one: &ParsedFile, other: &ParsedFile) {
        assert_eq!(one.resources, other.resources);
        assert_eq!(one.refused, other.refused);
        assert_eq!(one.unreadable, other.unreadable);
        assert_eq!(one.diagnostics, other.diagnostics);
    }

    proptest! {
        #[test]
        fn what_was_read_before_makes_no_difference(
            before in proptest::collection::vec(0..4u8, 0..6),
            after in proptest::collection::vec(0..4u8, 0..6),
        ) {
            let (name, namespace) = ("f.yaml".into(), "default".into());
            let before = file(&before);
            let previous = parse(&name, &before, &namespace);
            let again = parse_again(&name, &file(&after), &namespace, &previous);
            assert_same(&again, &parse(&name, &file(&after), &namespace));
        }
    }

    #[test]
    fn documents_that_stay_are_not_read_again() {
        let (name, namespace) = ("f.yaml".into(), "default".into());
        let before = file(&[0, 0, 0]);
        let previous = parse(&name, &before, &namespace);
        let again = parse_again(&name, &file(&[0, 3, 0]), &namespace, &previous);
        let kept = |index: usize| match (&previous.resources[index], &again.resources[index]) {
            (super::Resource::ServiceEntry(one), super::Resource::ServiceEntry(other)) => {
                Arc::ptr_eq(one, other)
            }
            (one, other) => panic!("{one:?} {other:?}"),
        };
        assert_eq!([kept(0), kept(1)], [true, false]);
        // The third stands a line lower now: what is said of it names another place.
        assert!(!kept(2));
    }
}
