//! One direction between two sockets. Few bytes take a buffer; many are handed on by splice(2) through a pipe, which never
//! brings them to us, but takes more system calls.
//!
//! A direction holds a buffer or a pipe only while it carries bytes: between bursts they rest in small pools of
//! the thread, so that idle connections cost no descriptors and no pages. Without descriptors left all
//! bytes take a buffer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::Poll;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::task::unconstrained;

use super::{Activity, Broken, Turn, end_direction, was_reset};
use crate::proxy::room::is_scarce;

/// As much as users without CAP_SYS_RESOURCE get by default (fs.pipe-max-size).
const PIPE_BYTES: usize = 1 << 20;
/// What a pipe takes for a sink that had no room for what came last. Slow clients hold no more than that each; who reads
/// fast and then stops at once may hold a whole pipe.
const BEHIND_BYTES: usize = 128 << 10;
/// Who fills it at once has more: it takes a pipe from then on.
const BUFFER_BYTES: usize = 16 << 10;
const POOL_MAX: usize = 64;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Carries bytes until `source` ends, then ends the direction to `sink`.
pub(super) async fn carry(
    mut source: ReadHalf<'_>,
    sink: &TcpStream,
    moved: &Cell<u64>,
    activity: &Activity,
) -> Result<(), Broken> {
    let mut turn = Turn::start();
    let mut is_bulk = false;
    let mut is_behind = true;
    loop {
        let ready = source.ready(Interest::READABLE).await.map_err(Broken::Source)?;
        let mut burst = if is_bulk { Burst::bulk() } else { Burst::small() };
        let before = moved.get();
        loop {
            let next = match burst.fill(&mut source, ready.is_read_closed(), is_behind).await {
                Ok(next) => next,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(Broken::Source(error)),
            };
            is_behind = false;
            while !burst.is_empty() {
                match burst.drain(sink, &next) {
                    Ok(0) => return Err(Broken::Sink(io::ErrorKind::WriteZero.into())),
                    Ok(bytes) => {
                        activity.delivered(moved, bytes);
                        turn.spend(bytes).await;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        is_behind = true;
                        // The source is not read meanwhile, and may never be again.
                        tokio::select! {
                            writable = sink.writable() => writable.map_err(Broken::Sink)?,
                            error = was_reset(source.as_ref()) => return Err(Broken::Source(error)),
                        }
                    }
                    Err(error) => return Err(Broken::Sink(error)),
                }
            }
            match next {
                Next::Later => break,
                Next::More => {
                    if let Burst::Small { .. } = burst {
                        burst.rest();
                        burst = Burst::bulk();
                    }
                }
                Next::End => {
                    burst.rest();
                    return end_direction(sink);
                }
                Next::Broken(error) => return Err(Broken::Source(error)),
            }
        }
        burst.rest();
        is_bulk = moved.get() - before >= BUFFER_BYTES as u64;
    }
}

/// What follows the bytes that were taken from a source.
enum Next {
    /// Nothing that is there yet.
    Later,
    /// More bytes, maybe.
    More,
    /// The end.
    End,
    Broken(io::Error),
}

/// Bytes on their way. Never filled before it is drained, so that a source that is ahead waits.
enum Burst {
    Small { buffer: Box<[u8]>, start: usize, end: usize },
    Bulk(Pipe),
}

impl Burst {
    fn small() -> Self {
        let buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER_BYTES].into());
        Self::Small { buffer, start: 0, end: 0 }
    }

    fn bulk() -> Self {
        let pooled = PIPES.with_borrow_mut(Vec::pop);
        pooled.map_or_else(Pipe::new, Ok).map_or_else(
            |error| {
                tracing::debug!(%error, "no pipe: copying through a buffer");
                Self::small()
            },
            Self::Bulk,
        )
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Small { start, end, .. } => start == end,
            Self::Bulk(pipe) => pipe.held == 0,
        }
    }

    /// Takes what the source has, as far as there is room, and less of it when the sink `is_behind`. `ends`: the source's
    /// end is there, behind what there is.
    async fn fill(&mut self, source: &mut ReadHalf<'_>, ends: bool, is_behind: bool) -> io::Result<Next> {
        match self {
            Self::Small { buffer, start, end } => {
                (*start, *end) = (0, take(source, buffer).await?);
                if *end == 0 {
                    return Ok(Next::End);
                }
                if *end < BUFFER_BYTES && ends {
                    return Ok(match take(source, &mut buffer[*end..]).await {
                        Ok(0) => Next::End,
                        Ok(bytes) => {
                            *end += bytes;
                            Next::More
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Later,
                        Err(error) => Next::Broken(error),
                    });
                }
                Ok(if *end == BUFFER_BYTES { Next::More } else { Next::Later })
            }
            Self::Bulk(pipe) => {
                let bytes = pipe.fill(source.as_ref(), is_behind)?;
                Ok(if bytes == 0 { Next::End } else { Next::More })
            }
        }
    }

    /// Hands the sink what it has room for.
    fn drain(&mut self, sink: &TcpStream, next: &Next) -> io::Result<usize> {
        match self {
            Self::Small { buffer, start, end } => {
                let mut flags = SendFlags::NOSIGNAL;
                if let Next::End = next {
                    // The last bytes and the end go out in one segment, and wake the other side once.
                    flags |= SendFlags::MORE;
                }
                let bytes = &buffer[*start..*end];
                let written = sink.try_io(Interest::WRITABLE, || Ok(send(sink, bytes, flags)?))?;
                *start += written;
                Ok(written)
            }
            Self::Bulk(pipe) => pipe.drain(sink),
        }
    }

    /// Ends an empty burst; what it had serves the next one.
    fn rest(self) {
        match self {
            Self::Small { buffer, .. } => give_back(&BUFFERS, buffer),
            Self::Bulk(pipe) if pipe.held == 0 => give_back(&PIPES, pipe),
            Self::Bulk(_) => {}
        }
    }
}

/// Unlike the stream's try_read, this takes a buffer that is not full for the end of what there is, and does not ask once
/// more. Whose turn it is, [`Turn`] says: that the runtime would rather have another task go on must not look like a
/// source that has nothing.
async fn take(source: &mut ReadHalf<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut room = ReadBuf::new(buffer);
    unconstrained(poll_fn(|cx| match Pin::new(&mut *source).poll_read(cx, &mut room) {
        Poll::Ready(read) => Poll::Ready(read),
        Poll::Pending => Poll::Ready(Err(io::ErrorKind::WouldBlock.into())),
    }))
    .await?;
    Ok(room.filled().len())
}

fn give_back<T>(pool: &'static std::thread::LocalKey<RefCell<Vec<T>>>, item: T) {
    pool.with_borrow_mut(|pool| {
        if pool.len() < POOL_MAX {
            pool.push(item);
        }
    });
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
    held: usize,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        if is_scarce(write.as_raw_fd()) {
            return Err(Errno::MFILE.into());
        }
        // Users without CAP_SYS_RESOURCE have pages for some pipes only (pipe-user-pages-soft): the rest
        // are smaller, down to two pages.
        let size = match fcntl_setpipe_size(&write, PIPE_BYTES) {
            Ok(_) => PIPE_BYTES,
            Err(_) => fcntl_getpipe_size(&write)?,
        };
        Ok(Self { read, write, size, held: 0 })
    }

    fn fill(&mut self, source: &TcpStream, is_behind: bool) -> io::Result<usize> {
        let room = if is_behind { self.size.min(BEHIND_BYTES) } else { self.size };
        self.held = source.try_io(Interest::READABLE, || {
            Ok(splice(source, None, &self.write, None, room, SpliceFlags::NONBLOCK)?)
        })?;
        Ok(self.held)
    }

    fn drain(&mut self, sink: &TcpStream) -> io::Result<usize> {
        let bytes = sink.try_io(Interest::WRITABLE, || {
            Ok(splice(&self.read, None, sink, None, self.held, SpliceFlags::NONBLOCK)?)
        })?;
        self.held -= bytes;
        Ok(bytes)
    }
}

/// Pipes at rest in this thread.
#[cfg(test)]
pub(super) fn pooled() -> usize {
    PIPES.with_borrow(Vec::len)
}

#[cfg(test)]
mod tests {
    use super::{BEHIND_BYTES, PIPE_BYTES, Pipe};

    #[tokio::test]
    async fn a_sink_that_is_behind_gets_less_at_a_time() {
        let queued = 2 * PIPE_BYTES;
        let (_client, _origin, _downstream, upstream) = super::super::tests::all_queued(0, queued).await;
        let held = |is_behind| Pipe::new().unwrap().fill(&upstream, is_behind).unwrap();
        let (behind, ahead) = (held(true), held(false));
        assert!(behind <= BEHIND_BYTES && BEHIND_BYTES < ahead, "{behind} {ahead}");
    }
}
