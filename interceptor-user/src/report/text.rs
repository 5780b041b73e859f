//! Findings for people: istioctl's line, the place in the file, what will happen, how to mend it.

use super::{Finding, code_of, level_name};
use crate::resource::code::ALL;
use crate::resource::printable;

pub(super) fn findings(findings: &[Finding<'_>], colours: bool) -> String {
    findings.iter().map(|finding| one(finding, colours)).collect()
}

fn one(finding: &Finding<'_>, colours: bool) -> String {
    let Finding { diagnostic, line } = *finding;
    let code = code_of(diagnostic);
    let (start, end) = if colours { (diagnostic.colour(), "\x1b[0m") } else { ("", "") };
    let place = diagnostic.origin.as_ref().map(ToString::to_string).unwrap_or_default();
    let about: Vec<String> = [printable(&diagnostic.resource), printable(&place)]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(" ")) };
    let mut out = format!(
        "{start}{}{end} [{}]{about} {}",
        level_name(diagnostic.level),
        code.id,
        printable(&diagnostic.message)
    );
    out.push_str(&diagnostic.excerpt(line, colours));
    let effect = if diagnostic.effect.is_empty() { code.effect } else { &diagnostic.effect };
    let mend = if diagnostic.mend.is_empty() { code.mend } else { &diagnostic.mend };
    out.push_str(&format!("\n  at run time: {}\n  mend: {}\n", printable(effect), printable(mend)));
    out
}

pub(super) fn codes() -> String {
    let width = ALL.iter().map(|code| code.name.len()).max().unwrap_or(0);
    let line = |code: &&'static crate::resource::code::Code| {
        format!("{}  {:7}  {:width$}  {}\n", code.id, level_name(code.level), code.name, code.means)
    };
    ALL.iter().map(line).collect()
}
