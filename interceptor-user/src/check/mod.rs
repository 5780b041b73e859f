//! Can this node do it, and is there anything in the way? Each question is answered by asking the kernel for the thing
//! itself where that is possible: programs are loaded and attached to a cgroup made for it, and gone again.

mod agent;
mod cgroups;
mod kernel;
mod neighbours;
mod pods;
mod prepare;
mod probe;

use std::path::{Path, PathBuf};

pub use prepare::{Prepared, prepare};
pub use probe::{Probe, probe};
use serde::Serialize;

use crate::enroll::enter_cgroup_namespace;
use crate::exec::own_cgroup;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    pub pins: PathBuf,
    pub agent_socket: PathBuf,
    pub cni_conf_dir: PathBuf,
    /// `None`: where it is mounted.
    pub cgroup_root: Option<PathBuf>,
    /// `None`: the one that there is below the root.
    pub kubepods: Option<PathBuf>,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub what: &'static str,
    pub found: String,
    pub verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// Worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    Ok,
    /// Works, but not as well as it could, or not with everything.
    Warning,
    /// The agent can't work here.
    Failure,
}

impl Verdict {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, found: found.into(), verdict: Verdict::Ok, mend: None }
    }

    fn warning(what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what, found: found.into(), verdict: Verdict::Warning, mend: Some(mend.into()) }
    }

    fn failure(what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what, found: found.into(), verdict: Verdict::Failure, mend: Some(mend.into()) }
    }
}

/// Asks everything. What can't be asked because something else is missing is left out.
pub fn node(places: &Places) -> Vec<Finding> {
    // What fails because of it is among the findings.
    drop(enter_cgroup_namespace(Path::new("/proc")));
    let mut findings = kernel::findings();
    let (more, cgroups) = cgroups::findings(places);
    findings.extend(more);
    if let Some(cgroups) = &cgroups {
        // Below our own, which also those may write to who are not allowed to everywhere.
        let probe = match &places.cgroup_root {
            Some(root) => root.clone(),
            None => own_cgroup().unwrap_or_else(|_| cgroups.root.clone()),
        };
        findings.extend(kernel::programs(&probe));
        findings.extend(neighbours::findings(cgroups));
        findings.extend(pods::findings(cgroups));
    }
    findings.extend(agent::findings(places));
    findings
}

/// The worst of all.
pub fn verdict(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}
