//! The identity of the mesh from a SPIFFE Workload API, as SPIRE's agent serves it on a unix socket. What it streams is
//! kept in files in memory, which are read as those of `--identity-dir` are: no key is ever on a disk.
//!
//! Whoever asks is attested as what it is, so this is the identity of our own process, never that of a pod.

mod kept;
mod message;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::SigSet;

use crate::compile::Client;
use kept::Kept;

/// How long a start waits for the first answer, of whatever kind.
const FIRST_ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The client with the identity that is followed on this socket from now on, as long as the process lives; the same
/// client without a socket. Waits for the first answer: that there is no identity is told in the log, and is no failure.
///
/// # Errors
/// When there can be no files in memory, or no thread.
pub(crate) fn identified(client: &Client, socket: Option<&Path>) -> anyhow::Result<Client> {
    let Some(socket) = socket else { return Ok(client.clone()) };
    let kept = Kept::new(socket).context("can't keep an identity in memory")?;
    let svid = Some(kept.svid().clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (answered, first): (Sender<()>, Receiver<()>) = channel();
    let following = move || {
        // They are for the threads that handle them.
        let _blocked = SigSet::all().thread_block();
        runtime.block_on(follow(kept, answered));
    };
    thread::Builder::new().name("workload-api".into()).spawn(following)?;
    // Late or not: TLS tells itself where there is no identity.
    let _answered = first.recv_timeout(FIRST_ANSWER_WAIT_MAX);
    Ok(Client { svid, ..client.clone() })
}

/// Never ends: a stream that breaks is opened again.
async fn follow(mut kept: Kept, answered: Sender<()>) {
    let socket = kept.svid().socket.clone();
    let mut wait = RETRY_MIN;
    loop {
        let ended = match stream::Stream::open(&socket).await {
            Ok(mut stream) => loop {
                let response = match stream.next().await {
                    Ok(response) => response,
                    Err(reason) => break reason,
                };
                match kept.keep(&response) {
                    Ok(identity) => {
                        wait = RETRY_MIN;
                        tracing::info!(%identity, "an identity has come from the Workload API");
                    }
                    Err(reason) => tracing::warn!(
                        "the Workload API {} sent an identity that can't be used, the one before stays: {reason}",
                        socket.display()
                    ),
                }
                // Nobody may wait any more.
                let _awaited = answered.send(());
            },
            Err(reason) => reason,
        };
        tracing::warn!(
            "the Workload API {} is away, asking again in {:.1} s; the last identity counts until it expires: {ended}",
            socket.display(),
            wait.as_secs_f32(),
        );
        let _awaited = answered.send(());
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// `unix:///PATH` or `unix:/PATH` (SPIFFE Workload Endpoint §4).
pub(crate) fn parse_socket(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    match path {
        Some(path) if path.starts_with('/') && path.len() > 1 => Ok(path.into()),
        Some(_) | None => {
            Err("expected the absolute path of a unix socket, such as unix:///run/spire/agent.sock".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_socket;

    #[test]
    fn sockets_are_absolute_unix_paths() {
        for (text, path) in [
            ("unix:///run/spire/agent.sock", Some("/run/spire/agent.sock")),
            ("unix:/run/agent.sock", Some("/run/agent.sock")),
            ("unix://run/agent.sock", None),
            ("unix:///", None),
            ("/run/agent.sock", None),
            ("tcp://127.0.0.1:8081", None),
            ("", None),
        ] {
            assert_eq!(parse_socket(text).ok(), path.map(Into::into), "{text}");
        }
    }
}
