//! The plugin: one call of the runtime, from environment and standard input to one JSON object on standard output.
//!
//! ADD ends when the pod is enrolled, or fails, and the sandbox with it. DEL never fails: a pod that can't be deleted
//! is worse than one that the agent forgets a moment later by itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;

use super::agent::{self, Trouble};
use super::call::{Call, Command, PodName};
use super::failure::{self, Failure};
use super::log;
use super::network::{IfAgentDown, Network, VERSIONS};

/// An agent that is there forgets a pod at once.
const PATIENCE_FOR_DEL: Duration = Duration::from_secs(2);
/// No network configuration is that large.
const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Answers the call that the environment describes.
pub fn run() -> anyhow::Result<ExitCode> {
    let mut input = Vec::new();
    let read = io::stdin().lock().take(INPUT_BYTES_MAX).read_to_end(&mut input);
    let call = Call::read(|name| std::env::var(name).ok());
    let is_del = std::env::var_os("CNI_COMMAND").is_some_and(|command| command == "DEL");
    let network = match read {
        Ok(_) => Network::parse(&input),
        Err(error) => Err(Failure::new(failure::IO_FAILURE, format!("can't read standard input: {error}"))),
    };
    let started = Instant::now();
    let answered = answer(&call, &network);
    let file = network.as_ref().ok().and_then(|network| network.keys.log_file.as_deref());
    if let Some(line) = line(&call, &answered, started.elapsed()) {
        log::write(file, &line);
    }
    let version = network.as_ref().map_or("", |network| &network.cni_version);
    match answered {
        Ok(answer) => {
            print(&answer.output)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(_) if is_del => Ok(ExitCode::SUCCESS),
        Err(failure) => {
            print(&with_version(&failure, version)?)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn with_version(failure: &Failure, version: &str) -> anyhow::Result<String> {
    let mut object = serde_json::to_value(failure)?;
    object["cniVersion"] = json!(spoken(version));
    Ok(object.to_string())
}

/// The runtime's version where we speak it, otherwise our newest.
fn spoken(version: &str) -> &str {
    VERSIONS.iter().copied().find(|known| *known == version).unwrap_or("1.1.0")
}

/// What is printed, and what is told of it in the log.
struct Answer {
    output: String,
    note: &'static str,
}

fn answer(call: &Result<Call, Failure>, network: &Result<Network, Failure>) -> Result<Answer, Failure> {
    let call = call.as_ref().map_err(Clone::clone)?;
    let parsed = || network.as_ref().map_err(Clone::clone);
    let silent = |note| Answer { output: String::new(), note };
    match call.command {
        Command::Add => {
            let network = parsed()?;
            network.require_version("0.3.1")?;
            // Looked for first: a pod that has no network must not be enrolled.
            let output = network.result()?;
            Ok(Answer { output, note: enrolled(call, network)? })
        }
        Command::Check => {
            let network = parsed()?;
            network.require_version("0.4.0")?;
            enrolled(call, network).map(silent)
        }
        Command::Del => Ok(silent(forgotten(call, parsed()?))),
        // The agent sees for itself which pods are gone, and an agent that is away must not take the node's other pods
        // down: a runtime to which STATUS says no makes the whole node NotReady.
        Command::Gc | Command::Status => {
            parsed()?.require_version("1.1.0")?;
            Ok(silent(""))
        }
        Command::Version => {
            // Before 0.2.0 of the specification there was no input.
            let version = network.as_ref().map_or("", |network| &network.cni_version);
            let output = json!({"cniVersion": spoken(version), "supportedVersions": VERSIONS});
            Ok(Answer { output: output.to_string(), note: "" })
        }
    }
}

/// Returns when the agent has enrolled the pod, or has nothing to do with it.
fn enrolled(call: &Call, network: &Network) -> Result<&'static str, Failure> {
    let pod = match ours(call, network) {
        Ok(pod) => pod,
        Err(why) => return Ok(why),
    };
    let socket = &network.keys.agent_socket;
    let named = format!("{}/{}", pod.namespace, pod.name);
    let netns = Netns::open(&call.netns)?;
    match agent::ask(socket, call, pod, &netns.path, network.deadline) {
        Ok(()) => Ok("the agent agrees"),
        Err(Trouble::Refused(why)) => Err(Failure::new(
            failure::REFUSED,
            format!("interceptor: egress of pod {named} can't be intercepted: {why}"),
        )
        .with_details(
            "the pod is not started, because its connections would pass unseen; mend the cause, or leave the pod out \
             with its label sidecar.istio.io/inject: \"false\"; the log of the agent on this node says more",
        )),
        Err(Trouble::Away(_)) if network.keys.if_agent_down == IfAgentDown::Allow => {
            Ok("started without the agent (ifAgentDown: allow)")
        }
        Err(Trouble::Away(why)) => Err(Failure::new(
            failure::TRY_AGAIN_LATER,
            format!(
                "interceptor: the agent on this node did not enrol pod {named} within {:?}: {why}",
                network.deadline
            ),
        )
        .with_details(format!(
            "the pod is not started, because its connections would pass unseen, and will be tried again; see whether \
             the agent's pod on this node is ready and listens on {}",
            socket.display()
        ))),
    }
}

fn forgotten(call: &Call, network: &Network) -> &'static str {
    let pod = match ours(call, network) {
        Ok(pod) => pod,
        Err(why) => return why,
    };
    let patience = network.deadline.min(PATIENCE_FOR_DEL);
    match agent::ask_once(&network.keys.agent_socket, call, pod, &call.netns, patience) {
        Ok(()) => "the agent knows",
        Err(Trouble::Refused(_) | Trouble::Away(_)) => "the agent will see for itself",
    }
}

/// The pod's network namespace, held open. The agent's container does not see what is mounted on the node after it was
/// started, as the runtime does with the namespace; but it sees our open files.
struct Netns {
    path: String,
    _file: File,
}

impl Netns {
    fn open(path: &str) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| {
            let msg = format!("CNI_NETNS is {path:?}, which can't be opened: {error}");
            Failure::new(failure::INVALID_ENVIRONMENT, msg)
        })?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Ok(Self { path, _file: file })
    }
}

/// The pod, or why it is none that the agent is asked about.
fn ours<'a>(call: &'a Call, network: &Network) -> Result<&'a PodName, &'static str> {
    let pod = call.pod.as_ref().ok_or("no pod of Kubernetes")?;
    if network.keys.exclude_namespaces.contains(&pod.namespace) {
        return Err("the namespace is in excludeNamespaces");
    }
    Ok(pod)
}

/// `None` for calls that nobody needs to hear of.
fn line(call: &Result<Call, Failure>, answered: &Result<Answer, Failure>, took: Duration) -> Option<String> {
    let call = match (call, answered) {
        (Ok(call), _) => call,
        (Err(_), Err(failure)) => return Some(format!("error {failure}")),
        (Err(_), Ok(_)) => return None,
    };
    let mut line = call.command.name().to_owned();
    if let Some(pod) = &call.pod {
        line = format!("{line} pod {}/{}", pod.namespace, pod.name);
    }
    if !call.container_id.is_empty() {
        line = format!("{line} sandbox {}", call.container_id);
    }
    match answered {
        Ok(answer) if answer.note.is_empty() => None,
        Ok(answer) => Some(format!("info {line}: {} ({} ms)", answer.note, took.as_millis())),
        Err(failure) => Some(format!("error {line}: {failure} ({} ms)", took.as_millis())),
    }
}
