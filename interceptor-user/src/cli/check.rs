//! `interceptor check`: its flags, and the answers on the terminal.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::output;
use crate::admin::SOCKET;
use crate::check::{self, Finding, Places, Verdict};
use crate::datapath::DEFAULT_PINS;
use crate::output::Output;

/// What the verdict's column takes.
const VERDICT_WIDTH: usize = 7;
/// Where the text of a finding begins.
const INDENT: usize = VERDICT_WIDTH + 2 + 18;

/// Say what this node has and lacks for an agent, and who else is attached to the same hooks
///
/// Loads the kernel programs, attaches them to a cgroup made for it, and takes everything away again; looks at mounts,
/// capabilities, pods, other programs, pins and the CNI configuration. Run it as root on the node, or in the agent's
/// container.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Exit codes:\n  \
        0 when an agent can work here, with warnings or without\n  \
        1 when it can't\n\n\
        Examples:\n  \
        # This machine\n  \
        sudo interceptor check\n\n  \
        # A node of a cluster, as its agent sees it\n  \
        kubectl -n interceptor exec POD -c agent -- interceptor check\n\n  \
        # What is to be mended, for a script\n  \
        interceptor check -o json | jq -r '.findings[] | select(.verdict != \"ok\") | .mend'")]
pub(super) struct Arguments {
    /// How the answers are written
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text")]
    output: Format,

    /// Where programs and maps are pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pins: PathBuf,

    /// Where the agent listens
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    agent_socket: PathBuf,

    /// Where the container runtime looks for network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d", value_hint = clap::ValueHint::DirPath)]
    conf_dir: PathBuf,

    /// Where the cgroup2 hierarchy is mounted [default: where it is found]
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,

    /// The cgroup of all pods [default: the one directory kubepods or kubepods.slice below the root]
    #[arg(long, value_name = "DIR")]
    kubepods: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Text,
    Json,
    Yaml,
}

#[derive(Serialize)]
struct Report<'a> {
    verdict: Verdict,
    findings: &'a [Finding],
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let findings = check::node(&Places {
        pins: arguments.pins,
        agent_socket: arguments.agent_socket,
        cni_conf_dir: arguments.conf_dir,
        cgroup_root: arguments.cgroup_root,
        kubepods: arguments.kubepods,
    });
    let verdict = check::verdict(&findings);
    let report = Report { verdict, findings: &findings };
    let format = match arguments.output {
        Format::Text => Output::Text,
        Format::Json => Output::Json,
        Format::Yaml => Output::Yaml,
    };
    output::print(&format.render(&report, |report| text(report.findings))?)?;
    Ok(if verdict == Verdict::Failure { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let what = format!("{:VERDICT_WIDTH$}  {:16}  ", finding.verdict.name(), finding.what);
        text += &format!("{what}{}\n", finding.found);
        if let Some(mend) = &finding.mend {
            text += &format!("{:INDENT$}→ {mend}\n", "");
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (failures, warnings) = (count(Verdict::Failure), count(Verdict::Warning));
    let warned = match warnings {
        0 => String::new(),
        1 => "; 1 warning".to_owned(),
        more => format!("; {more} warnings"),
    };
    let closing = match failures {
        0 => format!("An agent can work here{warned}."),
        1 => format!("An agent can't work here: 1 thing to mend{warned}."),
        more => format!("An agent can't work here: {more} things to mend{warned}."),
    };
    text + "\n" + &closing + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_is_to_be_mended() {
        let finding = |verdict, mend: Option<&str>| Finding {
            what: "kernel",
            found: "Linux 5.4".into(),
            verdict,
            mend: mend.map(Into::into),
        };
        let findings = [
            finding(Verdict::Ok, None),
            finding(Verdict::Failure, Some("upgrade it")),
            finding(Verdict::Warning, Some("know it")),
        ];
        let expected = "\
ok       kernel            Linux 5.4
failure  kernel            Linux 5.4
                           → upgrade it
warning  kernel            Linux 5.4
                           → know it

An agent can't work here: 1 thing to mend; 1 warning.
";
        assert_eq!(text(&findings), expected);
        assert!(text(&findings[..1]).ends_with("\nAn agent can work here.\n"));
    }
}
