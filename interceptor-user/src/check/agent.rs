//! Whether an agent runs, what agents have left in the kernel, and whether pods wait for one.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use interceptor_common::policy::SCHEMA;

use super::{Finding, Places};
use crate::cni;

pub(super) fn findings(places: &Places) -> Vec<Finding> {
    let is_alive = match UnixStream::connect(&places.agent_socket) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(false)
        }
        Err(error) => Err(error),
    };
    let mut findings = vec![agent(&is_alive, &places.agent_socket)];
    findings.push(pins(&schemas(&places.pins), matches!(is_alive, Ok(true)), &places.pins));
    findings.extend(plugin(&places.cni_conf_dir));
    findings
}

fn agent(is_alive: &io::Result<bool>, socket: &Path) -> Finding {
    const WHAT: &str = "agent";
    match is_alive {
        Ok(true) => Finding::ok(WHAT, format!("listens on {}", socket.display())),
        Ok(false) => Finding::ok(WHAT, "none runs"),
        Err(error) => {
            Finding::warning(WHAT, format!("{} can't be asked: {error}", socket.display()), "run as root")
        }
    }
}

/// The schemas of which something is pinned.
fn schemas(pins: &Path) -> Vec<u32> {
    let names = fs::read_dir(pins).into_iter().flatten().filter_map(Result::ok);
    let schema = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix('v')?.parse().ok();
    let mut schemas: Vec<u32> = names.filter_map(schema).collect();
    schemas.sort_unstable();
    schemas
}

fn pins(schemas: &[u32], is_alive: bool, directory: &Path) -> Finding {
    const WHAT: &str = "pins";
    let shown = directory.display();
    let others: Vec<String> =
        schemas.iter().filter(|schema| **schema != SCHEMA).map(ToString::to_string).collect();
    if !others.is_empty() {
        return Finding::warning(
            WHAT,
            format!(
                "schema {} below {shown}: an agent of this version ({SCHEMA}) takes the hooks over, and refuses connections \
                 until it has enrolled their pods",
                others.join(", ")
            ),
            "start this version's agent, or remove what is there with `interceptor cleanup`",
        );
    }
    match (schemas.is_empty(), is_alive) {
        (true, _) => Finding::ok(WHAT, format!("none below {shown}")),
        (false, true) => Finding::ok(WHAT, format!("schema {SCHEMA} below {shown}")),
        (false, false) => Finding::warning(
            WHAT,
            format!(
                "schema {SCHEMA} below {shown}, and no agent serves it: connections of enrolled pods are refused"
            ),
            "start the agent, or give the pods their connections back with `interceptor cleanup`",
        ),
    }
}

/// Only where there are network configurations at all: in the agent's container there are none.
fn plugin(conf_dir: &Path) -> Option<Finding> {
    const WHAT: &str = "CNI plugin";
    match cni::installed(conf_dir).ok()? {
        cni::Installed::In(file) => Some(Finding::ok(WHAT, format!("in {}", file.display()))),
        cni::Installed::Not(file) => Some(Finding::warning(
            WHAT,
            format!("not in {}", file.display()),
            "pods start without waiting for the agent; put it there with `interceptor cni install`",
        )),
        cni::Installed::NoNetwork => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn pins_of_every_kind() {
        for (schemas, is_alive, verdict, found) in [
            (vec![], false, Verdict::Ok, "none below /pins".to_owned()),
            (vec![SCHEMA], true, Verdict::Ok, format!("schema {SCHEMA} below /pins")),
            (
                vec![SCHEMA],
                false,
                Verdict::Warning,
                format!("schema {SCHEMA} below /pins, and no agent serves it"),
            ),
            (vec![SCHEMA, SCHEMA + 1], true, Verdict::Warning, format!("schema {} below /pins", SCHEMA + 1)),
        ] {
            let finding = pins(&schemas, is_alive, Path::new("/pins"));
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.found.starts_with(&found), "{finding:?}");
        }
    }

    #[test]
    fn schemas_are_found_by_their_directories() {
        let pins = tempfile::tempdir().unwrap();
        for name in ["v2", "v10", "vx", "other"] {
            fs::create_dir(pins.path().join(name)).unwrap();
        }
        assert_eq!(schemas(pins.path()), [2, 10]);
        assert_eq!(schemas(&pins.path().join("missing")), [0; 0]);
    }

    #[test]
    fn the_plugin_is_looked_for_where_networks_are() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(plugin(directory.path()), None);
        assert_eq!(plugin(&directory.path().join("missing")), None);
        let list = |plugins: &str| format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{plugins}]}}"#);
        fs::write(directory.path().join("10.conflist"), list(r#"{"type":"ptp"}"#)).unwrap();
        assert_eq!(plugin(directory.path()).unwrap().verdict, Verdict::Warning);
        let both = list(r#"{"type":"ptp"},{"type":"interceptor-cni"}"#);
        fs::write(directory.path().join("10.conflist"), both).unwrap();
        assert_eq!(plugin(directory.path()).unwrap().verdict, Verdict::Ok);
    }
}
