//! What is wrong with what people wrote: where, what was expected, how to mend it.

use std::fmt;
use std::sync::Arc;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Not used as written: the resource is left out, or a part of it can't act.
    Error,
    /// Used, but probably not as meant.
    Warning,
    /// Nothing wrong; worth knowing.
    Info,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// A place in a text: line and column count from 1, in characters. Line 0 is the whole text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
    /// Characters on that line.
    pub length: u32,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The path as given by the user, or `-` for standard input.
    pub file: Arc<str>,
    pub position: Position,
}

impl Origin {
    /// A file as a whole.
    pub fn of_file(file: &Arc<str>) -> Self {
        Self { file: Arc::clone(file), position: Position::default() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if &*self.file == "-" { "(standard input)" } else { &*self.file };
        if self.position.line == 0 {
            return formatter.write_str(file);
        }
        write!(formatter, "{file}:{}:{}", self.position.line, self.position.column)
    }
}

/// Codes of findings about how something is written.
const GENERAL: [&str; 5] = ["IST0106", "IST0133", "EGR0118", "EGR0119", "EGR0120"];

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    pub level: Level,
    /// `IST0101` where Istio's analyzer has one for it, else ours (`EGR0105`): see [`super::code`].
    pub code: Option<&'static str>,
    pub origin: Option<Origin>,
    /// `ServiceEntry default/httpbin`; empty when no resource is known.
    pub resource: Arc<str>,
    /// `spec.ports[0].protocol`; empty for the resource as a whole.
    pub field: String,
    /// What is wrong and what was expected; how to mend it, too, where that is not apart.
    pub message: String,
    /// What happens because of it; empty when `message` says it, or the code does.
    pub effect: String,
    /// How to mend it; empty when `message` says it, or the code does.
    pub mend: String,
}

impl Diagnostic {
    /// `file:line:column: error: kind ns/name: field: message`, then, when `source` is the text of the
    /// file, the line with the place underlined. `colours`: for a terminal.
    pub fn render(&self, source: Option<&str>, colours: bool) -> String {
        let mut out = String::new();
        if let Some(origin) = &self.origin {
            out.push_str(&format!("{origin}: "));
        }
        let (start, end) = if colours { (self.colour(), "\x1b[0m") } else { ("", "") };
        out.push_str(&format!("{start}{}{end}: ", self.level));
        // A code that says no more than the level is left to `analyze`.
        if let Some(code) = self.code.filter(|code| !GENERAL.contains(code)) {
            out.push_str(&format!("[{code}] "));
        }
        for part in [&*self.resource, &self.field] {
            if !part.is_empty() {
                out.push_str(&printable(part));
                out.push_str(": ");
            }
        }
        out.push_str(&printable(&self.message));
        for part in [&self.effect, &self.mend] {
            if !part.is_empty() {
                out.push_str("; ");
                out.push_str(&printable(part));
            }
        }
        let line = self.origin.as_ref().map(|origin| origin.position.line).filter(|line| *line > 0);
        let line = line.and_then(|line| source?.lines().nth(index(line)));
        out.push_str(&self.excerpt(line, colours));
        out
    }

    /// The line that it is about, with the place underlined; each line starts with a line feed.
    pub fn excerpt(&self, line: Option<&str>, colours: bool) -> String {
        let (start, end) = if colours { (self.colour(), "\x1b[0m") } else { ("", "") };
        let position = self.origin.as_ref().map(|origin| origin.position).unwrap_or_default();
        line.map(|line| excerpt(line, position, start, end)).unwrap_or_default()
    }

    /// What happens because of it.
    pub fn effect(mut self, effect: impl Into<String>) -> Self {
        self.effect = effect.into();
        self
    }

    /// How to mend it.
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = mend.into();
        self
    }

    /// The escape sequence of its level.
    pub fn colour(&self) -> &'static str {
        match self.level {
            Level::Error => "\x1b[1;31m",
            Level::Warning => "\x1b[1;33m",
            Level::Info => "\x1b[1;34m",
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(None, false))
    }
}

fn index(one_based: u32) -> usize {
    usize::try_from(one_based.saturating_sub(1)).unwrap_or(usize::MAX)
}

/// Longest line of a file that is shown whole.
const LINE_CHARACTERS_MAX: usize = 160;
/// Of a longer one as many are shown before the place.
const CHARACTERS_BEFORE: usize = 60;

fn excerpt(line: &str, position: Position, start: &str, end: &str) -> String {
    let column = index(position.column);
    let left_out =
        if column < LINE_CHARACTERS_MAX - CHARACTERS_BEFORE { 0 } else { column - CHARACTERS_BEFORE };
    let shown = line.chars().skip(left_out).take(LINE_CHARACTERS_MAX);
    let mut shown: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut column = column - left_out;
    if left_out > 0 {
        shown.insert(0, '…');
        column += 1;
    }
    let room = shown.chars().count().saturating_sub(column).max(1);
    let length = usize::try_from(position.length).unwrap_or(1).clamp(1, room);
    let number = position.line.to_string();
    let margin = " ".repeat(number.len());
    format!("\n {number} | {shown}\n {margin} | {}{start}{}{end}", " ".repeat(column), "^".repeat(length))
}

/// What people wrote must not steer the terminal it is shown on. It is on one line.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        _ if c.is_control() => '\u{fffd}',
        _ => c,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_shows_its_line_with_the_place_underlined() {
        let finding = Diagnostic {
            level: Level::Error,
            code: None,
            origin: Some(Origin {
                file: "a.yaml".into(),
                position: Position { line: 2, column: 3, length: 4 },
            }),
            resource: "ServiceEntry default/a".into(),
            field: "spec.host".into(),
            message: "wrong\x1b[2J\nor\tnot".into(),
            effect: String::new(),
            mend: String::new(),
        };
        assert_eq!(
            finding.render(Some("spec:\n  host: x\n"), false),
            "a.yaml:2:3: error: ServiceEntry default/a: spec.host: wrong\u{fffd}[2J or not\n 2 |   host: x\n   |   ^^^^"
        );
        assert_eq!(finding.to_string(), finding.render(None, false));
    }
}
