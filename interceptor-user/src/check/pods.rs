//! What pods bring along that stands in our way: a redirection of their own, or no port for the listener.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Finding;
use super::cgroups::{Cgroups, list};
use crate::datapath::{LISTENER_PORTS, ephemeral_ports};
use crate::enroll::{HostNetns, PodNetns, processes, within};

/// Beyond that many, pods are not looked at.
const PODS_MAX: usize = 500;
/// What Istio's init container or CNI plugin calls its chain in a pod.
const CHAIN: &str = "ISTIO_OUTPUT";

/// What is in one pod's network namespace.
#[derive(Debug)]
struct Facts {
    uid: String,
    redirects: bool,
    has_sidecar: bool,
    ephemeral: RangeInclusive<u16>,
}

pub(super) fn findings(cgroups: &Cgroups) -> Vec<Finding> {
    let Some(kubepods) = &cgroups.kubepods else { return Vec::new() };
    let proc = Path::new("/proc");
    let (Ok(host), Ok(pods)) = (HostNetns::read(proc), kubepods.pods()) else { return Vec::new() };
    let facts = pods.iter().take(PODS_MAX).filter_map(|pod| {
        let netns = PodNetns::of_cgroup(proc, &pod.directory, &host, None).ok()??;
        let (redirects, ephemeral) = within(&netns.file, || (redirects(), ephemeral_ports())).ok()?;
        let has_sidecar = processes(&pod.directory).into_iter().any(is_sidecar);
        Some(Facts { uid: pod.uid.to_string(), redirects, has_sidecar, ephemeral })
    });
    judge(&facts.collect::<Vec<_>>())
}

fn judge(pods: &[Facts]) -> Vec<Finding> {
    const ISTIO: &str = "Istio in pods";
    const PORTS: &str = "ports of pods";
    let uids = |wanted: &dyn Fn(&Facts) -> bool| -> BTreeSet<&str> {
        pods.iter().filter(|pod| wanted(pod)).map(|pod| pod.uid.as_str()).collect()
    };
    let mut findings = Vec::new();
    let istio = uids(&|pod| pod.redirects || pod.has_sidecar);
    if !istio.is_empty() {
        findings.push(Finding::warning(
            ISTIO,
            format!("its sidecar or its iptables rules are in {} (by uid)", list(istio)),
            "these pods are left to their sidecar; to have them intercepted here, take Istio's injection away from them \
             and start them again",
        ));
    }
    let covers = |pod: &Facts| {
        pod.ephemeral.start() <= LISTENER_PORTS.start() && LISTENER_PORTS.end() <= pod.ephemeral.end()
    };
    let none = uids(&covers);
    if !none.is_empty() {
        findings.push(Finding::warning(
            PORTS,
            format!("net.ipv4.ip_local_port_range leaves no port for a listener in {} (by uid)", list(none)),
            format!(
                "these pods can't be enrolled; leave a port between {} and {} out of the range",
                LISTENER_PORTS.start(),
                LISTENER_PORTS.end()
            ),
        ));
    }
    let moved = uids(&|pod| pod.ephemeral.contains(LISTENER_PORTS.start()) && !covers(pod));
    if !moved.is_empty() {
        findings.push(Finding::ok(
            PORTS,
            format!(
                "net.ipv4.ip_local_port_range has {} in {} (by uid): the listener takes a port outside of it",
                LISTENER_PORTS.start(),
                list(moved)
            ),
        ));
    }
    findings
}

/// Whether the calling thread's network namespace has Istio's rules. Asks the tools that there are, and none that would
/// make a table where there is none.
fn redirects() -> bool {
    let legacy = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    let mut questions = vec![("nft", &["list", "chains"][..]), ("iptables-nft-save", &["-t", "nat"])];
    if legacy.lines().any(|table| table == "nat") {
        questions.push(("iptables-legacy-save", &["-t", "nat"]));
    }
    questions.into_iter().any(|(program, arguments)| {
        let output =
            Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(CHAIN))
    })
}

fn is_sidecar(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    matches!(name.trim_end(), "pilot-agent" | "envoy")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn pod(uid: &str, ephemeral: RangeInclusive<u16>) -> Facts {
        Facts { uid: uid.to_owned(), redirects: false, has_sidecar: false, ephemeral }
    }

    #[test]
    fn pods_are_judged_by_what_they_bring() {
        let usual = 32_768..=60_999;
        assert_eq!(judge(&[pod("a", usual.clone())]), []);
        let findings = judge(&[
            Facts { redirects: true, ..pod("rules", usual.clone()) },
            Facts { has_sidecar: true, ..pod("sidecar", usual.clone()) },
            pod("wide", 1024..=65_535),
            pod("low", 10_000..=20_000),
            pod("usual", usual),
        ]);
        let told: Vec<_> = findings.iter().map(|finding| (finding.verdict, finding.found.as_str())).collect();
        assert_eq!(
            told,
            [
                (Verdict::Warning, "its sidecar or its iptables rules are in rules, sidecar (by uid)"),
                (
                    Verdict::Warning,
                    "net.ipv4.ip_local_port_range leaves no port for a listener in wide (by uid)"
                ),
                (
                    Verdict::Ok,
                    "net.ipv4.ip_local_port_range has 15001 in low (by uid): the listener takes a port outside of it"
                ),
            ]
        );
    }
}
