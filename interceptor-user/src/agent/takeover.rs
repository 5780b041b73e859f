//! One agent after another, with no connection refused in between.
//!
//! The successor prepares everything, asks the agent before it to change nothing any more, and takes over the pins. It
//! opens listeners of its own in each pod's namespace, on other ports, and turns the pod's entry in the kernel to them,
//! pod by pod. The one before goes on serving what was sent to its listeners, leaves a pod when the kernel sends nothing
//! there any more, and ends when what was open has ended. No socket changes hands, so it does not matter which versions
//! the two are of, nor in which containers they run.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use http::Method;

use super::control::Control;
use crate::admin::client::{self, ClientError, Uri};

/// A connection that was sent to the listener before the kernel's entry was turned is in its queue by then.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// A successor that has not taken over by then has failed.
const SUCCESSOR_WAIT_MAX: Duration = Duration::from_secs(60);

/// Since when another agent takes over.
#[derive(Debug)]
pub(super) struct Retired {
    since: Instant,
    /// The number of our socket's file: a successor puts its own in its place.
    socket: Option<u64>,
}

/// Whether an agent listens.
pub(super) fn is_there(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// Asks the agent before us, if there is one, to change nothing any more.
pub(super) fn ask_to_retire(socket: &Path) -> anyhow::Result<()> {
    match client::ask(socket, Method::POST, &Uri::new("/retire", &[]), Vec::new()) {
        Ok(_) => Ok(()),
        Err(ClientError::NoSocket { .. } | ClientError::Ended { .. } | ClientError::NotASocket { .. }) => Ok(()),
        Err(error) => Err(error).with_context(|| {
            format!(
                "an agent runs at {} and does not make room: end it first, or give this one another --agent-socket and \
                 --pins",
                socket.display()
            )
        }),
    }
}

impl Control {
    pub(super) fn is_retired(&self) -> bool {
        self.retired.is_some()
    }

    pub(super) fn retire(&mut self) {
        self.waiting.clear();
        let socket = inode(&self.settings.agent_socket);
        self.retired = Some(Retired { since: Instant::now(), socket });
    }

    /// Leaves the pods that the successor serves. True when there are none left.
    ///
    /// # Errors
    /// When there is no successor after all: somebody has to start us again.
    pub(super) fn leave_pods(&mut self) -> anyhow::Result<bool> {
        let Some(retired) = &self.retired else { return Ok(false) };
        let has_failed = retired.since.elapsed() > SUCCESSOR_WAIT_MAX
            && (retired.socket == inode(&self.settings.agent_socket)
                || !is_there(&self.settings.agent_socket));
        for pod in self.pods.values_mut() {
            let Some(carried) = &mut pod.carried else { continue };
            if self.datapath.listener_port(carried.netns.cookie)? == Some(carried.listener.port) {
                if has_failed {
                    bail!("an agent asked us to make room and has not taken over pod {}", pod.name());
                }
                carried.left = None;
                continue;
            }
            let left = *carried.left.get_or_insert_with(Instant::now);
            if left.elapsed() > IN_FLIGHT {
                self.proxy.remove(carried.workload, self.settings.drain);
                pod.carried = None;
            }
        }
        Ok(self.pods.values().all(|pod| pod.carried.is_none()))
    }
}
