//! What was read from each file last, and the lines that findings are about. A file's text is not kept: it is read again
//! when somebody asks for it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::read::{self, Facts};
use crate::resource::{Diagnostic, ParsedFile};

/// Each file as it was read last.
#[derive(Clone, Debug, Default)]
pub struct Texts(pub(super) HashMap<Arc<str>, Arc<Held>>);

/// A file as it was read last.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) facts: Option<Facts>,
    /// Of what can't be read twice.
    kept: Option<Box<str>>,
    pub(super) is_blank: bool,
    pub(super) parsed: ParsedFile,
}

impl Held {
    /// Without `facts` nobody could tell whether the file still holds the text.
    pub(super) fn new(facts: Option<Facts>, text: String, parsed: ParsedFile) -> Self {
        let is_blank = text.trim().is_empty();
        Self { facts, kept: facts.is_none().then(|| text.into()), is_blank, parsed }
    }

    /// The text, if it is still there as it was read.
    fn text(&self, file: &str) -> Option<Cow<'_, str>> {
        if let Some(kept) = &self.kept {
            return Some(Cow::Borrowed(kept));
        }
        let path = Path::new(file);
        let text = read::text(path).ok()?;
        (read::facts(path) == self.facts).then_some(Cow::Owned(text))
    }
}

impl Texts {
    /// To ask for the texts that findings point into.
    pub fn reader(&self) -> TextReader<'_> {
        TextReader { texts: self, last: None }
    }
}

/// Reads the texts that findings point into; those of one file, one after the other, read it once.
#[derive(Debug)]
pub struct TextReader<'a> {
    texts: &'a Texts,
    last: Option<(Arc<str>, Option<Cow<'a, str>>)>,
}

impl TextReader<'_> {
    /// For [`Diagnostic::render`]. `None` when the file is another one by now.
    pub fn of(&mut self, finding: &Diagnostic) -> Option<&str> {
        let file = &finding.origin.as_ref()?.file;
        if self.last.as_ref().is_none_or(|(last, _)| last != file) {
            let text = self.texts.0.get(file).and_then(|held| held.text(file));
            self.last = Some((Arc::clone(file), text));
        }
        self.last.as_ref()?.1.as_deref()
    }
}
