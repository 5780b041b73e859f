//! The chained CNI plugin: a pod is enrolled before its first process runs, because the runtime waits for us. And the
//! installer, which puts the plugin into a node's CNI configuration and keeps it there.
//!
//! The plugin knows nothing of pods or policies. It asks the agent and passes on its word.

mod agent;
mod call;
mod conflist;
mod failure;
mod install;
mod keep;
mod log;
mod network;
mod plugin;

pub use conflist::PLUGIN;
pub use install::{Configured, Installation, Installed, installed, remove_executable, uninstall};
pub use keep::lock;
pub use network::{DEADLINE, IfAgentDown, Keys};
pub use plugin::run;

/// Whether a container runtime started us: by the name of the executable, without arguments, and with the environment of
/// the CNI specification.
pub fn is_called_by_runtime() -> bool {
    std::env::args_os().len() == 1 && std::env::var_os("CNI_COMMAND").is_some()
}
