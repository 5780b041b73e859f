//! Who else is attached to the hooks of pods and of what is above them, and what that means for us.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::Finding;
use super::cgroups::{Cgroups, list};
use crate::datapath::{Attached, ProgramNames, Sharing, attached};

const WHAT: &str = "other hooks";
/// Whose a program is, by how its name begins, and how it gets along with us.
const KNOWN: &[(&str, &str, &str)] = &[
    ("cil_", "Cilium", CILIUM),
    ("sock4_", "Cilium", CILIUM),
    ("sock6_", "Cilium", CILIUM),
    (
        "cali",
        "Calico",
        "its load balancing sees addresses after us: connections through the proxy meet it when the proxy connects",
    ),
    ("sd_", "systemd", "accounting and firewall of units, which sees packets as before"),
    ("mb_", "Merbridge", "it redirects the same connections to Istio's sidecars: uninstall one of the two"),
    ("kmesh", "Kmesh", "it redirects the same connections: uninstall one of the two"),
];
const CILIUM: &str = "its service load balancing sees addresses after us: connections through the proxy meet it when the \
    proxy connects";

/// Attachments of one cgroup.
#[derive(Debug)]
struct Level {
    directory: PathBuf,
    attached: Vec<Attached>,
}

pub(super) fn findings(cgroups: &Cgroups) -> Vec<Finding> {
    match levels(cgroups) {
        Ok(levels) => judge(&levels),
        Err(error) => vec![Finding::warning(
            WHAT,
            format!("can't be listed: {error}"),
            "run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN",
        )],
    }
}

/// From the root of the hierarchy to the pods.
fn levels(cgroups: &Cgroups) -> io::Result<Vec<Level>> {
    let names = ProgramNames::read();
    let mut directories: BTreeSet<PathBuf> = BTreeSet::from([cgroups.root.clone()]);
    if let Some(kubepods) = &cgroups.kubepods {
        let above = kubepods.directory.ancestors().take_while(|directory| *directory != cgroups.root);
        directories.extend(above.map(Path::to_owned));
        directories.extend(kubepods.parents()?);
        directories.extend(kubepods.pods()?.into_iter().map(|pod| pod.directory));
    }
    let mut levels = Vec::new();
    for directory in directories {
        let opened = match File::open(&directory) {
            // The pod ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        levels.push(Level { attached: attached(&opened, &names)?, directory });
    }
    Ok(levels)
}

fn judge(levels: &[Level]) -> Vec<Finding> {
    let mut findings = Vec::new();
    // By owner and how it shares: the hooks, and where.
    let mut others: BTreeMap<&str, (BTreeSet<&str>, BTreeSet<String>, &str)> = BTreeMap::new();
    for level in levels {
        for attached in level.attached.iter().filter(|attached| !attached.is_ours) {
            let known = KNOWN.iter().find(|(prefix, ..)| attached.name.starts_with(prefix));
            let owner = known.map_or("unknown", |(_, owner, _)| owner);
            match attached.sharing {
                Sharing::Multi => {}
                Sharing::Override => findings.push(Finding::warning(
                    WHAT,
                    told(attached, owner, level),
                    "it is attached so that it does not run for pods that we hook (BPF_F_ALLOW_OVERRIDE): see whether \
                     whoever attached it relies on it",
                )),
                Sharing::Exclusive => findings.push(Finding::failure(
                    WHAT,
                    told(attached, owner, level),
                    "it is attached so that nothing may be attached beside or below it (without BPF_F_ALLOW_MULTI): \
                     upgrade or stop whoever attached it",
                )),
            }
            let meaning = known.map_or(
                "not known to us: see that it does not rewrite the same connections",
                |(_, _, meaning)| meaning,
            );
            let (hooks, places, _) =
                others.entry(owner).or_insert_with(|| (BTreeSet::new(), BTreeSet::new(), meaning));
            hooks.insert(attached.hook);
            places.insert(level.directory.display().to_string());
        }
    }
    for (owner, (hooks, places, meaning)) in others {
        let found = format!("{owner} has {} on {}", list(hooks), list(places));
        findings.push(match owner {
            "Merbridge" | "Kmesh" | "unknown" => Finding::warning(WHAT, found, meaning),
            _ => Finding::ok(WHAT, format!("{found}: {meaning}")),
        });
    }
    if findings.is_empty() {
        findings.push(Finding::ok(WHAT, "nobody else's"));
    }
    findings
}

fn told(attached: &Attached, owner: &str, level: &Level) -> String {
    let Attached { hook, id, name, .. } = attached;
    format!("program {name} (id {id}, {owner}) on {hook} of {}", level.directory.display())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn level(directory: &str, attachments: &[(&'static str, &str, Sharing)]) -> Level {
        let attached = |(hook, name, sharing): &(&'static str, &str, Sharing)| Attached {
            hook,
            id: 7,
            name: (*name).to_owned(),
            is_ours: *name == "connect4",
            sharing: *sharing,
        };
        Level { directory: directory.into(), attached: attachments.iter().map(attached).collect() }
    }

    #[test]
    fn neighbours_are_named_and_judged() {
        for (levels, expected) in [
            (vec![], [(Verdict::Ok, "nobody else's")].to_vec()),
            (
                vec![level("/c/kubepods/poda", &[("connect4", "connect4", Sharing::Multi)])],
                vec![(Verdict::Ok, "nobody else's")],
            ),
            (
                vec![level(
                    "/c",
                    &[
                        ("connect4", "cil_sock4_conne", Sharing::Multi),
                        ("connect6", "cil_sock6_conne", Sharing::Multi),
                        ("egress", "sd_fw_egress", Sharing::Multi),
                    ],
                )],
                vec![
                    (Verdict::Ok, "Cilium has connect4, connect6 on /c: its service load balancing sees"),
                    (Verdict::Ok, "systemd has egress on /c: accounting"),
                ],
            ),
            (
                vec![level("/c", &[("connect4", "mine", Sharing::Exclusive)])],
                vec![
                    (Verdict::Failure, "program mine (id 7, unknown) on connect4 of /c"),
                    (Verdict::Warning, "unknown has connect4 on /c"),
                ],
            ),
            (
                vec![level("/c", &[("connect4", "mb_connect4", Sharing::Override)])],
                vec![
                    (Verdict::Warning, "program mb_connect4 (id 7, Merbridge) on connect4 of /c"),
                    (Verdict::Warning, "Merbridge has connect4 on /c"),
                ],
            ),
        ] {
            let findings = judge(&levels);
            assert_eq!(findings.len(), expected.len(), "{findings:?}");
            for (finding, (verdict, found)) in findings.iter().zip(expected) {
                assert_eq!(finding.verdict, verdict, "{finding:?}");
                assert!(finding.found.starts_with(found), "{finding:?}");
            }
        }
    }

    #[test]
    fn many_places_are_counted() {
        let levels: Vec<Level> = (0..20)
            .map(|at| level(&format!("/c/kubepods/pod{at:02}"), &[("connect4", "x", Sharing::Multi)]))
            .collect();
        let findings = judge(&levels);
        assert!(findings[0].found.ends_with("/c/kubepods/pod07 and 12 more"), "{findings:?}");
    }
}
