//! Writes access records to a file or to standard output without ever making a connection wait.
//!
//! Workers format a line and put it into a bounded queue; one thread writes. What does not fit is
//! dropped and counted: the log is not worth the traffic.

mod format;
mod writer;

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::snapshot::{AccessLogEncoding, LogFormat, MeshSettings};
use crate::telemetry::record::AccessRecord;

/// Bounds of what waits for the writer.
const LINES_MAX: usize = 8192;
const BYTES_MAX: usize = 8 << 20;
/// How long closing waits for a destination that takes nothing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where access log lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogTarget {
    #[default]
    Off,
    Stdout,
    File(PathBuf),
}

impl AccessLogTarget {
    /// MeshConfig.accessLogFile and `--access-log`: nothing is off, `-` is standard output.
    pub fn new(file: &str) -> Self {
        match file {
            "" => Self::Off,
            "-" => Self::Stdout,
            path => Self::File(path.into()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    #[error("access log {}: can't be opened for appending", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("access log: no thread to write it")]
    Thread { source: std::io::Error },
}

/// Handle to the log; clones write to the same one. When the last is dropped it is closed.
#[derive(Clone, Debug)]
pub struct AccessLog(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    format: Arc<LogFormat>,
    queue: SyncSender<Message>,
    state: Arc<State>,
    /// Told by the writer when it ends. The lock is taken by `close` alone.
    ended: Mutex<Receiver<()>>,
}

/// What workers and writer both see.
#[derive(Debug, Default)]
struct State {
    queued_bytes: AtomicUsize,
    dropped: AtomicU64,
    is_closed: AtomicBool,
    is_reopen_wanted: AtomicBool,
}

#[derive(Debug)]
enum Message {
    Line(Box<[u8]>),
    /// Look at the state.
    Wake,
    Close,
}

impl AccessLog {
    /// As the command line asks, else as the mesh configuration does; off where neither says where.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn configured(
        target: Option<&AccessLogTarget>,
        encoding: Option<AccessLogEncoding>,
        mesh: &MeshSettings,
    ) -> Result<Self, AccessLogError> {
        let of_mesh = || mesh.access_log_file.as_deref().map(AccessLogTarget::new);
        let target = target.cloned().or_else(of_mesh).unwrap_or(AccessLogTarget::Off);
        let encoding = encoding.unwrap_or(mesh.access_log_encoding);
        let format = mesh.access_log_format.clone().filter(|_| encoding == mesh.access_log_encoding);
        Self::open(target, format.unwrap_or_else(|| Arc::new(encoding.into())))
    }

    /// # Errors
    /// When the file can't be opened or the thread can't be started.
    pub fn open(target: AccessLogTarget, format: Arc<LogFormat>) -> Result<Self, AccessLogError> {
        let Some(destination) = writer::Destination::open(target)? else { return Ok(Self(None)) };
        let (queue, queued) = sync_channel(LINES_MAX);
        let (ending, ended) = sync_channel(1);
        let state = Arc::new(State::default());
        let writer = writer::Writer::new(destination, queued, Arc::clone(&state));
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                writer.run();
                drop(ending); // wakes whoever closes
            })
            .map_err(|source| AccessLogError::Thread { source })?;
        Ok(Self(Some(Arc::new(Shared { format, queue, state, ended: Mutex::new(ended) }))))
    }

    /// How lines are written, if there is a log.
    pub fn format(&self) -> Option<&LogFormat> {
        self.0.as_ref().map(|shared| &*shared.format)
    }

    pub fn enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Queues the record's line. Never blocks; a line that finds no room is counted as dropped.
    pub fn write(&self, record: &AccessRecord) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let Some(shared) = &self.0 else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            format::append_line(line, &shared.format, record);
            shared.queue_line(line);
            line.shrink_to(16 << 10);
        });
    }

    /// Lines that were not written: no room in the queue, or no room at the destination.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.state.dropped.load(Ordering::Relaxed))
    }

    /// Has the file opened anew by its path, after it was rotated away.
    pub fn reopen(&self) {
        let Some(shared) = &self.0 else { return };
        shared.state.is_reopen_wanted.store(true, Ordering::Release);
        // A full queue has the writer awake already.
        drop(shared.queue.try_send(Message::Wake));
    }

    /// Returns when every line queued before is written, or its destination took nothing for five
    /// seconds. Lines written later are dropped.
    pub fn close(&self) {
        if let Some(shared) = &self.0 {
            shared.close();
        }
    }
}

impl Shared {
    fn queue_line(&self, line: &[u8]) {
        let state = &self.state;
        let queued = state.queued_bytes.fetch_add(line.len(), Ordering::Relaxed);
        let fits = queued + line.len() <= BYTES_MAX && !state.is_closed.load(Ordering::Relaxed);
        if !fits || self.queue.try_send(Message::Line(line.into())).is_err() {
            state.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            state.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn close(&self) {
        if self.state.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Close) {
            if Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // A poisoned lock would mean that another `close` panicked: there is nothing left to wait for.
        if let Ok(ended) = self.ended.lock() {
            let left = deadline.saturating_duration_since(Instant::now());
            // Nothing is ever sent: the channel is disconnected when the writer has ended.
            if ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("access log: its destination takes nothing, the last lines are lost");
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
