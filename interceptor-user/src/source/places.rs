//! Where the fields stand that findings are about, in the files as they were read.

use std::collections::HashMap;
use std::sync::Arc;

use super::texts::{TextReader, Texts};
use crate::resource::{Diagnostic, Places};

/// Where fields are written, in each file that was asked about.
#[derive(Debug)]
pub struct PlacesOfFiles<'a> {
    texts: TextReader<'a>,
    known: HashMap<Arc<str>, Option<Places>>,
}

impl<'a> PlacesOfFiles<'a> {
    pub fn new(texts: &'a Texts) -> Self {
        Self { texts: texts.reader(), known: HashMap::new() }
    }

    /// `None` when the file is another one by now.
    fn of(&mut self, finding: &Diagnostic) -> Option<&Places> {
        let file = &finding.origin.as_ref()?.file;
        if !self.known.contains_key(file) {
            let places = self.texts.of(finding).map(|text| Places::new(file, text));
            self.known.insert(Arc::clone(file), places);
        }
        self.known.get(file)?.as_ref()
    }

    /// With the place of its field, when that can be found: a rule about many resources knows only where they begin. What reading
    /// found has the place already, to the character.
    pub fn placed(&mut self, mut finding: Diagnostic) -> Diagnostic {
        let near = finding.origin.as_ref().map(|origin| origin.position).unwrap_or_default();
        let place = self.of(&finding).and_then(|places| places.find(near, &finding.field));
        if let (Some(place), Some(origin)) = (place, &mut finding.origin) {
            origin.position = place;
        }
        finding
    }

    /// What stands at `path` in the resource that it is about.
    pub fn text(&mut self, finding: &Diagnostic, path: &str) -> Option<&str> {
        let near = finding.origin.as_ref().map(|origin| origin.position).unwrap_or_default();
        self.of(finding)?.text(near, path)
    }
}
