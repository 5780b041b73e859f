//! The kubelet's questions about the agent of one container. During an upgrade there are two agents on a node, and only the
//! newer answers on the socket: its health must not be taken for the other's.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use rustix::net::sockopt::socket_peercred;
use tokio::time::timeout;

use crate::admin::client::{self, Uri};

/// Below the kubelet's own patience, so that it is told why.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Probe {
    /// Would a restart help?
    Alive,
    /// Is every pod of the node served that should be?
    Ready,
}

/// Asks the agent in the container that we are in, and gives its answer.
///
/// # Errors
/// When the answer is no, or there is none.
pub fn probe(probe: Probe, socket: &Path) -> anyhow::Result<String> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("no agent answers at {}", socket.display()))?;
    let peer = socket_peercred(&stream).context("can't tell who answers")?.pid.as_raw_nonzero();
    if !is_in_our_container(Path::new("/proc"), peer.get())? {
        match probe {
            // It has taken over from the one here, which ends its connections and is not to be started again.
            Probe::Alive => return Ok(format!("process {peer} of another container has taken over\n")),
            Probe::Ready => {
                bail!("the agent that answers is another one, in another container (process {peer})")
            }
        }
    }
    let path = match probe {
        Probe::Alive => "/healthz",
        Probe::Ready => "/readyz",
    };
    let uri = Uri::new(path, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime
        .block_on(async { timeout(PATIENCE, client::exchange(socket, Method::GET, &uri, Vec::new())).await });
    let answer =
        answer.with_context(|| format!("the agent has not answered for {} s", PATIENCE.as_secs()))??;
    Ok(answer.text)
}

/// Containers have a cgroup each; what the kubelet starts in one is in its cgroup, too.
fn is_in_our_container(proc: &Path, pid: i32) -> anyhow::Result<bool> {
    let cgroups = |process: &str| {
        let path = proc.join(process).join("cgroup");
        fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    };
    Ok(cgroups(&pid.to_string())? == cgroups("self")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_apart_by_their_cgroups() {
        let proc = tempfile::tempdir().unwrap();
        for (process, cgroup) in [
            ("self", "0::/kubepods/pod1/a\n"),
            ("7", "0::/kubepods/pod1/a\n"),
            ("8", "0::/kubepods/pod2/b\n"),
        ] {
            fs::create_dir(proc.path().join(process)).unwrap();
            fs::write(proc.path().join(process).join("cgroup"), cgroup).unwrap();
        }
        assert!(is_in_our_container(proc.path(), 7).unwrap());
        assert!(!is_in_our_container(proc.path(), 8).unwrap());
        assert!(is_in_our_container(proc.path(), 9).is_err());
    }
}
