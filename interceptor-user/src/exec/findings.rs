//! Tells findings on stderr: each once, and a readable number of them at a time.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};

use crate::resource::{Diagnostic, Level};
use crate::source::{PlacesOfFiles, Texts};
use crate::telemetry::messages;

/// As many are shown at once without `-v`.
const SHOWN_MAX: usize = 20;

/// What was told last; the same is not told again when the files change.
#[derive(Debug, Default)]
pub(crate) struct Findings(BTreeSet<Diagnostic>);

impl Findings {
    /// Tells those that are new: `read` are of reading, which knows their places, `found` of what was read. With stderr gone
    /// there is nobody to tell.
    pub(crate) fn tell(&mut self, read: Vec<Diagnostic>, found: Vec<Diagnostic>, texts: &Texts) {
        self.show(&read, &found, texts);
        self.0 = read.into_iter().chain(found).collect();
    }

    /// Tells those that are new, while what was told before goes on being so.
    pub(crate) fn tell_also(&mut self, found: Vec<Diagnostic>, texts: &Texts) {
        self.show(&[], &found, texts);
        self.0.extend(found);
    }

    fn show(&self, read: &[Diagnostic], found: &[Diagnostic], texts: &Texts) {
        let new = read.iter().chain(found).filter(|finding| !self.0.contains(finding)).collect();
        let verbose = tracing::enabled!(tracing::Level::INFO);
        let (shown, summary) = readable(new, verbose);
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let mut places = PlacesOfFiles::new(texts);
        let mut texts = texts.reader();
        for finding in shown {
            let finding =
                if read.contains(finding) { finding.clone() } else { places.placed(finding.clone()) };
            // A note needs no line of the file to be understood.
            let text = if finding.level == Level::Info { None } else { texts.of(&finding) };
            messages::say(&finding.render(text, colours));
        }
        if let Some(summary) = summary {
            messages::say(&summary);
        }
    }
}

/// Which are shown, and what is said of the others. The gravest stay; all keep their order.
fn readable(mut findings: Vec<&Diagnostic>, verbose: bool) -> (Vec<&Diagnostic>, Option<String>) {
    if verbose || findings.len() <= SHOWN_MAX {
        return (findings, None);
    }
    let mut levels: Vec<Level> = findings.iter().map(|finding| finding.level).collect();
    levels.sort_unstable();
    let mut room = [Level::Error, Level::Warning, Level::Info]
        .map(|level| (level, levels.iter().take(SHOWN_MAX).filter(|kept| **kept == level).count()));
    let mut left_out = [(Level::Error, 0_usize), (Level::Warning, 0), (Level::Info, 0)];
    findings.retain(|finding| {
        let place = room.iter_mut().find(|(level, room)| *level == finding.level && *room > 0);
        if let Some((_, room)) = place {
            *room -= 1;
            return true;
        }
        left_out.iter_mut().filter(|(level, _)| *level == finding.level).for_each(|(_, count)| *count += 1);
        false
    });
    let counts: Vec<String> = left_out
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(level, count)| match level {
            Level::Error => counted(*count, "error"),
            Level::Warning => counted(*count, "warning"),
            Level::Info => counted(*count, "note"),
        })
        .collect();
    (findings, Some(format!("… and {} more; -v shows all", counts.join(", "))))
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::{Diagnostic, Level, readable};

    fn findings(levels: &[(Level, usize)]) -> Vec<Diagnostic> {
        let each = levels.iter().flat_map(|(level, count)| vec![*level; *count]);
        each.enumerate()
            .map(|(index, level)| Diagnostic {
                level,
                code: None,
                origin: None,
                resource: "".into(),
                field: String::new(),
                message: index.to_string(),
                effect: String::new(),
                mend: String::new(),
            })
            .collect()
    }

    #[test]
    fn a_flood_is_summed_up_and_the_gravest_stay() {
        for (levels, verbose, shown, summary) in [
            (vec![(Level::Info, 20)], false, 20, None),
            (vec![(Level::Info, 300)], true, 300, None),
            (vec![(Level::Info, 300)], false, 20, Some("… and 280 notes more; -v shows all")),
            (
                vec![(Level::Info, 300), (Level::Error, 2), (Level::Warning, 17)],
                false,
                20,
                Some("… and 299 notes more; -v shows all"),
            ),
            (
                vec![(Level::Error, 30), (Level::Warning, 4), (Level::Info, 1)],
                false,
                20,
                Some("… and 10 errors, 4 warnings, 1 note more; -v shows all"),
            ),
        ] {
            let all = findings(&levels);
            let (kept, told) = readable(all.iter().collect(), verbose);
            assert_eq!((kept.len(), told.as_deref()), (shown, summary), "{levels:?}");
            let errors = |kept: &[&Diagnostic]| kept.iter().filter(|f| f.level == Level::Error).count();
            assert_eq!(errors(&kept), errors(&all.iter().collect::<Vec<_>>()).min(20), "{levels:?}");
        }
    }
}
