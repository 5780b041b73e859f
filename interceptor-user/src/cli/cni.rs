//! `interceptor cni`: the plugin, when a runtime calls it; and its installer.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::admin::SOCKET;
use crate::cni::{self, Configured, DEADLINE, IfAgentDown, Installation, Keys};

/// Enrol pods before their first process runs: the CNI plugin, and its installer
///
/// Without a subcommand this is one call of the plugin: environment and standard input are those of the CNI
/// specification (0.3.1 to 1.1.0), standard output has the answer. Container runtimes call it by the name
/// interceptor-cni, which `install` gives it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
        # Which versions of the specification it speaks\n  \
        echo '{\"cniVersion\":\"1.0.0\"}' | CNI_COMMAND=VERSION interceptor cni\n\n  \
        # On a node, as the DaemonSet does\n  \
        interceptor cni install --exclude-namespaces kube-system,interceptor --watch")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Put the plugin behind the node's network plugins
    ///
    /// Copies this executable to BIN-DIR/interceptor-cni, and adds the plugin to the first network configuration in
    /// CONF-DIR, which is the one that runtimes use. A .conf becomes a .conflist. Done twice it changes nothing.
    #[command(after_help = "Example:\n  \
        interceptor cni install --bin-dir /host/opt/cni/bin --conf-dir /host/etc/cni/net.d --watch")]
    Install(Install),
    /// Take the plugin out of the node's network configuration
    ///
    /// Waits for an `install --watch` that runs there to end.
    #[command(after_help = "Example:\n  interceptor cni uninstall --conf-dir /host/etc/cni/net.d")]
    Uninstall {
        #[command(flatten)]
        directories: Directories,

        /// Remove the executable as well
        ///
        /// Not while pods run that were started with it, if the runtime is CRI-O: it calls the plugins again that it
        /// called when a pod started, and can't delete the pod without them.
        #[arg(long)]
        remove_executable: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Directories {
    /// Where the container runtime looks for CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin", value_hint = clap::ValueHint::DirPath)]
    bin_dir: PathBuf,

    /// Where the container runtime looks for network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d", value_hint = clap::ValueHint::DirPath)]
    conf_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Install {
    #[command(flatten)]
    directories: Directories,

    /// Go on, and put the plugin back when another program takes it out; wait for a network where there is none
    #[arg(long)]
    watch: bool,

    /// Where the agent listens, as the container runtime sees it
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    agent_socket: PathBuf,

    /// How long a pod waits for an agent that does not answer
    #[arg(long, value_name = "DURATION", default_value = DEADLINE)]
    deadline: String,

    /// What becomes of a pod when the agent does not answer in time
    #[arg(long, value_enum, default_value = "fail")]
    if_agent_down: IfAgentDown,

    /// Namespaces whose pods start without asking the agent, separated by commas: that of the agent, and those of pods
    /// that it needs
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "kube-system")]
    exclude_namespaces: Vec<String>,

    /// Where the plugin logs its calls, as the container runtime sees it; 1 MiB at most, and as much before it in FILE.1
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        None => cni::run(),
        Some(Action::Install(install)) => install.run(),
        Some(Action::Uninstall { directories, remove_executable }) => {
            directories.uninstall(remove_executable)
        }
    }
}

impl Install {
    fn run(self) -> anyhow::Result<ExitCode> {
        let installation = Installation {
            bin_dir: self.directories.bin_dir,
            conf_dir: self.directories.conf_dir,
            keys: Keys {
                agent_socket: self.agent_socket,
                deadline: self.deadline,
                if_agent_down: self.if_agent_down,
                exclude_namespaces: self.exclude_namespaces,
                log_file: self.log_file,
            },
        };
        if self.watch {
            match installation.keep()? {}
        }
        match installation.install()? {
            Configured::Changed(file) => say(&format!("the plugin is in {}", file.display()))?,
            Configured::Already => say("the plugin was there")?,
            Configured::NoNetwork(unusable) => bail!(
                "no network is configured in {}: install the cluster's network first, or wait for it with --watch{}",
                installation.conf_dir.display(),
                unusable.iter().map(|why| format!("; not usable is {why}")).collect::<String>()
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Directories {
    fn uninstall(&self, remove_executable: bool) -> anyhow::Result<ExitCode> {
        let _lock = cni::lock(&self.conf_dir)?;
        // In this order: a runtime must not look for what is gone.
        for file in cni::uninstall(&self.conf_dir)? {
            say(&format!("the plugin is out of {}", file.display()))?;
        }
        if remove_executable && cni::remove_executable(&self.bin_dir)? {
            say(&format!("{} is removed", self.bin_dir.join(cni::PLUGIN).display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("can't write to standard output")
}
