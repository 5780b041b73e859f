//! The agent's own HTTP server: health, metrics, what is in force, and the few things that may be asked of the control
//! loop. It reads what the loop shows ([`crate::agent::view`]) and changes nothing itself, but for the log level.
//!
//! The unix socket is root's and serves everything. Over TCP only what reads, and tells nothing of single requests, is
//! served, because everybody who reaches the address may ask.

mod body;
pub mod client;
mod config_dump;
mod config_tables;
mod endpoints;
mod explained;
mod flows;
mod health;
mod listen;
mod metrics;
mod pods;
mod process;
mod query;
mod refusal;
mod requests;
mod server;
mod start;

use std::path::Path;

use tokio::sync::mpsc;

use crate::agent::view::SharedView;
use crate::telemetry::Flows;
use crate::telemetry::logging::LogFilter;

pub use crate::telemetry::exposition::Family;
pub use explained::CARRIED;
pub use health::Heartbeat;
pub use listen::{ListenError, Listener};
pub use requests::{AdminRequest, CniCommand, CniRefusal, CniRequest};
pub use server::serve;
pub use start::start;

/// Where the agent is asked, unless `--agent-socket` says otherwise.
pub const SOCKET: &str = "/run/interceptor/agent.sock";

/// [`SOCKET`] as a path.
pub fn default_socket() -> &'static Path {
    Path::new(SOCKET)
}

/// Appends whole families in Prometheus' text format. Called on a thread that may block, perhaps on several at a time.
pub type MetricSource = Box<dyn Fn(&mut String) + Send + Sync>;

/// What the server is given.
pub struct Admin {
    pub view: SharedView,
    /// Beaten by the control loop whenever it comes round.
    pub heartbeat: Heartbeat,
    /// Whether every thread of the proxy goes on.
    pub workers_alive: Box<dyn Fn() -> bool + Send + Sync>,
    pub log_filter: LogFilter,
    pub metrics: Vec<MetricSource>,
    /// What becomes of connections and requests.
    pub flows: Flows,
    /// To the control loop. When it is full the answer is 503.
    pub requests: mpsc::Sender<AdminRequest>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Admin").field("heartbeat", &self.heartbeat).finish_non_exhaustive()
    }
}
