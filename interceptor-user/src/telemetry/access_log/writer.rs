//! The thread that writes access log lines, in batches of whole lines.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
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

pub(super) enum Destination {
    /// Standard output, or what else this process was started with: others write there, too.
    Shared(File),
    File {
        path: PathBuf,
        file: File,
    },
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
            None => open(&path).map(|file| Self::File { path: path.clone(), file }),
        };
        opened.map_err(|source| AccessLogError::Open { path, source })
    }

    fn batch_bytes(&self) -> usize {
        match self {
            Self::Shared(_) => SHARED_BATCH_BYTES,
            Self::File { .. } => FILE_BATCH_BYTES,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Shared(file) | Self::File { file, .. } => file.as_fd(),
        }
    }

    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(self.fd(), bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                // Whoever shares a terminal or pipe with us may have made it non-blocking.
                Err(Errno::AGAIN) => {
                    match poll(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::OUT)], None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

pub(super) struct Writer {
    destination: Destination,
    queued: Receiver<Message>,
    state: Arc<State>,
    batch: Vec<u8>,
    batch_lines: u64,
    /// So that a full disk is told once, not for every batch.
    is_failing: bool,
}

impl Writer {
    pub(super) fn new(destination: Destination, queued: Receiver<Message>, state: Arc<State>) -> Self {
        Self { destination, queued, state, batch: Vec::new(), batch_lines: 0, is_failing: false }
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
        match self.destination.write_all(&self.batch) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                self.state.dropped.fetch_add(self.batch_lines, Ordering::Relaxed);
                if !self.is_failing {
                    tracing::warn!(%error, "access log: lines are dropped until it can be written again");
                }
                self.is_failing = true;
            }
        }
        self.batch.clear();
        self.batch.shrink_to(FILE_BATCH_BYTES);
        self.batch_lines = 0;
    }

    fn reopen(&mut self) {
        if let Destination::File { path, file } = &mut self.destination {
            match open(path) {
                Ok(opened) => *file = opened,
                Err(error) => tracing::warn!(
                    path = %path.display(), %error,
                    "access log: can't be reopened, the file open so far is written on",
                ),
            }
        }
    }
}
