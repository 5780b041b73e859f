//! `interceptor analyze`: reads files, looks for mistakes, and shows them.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::client::parse_name;
use super::output;
use crate::analysis::{self, Audience, Flags};
use crate::compile::NodePaths;
use crate::proxy::upstream::look_at_files;
use crate::report::{self, Finding, Format, Suppression};
use crate::resource::{Diagnostic, Level};
use crate::source::{FileSource, PlacesOfFiles, TextReader};

/// What istioctl exits with, too, when analyzers find something.
const FINDINGS: u8 = 79;

/// Say what is wrong with Istio's egress resources, where, what will happen and how to mend it
///
/// Reads files, directories or standard input (and --credentials-dir, --identity-dir), and nothing else: no cluster, no network, no root. Each finding has a
/// code (Istio's, or ours where Istio's analyzer does not look), the resource, the line with the field underlined,
/// what happens at run time, and the mend.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Exit codes:\n  \
        0 when nothing was found at --failure-threshold or above, 79 when something was (as istioctl)\n  \
        1 when a path can't be read, or what was found can't be written; 2 when the command line is wrong\n\n\
        A resource suppresses findings about itself with an annotation:\n  \
        galley.istio.io/analyze-suppress: IST0109,EGR0105   # or \"*\" for all\n\n\
        Examples:\n  \
        # Everything below a directory\n  \
        interceptor analyze config/\n\n  \
        # What a cluster has now\n  \
        kubectl get serviceentries,virtualservices,destinationrules,gateways,sidecars,services,namespaces -A -o yaml |\n    \
            interceptor analyze -\n\n  \
        # In CI: fail on warnings, too, and show the findings beside the lines they are about\n  \
        interceptor analyze config/ --failure-threshold Warning -o sarif > findings.sarif\n\n  \
        # With the secrets that exec will be given as files\n  \
        interceptor analyze config/ --credentials-dir /etc/interceptor/credentials\n\n  \
        # Not these\n  \
        interceptor analyze config/ --suppress \"IST0174=DestinationRule *.legacy\"")]
pub(super) struct Arguments {
    /// YAML or JSON files, directories of them, or - for standard input
    #[arg(value_name = "FILE-OR-DIR|-", required_unless_present = "list_codes",
        value_hint = clap::ValueHint::AnyPath)]
    paths: Vec<PathBuf>,

    /// Istio's mesh configuration (MeshConfig), as a YAML file
    #[arg(long, value_name = "FILE")]
    mesh_config: Option<PathBuf>,

    /// Look whether credentialName of DestinationRules has its files in DIR/NAME, as with `exec`, and can use them
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    credentials_dir: Option<PathBuf>,

    /// Look whether the identity for TLS mode ISTIO_MUTUAL is in DIR, as with `exec`, and can be used
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    identity_dir: Option<PathBuf>,

    /// The directories of unix sockets that the agent is given: endpoints elsewhere are errors
    #[arg(long, value_name = "DIR,…", value_delimiter = ',', value_parser = NodePaths::parse_directory)]
    allow_unix_endpoints: Option<Vec<PathBuf>>,

    /// The namespace of resources that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default", value_parser = parse_name)]
    namespace: Arc<str>,

    /// How findings are written to standard output
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_parser = formats())]
    output: Format,

    /// The least level that makes the command fail
    #[arg(long, value_name = "LEVEL", default_value = "Error", ignore_case = true, value_parser = levels())]
    failure_threshold: Level,

    /// Leave out a code for a resource; * stands for anything; may be repeated
    #[arg(long, value_name = "CODE=KIND NAME.NAMESPACE")]
    suppress: Vec<Suppression>,

    /// Print every code with its level and meaning, and exit
    #[arg(long)]
    list_codes: bool,
}

fn formats() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new([
        PossibleValue::new("text").help("For people"),
        PossibleValue::new("json").help("A list with istioctl's keys and more"),
        PossibleValue::new("yaml").help("The same as YAML"),
        PossibleValue::new("sarif").help("SARIF 2.1.0, for code hosts"),
    ])
    .map(|name| match name.as_str() {
        "json" => Format::Json,
        "yaml" => Format::Yaml,
        "sarif" => Format::Sarif,
        _ => Format::Text,
    })
}

fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(["Error", "Warning", "Info"]).map(|name| {
        match name.to_ascii_lowercase().as_str() {
            "warning" => Level::Warning,
            "info" => Level::Info,
            _ => Level::Error,
        }
    })
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.list_codes {
        output::print(&report::codes(arguments.output))?;
        return Ok(ExitCode::SUCCESS);
    }
    let namespace = Arc::clone(&arguments.namespace);
    let (source, failed_to_read) =
        FileSource::read(arguments.paths.clone(), arguments.mesh_config.clone(), namespace);
    let (world, mut diagnostics, texts) = source.into_parts();
    let mut places = PlacesOfFiles::new(&texts);
    let unix_endpoints = arguments.allow_unix_endpoints.clone().map(NodePaths::Below);
    let flags = Flags {
        credentials_dir: arguments.credentials_dir.as_deref(),
        identity_dir: arguments.identity_dir.as_deref(),
        svid: None,
        unix_endpoints: unix_endpoints.as_ref(),
        tls_files: None,
        is_gateway: false,
    };
    let mut found = analysis::find(&world, Audience::Mesh(flags));
    found.extend(analysis::unusable_files(&world, flags, |tls| look_at_files(tls).err()));
    diagnostics.extend(found.into_iter().map(|finding| places.placed(finding)));
    diagnostics.retain(|finding| {
        !arguments.suppress.iter().any(|suppression| suppression.covers(finding))
            && !is_suppressed(&mut places, finding)
    });
    diagnostics.sort_by(|a, b| (a.level, &a.origin, a).cmp(&(b.level, &b.origin, b)));
    diagnostics.dedup();
    let mut lines = Lines { texts: texts.reader(), known: HashMap::new() };
    let lines: Vec<Option<String>> =
        diagnostics.iter().map(|diagnostic| lines.of(diagnostic).map(str::to_owned)).collect();
    let findings: Vec<Finding<'_>> = diagnostics
        .iter()
        .zip(&lines)
        .map(|(diagnostic, line)| Finding { diagnostic, line: line.as_deref() })
        .collect();
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // An empty list would say that all is well.
    if failed_to_read.is_empty() || !findings.is_empty() {
        output::print(&report::render(&findings, arguments.output, colours))?;
    }
    let failed = diagnostics.iter().any(|finding| finding.level <= arguments.failure_threshold);
    let closing = closing_line(&diagnostics, &arguments.paths, failed);
    let mut stderr = io::stderr().lock();
    for warning in arguments.suppress.iter().filter_map(Suppression::is_ineffective) {
        drop(writeln!(stderr, "warning: {warning}"));
    }
    if failed_to_read.is_empty() || !findings.is_empty() {
        drop(writeln!(stderr, "{closing}"));
    }
    for error in &failed_to_read {
        drop(writeln!(stderr, "error: {error}; what else there is was analyzed"));
    }
    if !failed_to_read.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    Ok(if failed { ExitCode::from(FINDINGS) } else { ExitCode::SUCCESS })
}

fn closing_line(findings: &[Diagnostic], paths: &[PathBuf], failed: bool) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(
            |path| if path.as_os_str() == "-" { "standard input".into() } else { path.display().to_string() },
        )
        .collect();
    let paths = paths.join(", ");
    if findings.is_empty() {
        return format!("\u{2714} No validation issues found when analyzing {paths}.");
    }
    let count = |level: Level, name: &str| {
        let count = findings.iter().filter(|finding| finding.level == level).count();
        (count > 0).then(|| format!("{count} {name}{}", if count == 1 { "" } else { "s" }))
    };
    let counts = [count(Level::Error, "error"), count(Level::Warning, "warning"), count(Level::Info, "note")];
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    let counts = counts.join(", ");
    if failed {
        format!("Error: Analyzers found issues when analyzing {paths}: {counts}.")
    } else {
        format!("Analyzed {paths}: {counts}.")
    }
}

/// Whether the resource that it is about says so.
fn is_suppressed(places: &mut PlacesOfFiles<'_>, finding: &Diagnostic) -> bool {
    let path = format!("metadata.annotations[{}]", report::ANNOTATION);
    places.text(finding, &path).is_some_and(|value| report::annotated(value, finding))
}

/// The lines of each file that was asked about.
struct Lines<'a> {
    texts: TextReader<'a>,
    known: HashMap<Arc<str>, Vec<String>>,
}

impl Lines<'_> {
    fn of(&mut self, finding: &Diagnostic) -> Option<&str> {
        let origin = finding.origin.as_ref()?;
        if !self.known.contains_key(&origin.file) {
            let text = self.texts.of(finding)?;
            self.known.insert(Arc::clone(&origin.file), text.lines().map(str::to_owned).collect());
        }
        let index = usize::try_from(origin.position.line).ok()?.checked_sub(1)?;
        self.known.get(&origin.file)?.get(index).map(String::as_str)
    }
}
