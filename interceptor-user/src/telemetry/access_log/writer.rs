//! The thread that writes access log lines, in batches of whole lines.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{AccessLogError, AccessLogTarget, Message, State};
use crate::telemetry::own_descriptor;

/// How long lines gather after a batch was written: with more to come, workers needn't wake this thread
/// for each of them. A line after a quiet time is written at once.
const GATHER: Duration = Duration::from_millis(5);

/// A pipe takes so much in one piece (PIPE_BUF): lines of others who write to the same descriptor
/// come between ours, never into one.
const SHARED_BATCH_BYTES: usize = 4096;
const FILE_BATCH_BYTES: usize = 64 << 10;

/// A destination that takes nothing for so long is worth a word.
const SILENT_SECONDS_MAX: i64 = 5;

pub(super) enum Destination {
    /// Standard output, or what else this process was started with: others write there, too.
    Shared(File),
    File {
        path: PathBuf,
        file: File,
        is_pipe: bool,
    },
}

/// Why a batch was not written, and how many of its bytes were.
struct Unwritten {
    written: usize,
    error: io::Error,
}

impl Destination {
    pub(super) fn open(target: AccessLogTarget) -> Result<Option<Self>, AccessLogError> {
        match target {
            AccessLogTarget::Off => Ok(None),
            AccessLogTarget::Stdout => Self::open_path("/dev/stdout".into()).map(Some),
            AccessLogTarget::File(path) => Self::open_path(path).map(Some),
        }
    }

    fn open_path(path: PathBuf) -> Result<Self, AccessLogError> {
        let opened = match own_descriptor::open(&path) {
            Some(duplicate) => duplicate.map(Self::Shared),
            None => open(&path).map(|(file, is_pipe)| Self::File { path: path.clone(), file, is_pipe }),
        };
        opened.map_err(|source| AccessLogError::Open { path, source })
    }

    fn batch_bytes(&self) -> usize {
        match self {
            Self::Shared(_) | Self::File { is_pipe: true, .. } => SHARED_BATCH_BYTES,
            Self::File { is_pipe: false, .. } => FILE_BATCH_BYTES,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Shared(file) | Self::File { file, .. } => file.as_fd(),
        }
    }

    /// As people call it.
    fn name(&self) -> String {
        match self {
            Self::Shared(_) => "access log".to_owned(),
            Self::File { path, .. } => format!("access log {}", path.display()),
        }
    }

    fn write_all(&self, bytes: &[u8]) -> Result<(), Unwritten> {
        let mut written = 0;
        while written < bytes.len() {
            let step = self.wait().and_then(|()| rustix::io::write(self.fd(), &bytes[written..]));
            match step {
                Ok(0) => return Err(Unwritten { written, error: io::ErrorKind::WriteZero.into() }),
                Ok(length) => written += length,
                // Whoever shares a terminal or pipe with us may have made it non-blocking.
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(Unwritten { written, error: error.into() }),
            }
        }
        Ok(())
    }

    /// Until it takes something, which a pipe without a reader may never do.
    fn wait(&self) -> rustix::io::Result<()> {
        let mut silent = Some(Timespec { tv_sec: SILENT_SECONDS_MAX, tv_nsec: 0 });
        loop {
            match poll(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::OUT)], silent.as_ref()) {
                Ok(0) => {
                    tracing::warn!(
                        "{}: nothing has been read from it for {SILENT_SECONDS_MAX} s: lines wait, and are dropped \
                         when too many do",
                        self.name()
                    );
                    silent = None;
                }
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Opening a pipe for writing would wait for somebody who reads it. Opening it for both does not, and keeps what is in it
/// while its readers come and go.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let is_pipe = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    let file = OpenOptions::new().read(is_pipe).append(true).create(true).open(path)?;
    Ok((file, is_pipe))
}

pub(super) struct Writer {
    destination: Destination,
    queued: Receiver<Message>,
    state: Arc<State>,
    batch: Vec<u8>,
    batch_lines: u64,
    /// Lines that were lost since it was last written to: so a full disk is told once, not for every batch.
    lost_lines: u64,
    /// What was written last is a part of a line.
    is_torn: bool,
}

impl Writer {
    pub(super) fn new(destination: Destination, queued: Receiver<Message>, state: Arc<State>) -> Self {
        let (batch, batch_lines, lost_lines, is_torn) = (Vec::new(), 0, 0, false);
        Self { destination, queued, state, batch, batch_lines, lost_lines, is_torn }
    }

    /// Until the log is closed.
    pub(super) fn run(mut self) {
        // Nobody left to send: the log is closed without having been told to.
        while let Ok(first) = self.queued.recv() {
            if !self.take(first) {
                return;
            }
            std::thread::sleep(GATHER);
        }
    }

    /// Writes everything that is queued. False at the end.
    fn take(&mut self, first: Message) -> bool {
        let mut next = Ok(first);
        let mut is_closed = false;
        loop {
            match next {
                Ok(Message::Line(line)) => self.append(&line),
                Ok(Message::Wake) => {}
                Ok(Message::Close) => is_closed = true,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                    self.flush();
                    return !is_closed;
                }
            }
            if self.state.is_reopen_wanted.swap(false, Ordering::AcqRel) {
                self.flush();
                self.reopen();
            }
            next = self.queued.try_recv();
        }
    }

    fn append(&mut self, line: &[u8]) {
        self.state.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        if self.batch.len() + line.len() > self.destination.batch_bytes() {
            self.flush();
        }
        self.batch.extend_from_slice(line);
        self.batch_lines += 1;
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.is_torn {
            self.batch.insert(0, b'\n');
        }
        match self.destination.write_all(&self.batch) {
            Ok(()) => {
                if self.lost_lines > 0 {
                    let name = self.destination.name();
                    tracing::warn!("{name}: is written again; lines that are lost: {}", self.lost_lines);
                }
                (self.lost_lines, self.is_torn) = (0, false);
            }
            Err(Unwritten { written, error }) => self.lose_from(written, &error),
        }
        self.batch.clear();
        self.batch.shrink_to(FILE_BATCH_BYTES);
        self.batch_lines = 0;
    }

    /// The lines that had begun when so many bytes of the batch were written are in order, the others are lost.
    fn lose_from(&mut self, written: usize, error: &io::Error) {
        let (there, rest) = self.batch.split_at(written);
        let ends = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        let lost = u64::try_from(ends(rest)).unwrap_or(self.batch_lines).clamp(1, self.batch_lines.max(1));
        if let Some(last) = there.last() {
            self.is_torn = *last != b'\n';
        }
        self.state.dropped.fetch_add(lost, Ordering::Relaxed);
        if self.lost_lines == 0 {
            let name = self.destination.name();
            tracing::warn!("{name}: {error}: lines are dropped until it can be written again");
        }
        self.lost_lines += lost;
    }

    fn reopen(&mut self) {
        if let Destination::File { path, file, is_pipe } = &mut self.destination {
            match open(path) {
                Ok(opened) => {
                    (*file, *is_pipe) = opened;
                    self.is_torn = false;
                }
                Err(error) => tracing::warn!(
                    path = %path.display(), %error,
                    "access log: can't be reopened, the file open so far is written on",
                ),
            }
        }
    }
}
