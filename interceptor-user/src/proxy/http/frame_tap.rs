//! Stands between an HTTP/2 client's socket and hyper, where clients are many, to see when a head has begun that does not
//! become whole. Nothing is decoded: lengths, types and flags of frames are enough (RFC 9113 §4.1, §4.3).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head_limit::HeadLimit;

/// What a client says first.
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A client's stream; a head on it that takes too long is an error to read.
#[derive(Debug)]
pub(super) struct FrameTap<S> {
    stream: S,
    /// `None` where nothing is limited.
    limited: Option<(Frames, HeadLimit)>,
}

impl<S> FrameTap<S> {
    pub(super) fn new(stream: S, head_limit: Option<Duration>) -> Self {
        let limited = head_limit.map(|limit| (Frames::default(), HeadLimit::new(Some(limit))));
        Self { stream, limited }
    }
}

/// Where in a client's bytes we are.
#[derive(Debug)]
struct Frames {
    /// The preface, or a frame's header, as far as it has come.
    header: [u8; PREFACE],
    filled: usize,
    preface_is_over: bool,
    /// What is to come of the frame whose header came last.
    payload_left: usize,
    is_data: bool,
    /// A head has begun, and the frame that ends it has not come yet.
    in_head: bool,
    /// Counts what has begun.
    begun: u64,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            header: [0; PREFACE],
            filled: 0,
            preface_is_over: false,
            payload_left: 0,
            is_data: false,
            in_head: false,
            begun: 0,
        }
    }
}

impl Frames {
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let taken = bytes.len().min(self.payload_left);
                self.payload_left -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            if self.filled == 0 && !self.in_head {
                self.begun += 1;
            }
            let length = if self.preface_is_over { FRAME_HEADER } else { PREFACE };
            let taken = bytes.len().min(length - self.filled);
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == length {
                self.filled = 0;
                if std::mem::replace(&mut self.preface_is_over, true) {
                    self.begin_frame();
                }
            }
        }
    }

    fn begin_frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.payload_left = [a, b, c].into_iter().fold(0, |length, byte| length << 8 | usize::from(byte));
        self.is_data = kind == DATA;
        if kind == HEADERS || kind == CONTINUATION {
            self.in_head = flags & END_HEADERS == 0;
        }
    }

    /// Which of what has begun is not whole yet. Of a body that may take as long as it likes.
    fn unfinished(&self) -> Option<u64> {
        let is_unfinished = self.in_head || self.filled > 0 || (self.payload_left > 0 && !self.is_data);
        is_unfinished.then_some(self.begun)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameTap<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let Some((frames, head_limit)) = &mut this.limited else { return read };
        if read.is_pending() {
            return head_limit.poll(frames.unfinished(), cx).map(Err);
        }
        frames.read(&buffer.filled()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameTap<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{END_HEADERS, FRAME_HEADER, Frames, PREFACE};

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEADER + usize::from(length), 0);
        frame
    }

    /// Whether something is unfinished after each of these bytes.
    fn follow(bytes: &[u8]) -> Vec<bool> {
        let mut frames = Frames::default();
        let one_by_one = bytes.iter().map(|byte| {
            frames.read(&[*byte]);
            frames.unfinished().is_some()
        });
        let followed: Vec<bool> = one_by_one.collect();
        let mut at_once = Frames::default();
        at_once.read(bytes);
        assert_eq!(at_once.unfinished(), frames.unfinished(), "however the bytes come");
        followed
    }

    #[test]
    fn a_head_is_unfinished_until_its_last_byte() {
        const KINDS: [u8; 3] = [super::HEADERS, super::CONTINUATION, super::DATA];
        let [headers, continuation, data] = KINDS;
        let settings = frame(4, 0, 0);
        for (frames, finished_at) in [
            (vec![settings.clone()], vec![9]),
            (vec![frame(headers, END_HEADERS, 3)], vec![12]),
            (vec![frame(headers, END_HEADERS, 0)], vec![9]),
            (vec![frame(headers, 0, 3), frame(continuation, END_HEADERS, 2)], vec![23]),
            (vec![frame(headers, 0, 3), frame(continuation, 0, 0)], vec![]),
            // A body's bytes are no head's, from the frame's header on.
            (vec![frame(data, 0, 2), settings], vec![9, 10, 11, 20]),
        ] {
            let bytes = [vec![b'P'; PREFACE], frames.concat()].concat();
            let expected: Vec<bool> = (1..=bytes.len())
                .map(|length| length != PREFACE && !finished_at.contains(&length.saturating_sub(PREFACE)))
                .collect();
            assert_eq!(follow(&bytes), expected, "{frames:?}");
        }
        assert_eq!(Frames::default().unfinished(), None, "nothing has begun");
    }

    #[test]
    fn each_head_has_its_own_time_and_all_its_frames_the_same() {
        let mut frames = Frames::default();
        frames.read(&[b'P'; PREFACE]);
        frames.read(&frame(super::HEADERS, 0, 1));
        let head = frames.unfinished();
        frames.read(&frame(super::CONTINUATION, 0, 1));
        assert_eq!(frames.unfinished(), head);
        frames.read(&frame(super::CONTINUATION, END_HEADERS, 1));
        frames.read(&[0]);
        assert!(head.is_some() && frames.unfinished().is_some() && frames.unfinished() != head);
    }
}
