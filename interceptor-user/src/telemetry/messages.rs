//! Writes messages to standard error, and never waits there for somebody who does not read them: the request path and the
//! control loop speak, too. What is not taken waits, bounded, for a thread that there is only as long as anything does.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A pipe that takes anything takes so much (PIPE_BUF), and in one piece.
const PIECE_BYTES: usize = 4096;

/// As much waits for a reader.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A reader who has taken nothing for so long is not waited for, even by who may wait.
const PATIENCE: Duration = Duration::from_secs(3);

static STANDARD_ERROR: Messages = Messages::new(None, PATIENCE);

/// For tracing: writes what it is given at once, or leaves it waiting.
pub(super) fn writer() -> impl Write {
    At(&STANDARD_ERROR)
}

/// Writes a line; with many of them, waits for a reader as long as he reads.
pub(crate) fn say(line: &str) {
    STANDARD_ERROR.write(format!("{line}\n").as_bytes(), true);
}

/// Until what waits is written, or nobody reads it.
pub(crate) fn finish() {
    STANDARD_ERROR.finish();
}

struct Messages {
    /// `None` is standard error.
    own: Option<OwnedFd>,
    patience: Duration,
    queue: Mutex<Queue>,
    moved: Condvar,
}

struct Queue {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Since the reader read last.
    lost_lines: usize,
    /// When something was written last, while a thread writes what waits.
    moved_at: Option<Instant>,
}

impl Queue {
    fn is_stalled(&self, patience: Duration) -> bool {
        self.moved_at.is_some_and(|moved| moved.elapsed() >= patience)
    }

    fn is_full(&self) -> bool {
        self.bytes >= WAITING_BYTES_MAX
    }

    /// What to write next, in whole lines where they are short.
    fn next_piece(&mut self) -> Option<Vec<u8>> {
        let mut piece = Vec::new();
        while let Some(next) = self.waiting.pop_front() {
            let room = PIECE_BYTES - piece.len();
            if next.len() <= room {
                piece.extend(next);
                continue;
            }
            if piece.is_empty() {
                let (now, later) = next.split_at(room);
                self.waiting.push_front(later.to_vec());
                piece.extend(now);
            } else {
                self.waiting.push_front(next);
            }
            break;
        }
        self.bytes -= piece.len();
        if piece.is_empty() && self.lost_lines > 0 {
            let lost = std::mem::take(&mut self.lost_lines);
            piece = format!("nobody read standard error: lines that are lost: {lost}\n").into_bytes();
        }
        (!piece.is_empty()).then_some(piece)
    }
}

impl Messages {
    const fn new(own: Option<OwnedFd>, patience: Duration) -> Self {
        let queue = Queue { waiting: VecDeque::new(), bytes: 0, lost_lines: 0, moved_at: None };
        Self { own, patience, queue: Mutex::new(queue), moved: Condvar::new() }
    }

    fn write(&'static self, text: &[u8], may_wait: bool) {
        let mut queue = self.queue();
        while may_wait && queue.is_full() && !queue.is_stalled(self.patience) {
            queue = self.moved.wait_timeout(queue, self.patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut rest = text;
        if queue.waiting.is_empty() && queue.moved_at.is_none() {
            rest = self.write_now(text);
        }
        if rest.is_empty() {
            return;
        }
        if queue.is_full() {
            queue.lost_lines += rest.iter().filter(|byte| **byte == b'\n').count();
        } else {
            queue.bytes += rest.len();
            queue.waiting.push_back(rest.to_vec());
        }
        if queue.moved_at.is_none() {
            let thread = thread::Builder::new().name("messages".into()).spawn(|| self.write_waiting());
            // Without a thread the next message tries again.
            queue.moved_at = thread.is_ok().then(Instant::now);
        }
    }

    /// What is not taken without waiting; others who write to the same pipe are not foreseen.
    fn write_now<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        self.with_fd(|fd| {
            let mut rest = text;
            while !rest.is_empty() {
                match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], Some(&Timespec::default())) {
                    Ok(0) => return rest,
                    Err(Errno::INTR) => continue,
                    Ok(_) | Err(_) => {}
                }
                match rustix::io::write(fd, &rest[..rest.len().min(PIECE_BYTES)]) {
                    Ok(written) if written > 0 => rest = &rest[written..],
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return rest,
                    // Nobody is left to be told.
                    Ok(_) | Err(_) => return &[],
                }
            }
            rest
        })
    }

    /// Until nothing waits.
    fn write_waiting(&self) {
        loop {
            let piece = {
                let mut queue = self.queue();
                let Some(piece) = queue.next_piece() else {
                    queue.moved_at = None;
                    drop(queue);
                    return self.moved.notify_all();
                };
                piece
            };
            self.with_fd(|fd| {
                let mut rest = &*piece;
                while !rest.is_empty() {
                    let ready = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None);
                    match ready.and_then(|_| rustix::io::write(fd, rest)) {
                        Ok(written) if written > 0 => rest = &rest[written..],
                        Err(Errno::INTR | Errno::AGAIN) => {}
                        Ok(_) | Err(_) => return,
                    }
                }
            });
            self.queue().moved_at = Some(Instant::now());
            self.moved.notify_all();
        }
    }

    fn finish(&self) {
        let mut queue = self.queue();
        while queue.moved_at.is_some() && !queue.is_stalled(self.patience) {
            queue = self.moved.wait_timeout(queue, self.patience).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_fd<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        match &self.own {
            Some(own) => act(own.as_fd()),
            None => act(io::stderr().as_fd()),
        }
    }
}

struct At(&'static Messages);

impl Write for At {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.write(text, false);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader};

    use super::*;

    /// As they are written, and a reader who has not begun.
    fn pipe(patience: Duration) -> (&'static Messages, BufReader<File>) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (Box::leak(Box::new(Messages::new(Some(write), patience))), BufReader::new(read.into()))
    }

    fn line(number: usize) -> String {
        format!("{number:0>99}\n")
    }

    #[test]
    fn what_fits_is_written_at_once() {
        let (messages, mut reader) = pipe(PATIENCE);
        for number in 0..10 {
            messages.write(line(number).as_bytes(), false);
        }
        assert!(messages.queue().moved_at.is_none());
        for number in 0..10 {
            let mut read = String::new();
            reader.read_line(&mut read).unwrap();
            assert_eq!(read, line(number));
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_was_lost_is_told() {
        let (messages, mut reader) = pipe(PATIENCE);
        let written = 3 * WAITING_BYTES_MAX / 100;
        for number in 0..written {
            messages.write(line(number).as_bytes(), false);
        }
        let held = messages.queue().bytes;
        assert!(held < WAITING_BYTES_MAX + 100, "{held}");
        // The end of a program does not wait for him either.
        messages.finish();
        let mut read = Vec::new();
        let lost = loop {
            let mut next = String::new();
            reader.read_line(&mut next).unwrap();
            match next.strip_prefix("nobody read standard error: lines that are lost: ") {
                Some(lost) => break lost.trim_end().parse::<usize>().unwrap(),
                None => read.push(next),
            }
        };
        assert!(read.is_sorted() && lost > 0 && read.len() + lost == written, "{} {lost}", read.len());
        assert!(read.iter().all(|read| read.len() == 100));
    }

    /// Findings by the thousand, and a pager.
    #[test]
    fn who_may_wait_loses_nothing_to_a_reader_who_reads() {
        let (messages, reader) = pipe(Duration::MAX);
        let written = 3 * WAITING_BYTES_MAX / 100;
        let reading = thread::spawn(move || {
            let read: Vec<String> = reader.lines().take(written).map(Result::unwrap).collect();
            assert!((0..written).all(|number| line(number).trim_end() == read[number]));
        });
        for number in 0..written {
            messages.write(line(number).as_bytes(), true);
        }
        reading.join().unwrap();
    }

    #[test]
    fn a_reader_who_is_gone_is_no_failure() {
        let (messages, reader) = pipe(PATIENCE);
        drop(reader);
        messages.write(line(0).as_bytes(), true);
        assert!(messages.queue().moved_at.is_none());
    }
}
