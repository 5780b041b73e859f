//! The blocks of code in a Markdown text: where they begin and end, and whether they are YAML (CommonMark 0.31, §4.5). Pure.

use std::path::Path;

/// A block that has begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fence {
    mark: char,
    /// How many of them.
    length: usize,
    /// Blanks before them, which its lines have, too.
    pub(super) indent: usize,
    pub(super) is_yaml: bool,
}

impl Fence {
    /// The block that a line begins.
    pub(super) fn opened_by(line: &str) -> Option<Self> {
        let marks = line.trim_start_matches(' ');
        let mark = marks.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
        let info = marks.trim_start_matches(mark);
        let length = marks.len() - info.len();
        if length < 3 || (mark == '`' && info.contains('`')) {
            return None;
        }
        let language = info.trim_start().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let is_yaml = ["yaml", "yml"].iter().any(|yaml| language.eq_ignore_ascii_case(yaml));
        Some(Self { mark, length, indent: line.len() - marks.len(), is_yaml })
    }

    pub(super) fn is_closed_by(&self, line: &str) -> bool {
        let marks = line.trim();
        marks.len() >= self.length && marks.trim_start_matches(self.mark).is_empty()
    }

    /// A line of the block, without the blanks that stand before the block.
    pub(super) fn unindented<'a>(&self, line: &'a str) -> &'a str {
        let blanks = line.len() - line.trim_start_matches(' ').len();
        &line[self.indent.min(blanks)..]
    }
}

/// By its name; or a block with a language begins at the start of a line, where YAML can't have these marks.
pub(super) fn is_markdown(file: &str, source: &str) -> bool {
    let by_name = |extension: &std::ffi::OsStr| {
        ["md", "markdown"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    };
    let begins_block = |line: &str| {
        let language = line.strip_prefix("```").map(|rest| rest.trim_start_matches('`').trim_start());
        language.is_some_and(|language| language.starts_with(|c: char| c.is_ascii_alphabetic()))
    };
    Path::new(file).extension().is_some_and(by_name)
        || (source.contains("```") && source.lines().any(begins_block))
}
