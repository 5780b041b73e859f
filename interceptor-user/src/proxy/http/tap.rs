//! What is known of the bytes that hyper reads from a client.
//!
//! They are seen where a request's head is: hyper resolves a head with both Transfer-Encoding and
//! Content-Length in favour of the former and drops the latter, so that only the bytes can tell that the
//! client may have meant something else. And by them it is known when nothing is under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::proxy::maybe_tls::ClientIo;
use crate::proxy::netns::Netns;

/// A head is not looked at beyond this, which is more than is accepted.
const SEEN_MAX: usize = 64 * 1024;

/// What was read since the last request was taken, how it goes on, and whether one is being answered.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadTap(Arc<Tap>);

#[derive(Debug, Default)]
struct Tap {
    /// Where the client's end is.
    netns: Netns,
    seen: Mutex<Seen>,
    /// Something was written since the last flush: hyper may hold more of it.
    is_unflushed: AtomicBool,
    /// The client ends the connection with the request that has come.
    is_last: AtomicBool,
}

/// Lives as long as a request is being answered.
#[derive(Debug)]
pub(super) struct Answering(HeadTap);

/// Lives until a request's body has been read, or is not read any more.
#[derive(Debug)]
pub(super) struct BodyReading(HeadTap);

/// What is known of where a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    NoBody,
    Length(u64),
    Chunked,
}

#[derive(Clone, Copy, Debug)]
enum BodyBytes {
    /// So many are to come.
    Length(u64),
    /// The last four.
    Chunked([u8; 4]),
}

#[derive(Debug, Default)]
struct Seen {
    /// What was read outside bodies and not taken yet: it begins where a head begins.
    bytes: Vec<u8>,
    /// What is being read is a body.
    body: Option<BodyBytes>,
    /// Where heads begin is not known any more: the client sends before it is answered.
    is_unclear: bool,
    /// Requests whose answer is not out yet.
    answering: u32,
    /// The answer to a request that has come is not worked on yet.
    is_unbegun: bool,
    /// How many heads have been read.
    heads: u64,
    /// The stream that all of it came by, once hyper has let go of it.
    returned: Option<ClientIo>,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// Requests have come since it was asked last, or are being answered.
    Busy,
    /// Something is not whole yet, or it is not known what.
    Waiting,
    /// All requests are answered, and nothing of a next one has come.
    Idle,
}

impl HeadTap {
    /// Of a client in this network namespace.
    pub(super) fn of_client_in(netns: Netns) -> Self {
        Self(Arc::new(Tap { netns, ..Tap::default() }))
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.0.netns
    }

    /// A request's head has been read. Returns whether it has a Content-Length, if its bytes were seen, and
    /// what to keep while its body is read.
    pub(super) fn begin(&self, framing: Framing) -> (Option<bool>, Option<BodyReading>) {
        let mut seen = self.lock();
        seen.heads += 1;
        seen.is_unbegun = false;
        let bytes = std::mem::take(&mut seen.bytes);
        let head = if seen.is_unclear { None } else { head(&bytes) };
        seen.is_unclear = head.is_none();
        let rest = &bytes[head.map_or(0, <[u8]>::len)..];
        seen.body = match framing {
            Framing::NoBody => None,
            Framing::Length(length) => Some(BodyBytes::Length(length)),
            Framing::Chunked => Some(BodyBytes::Chunked([0; 4])),
        };
        seen.record(rest);
        let body = seen.body.is_some().then(|| BodyReading(self.clone()));
        (head.map(has_content_length), body)
    }

    /// Of what could not be read as a head, whether it is longer than this.
    pub(super) fn is_head_longer_than(&self, bytes: usize) -> bool {
        let seen = self.lock();
        seen.is_unclear || head(&seen.bytes).map_or(seen.bytes.len(), <[u8]>::len) > bytes
    }

    /// Whether the end of what is being read will be known.
    pub(super) fn is_clear(&self) -> bool {
        !self.lock().is_unclear
    }

    /// To be kept until the answer is out.
    pub(super) fn answering(&self) -> Answering {
        let mut seen = self.lock();
        seen.answering += 1;
        seen.is_unbegun = true;
        drop(seen);
        Answering(self.clone())
    }

    /// Which head has begun and is not whole yet, as far as it is known. The client can do nothing for one that waits
    /// behind an answer.
    pub(super) fn begun_head(&self) -> Option<u64> {
        let seen = self.lock();
        let is_begun = seen.is_unclear || (seen.body.is_none() && !seen.bytes.is_empty());
        (is_begun && seen.answering == 0).then_some(seen.heads)
    }

    /// Whether a request has come whose answer is not worked on yet.
    pub(super) fn is_unbegun(&self) -> bool {
        self.lock().is_unbegun
    }

    pub(super) fn is_answering(&self) -> bool {
        self.lock().answering > 0
    }

    /// What there is to do, where `heads` had been read when that was asked last.
    pub(super) fn activity(&self, heads: &mut u64) -> Activity {
        let seen = self.lock();
        let heads_before = std::mem::replace(heads, seen.heads);
        if seen.answering > 0 || heads_before != seen.heads {
            Activity::Busy
        } else if seen.is_unclear || seen.body.is_some() || !seen.bytes.is_empty() || self.is_unflushed() {
            Activity::Waiting
        } else {
            Activity::Idle
        }
    }

    pub(super) fn record(&self, bytes: &[u8]) {
        self.lock().record(bytes);
    }

    pub(super) fn is_unflushed(&self) -> bool {
        self.0.is_unflushed.load(Ordering::Relaxed)
    }

    pub(super) fn set_unflushed(&self, is_unflushed: bool) {
        self.0.is_unflushed.store(is_unflushed, Ordering::Relaxed);
    }

    /// The request that has come is the client's last, and hyper closes once it is answered.
    pub(super) fn set_last(&self) {
        self.0.is_last.store(true, Ordering::Relaxed);
    }

    /// Whether nothing is written after what hyper has: the last answer is whole.
    pub(super) fn ends_with_what_is_written(&self) -> bool {
        self.0.is_last.load(Ordering::Relaxed) && !self.is_answering()
    }

    pub(super) fn give_back(&self, stream: ClientIo) {
        self.lock().returned = Some(stream);
    }

    pub(super) fn take_back(&self) -> Option<ClientIo> {
        self.lock().returned.take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn record(&mut self, bytes: &[u8]) {
        if self.is_unclear {
            return;
        }
        match &mut self.body {
            None if self.bytes.len() + bytes.len() <= SEEN_MAX => self.bytes.extend_from_slice(bytes),
            None => self.give_up(),
            Some(BodyBytes::Length(left)) => match left.checked_sub(bytes.len() as u64) {
                Some(rest) => *left = rest,
                None => self.give_up(),
            },
            Some(BodyBytes::Chunked(last)) => {
                for byte in &bytes[bytes.len().saturating_sub(last.len())..] {
                    last.rotate_left(1);
                    last[3] = *byte;
                }
            }
        }
    }

    fn give_up(&mut self) {
        self.is_unclear = true;
        self.bytes = Vec::new();
    }

    /// `whole` when the body was read to its end. What was read beyond it is not known by its bytes, but
    /// by these: a length is exceeded, and after chunks an empty line does not come last, unless a whole
    /// head follows, which will be missed.
    fn end_body(&mut self, whole: bool) {
        let ended = match self.body.take() {
            None => true,
            Some(BodyBytes::Length(left)) => left == 0,
            Some(BodyBytes::Chunked(last)) => whole && last == *b"\r\n\r\n",
        };
        if !ended {
            self.give_up();
        }
    }
}

impl BodyReading {
    /// The body has been read to its end.
    pub(super) fn finish(self) {
        self.0.lock().end_body(true);
    }
}

impl Drop for BodyReading {
    fn drop(&mut self) {
        self.0.lock().end_body(false);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut seen = self.0.lock();
        seen.answering -= 1;
        seen.is_unbegun = false;
    }
}

/// The head that `bytes` begin with, and empty lines before it (RFC 9112 §2.2).
fn head(bytes: &[u8]) -> Option<&[u8]> {
    let mut length = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    for line in bytes[length..].split_inclusive(|byte| *byte == b'\n') {
        length += line.len();
        if matches!(line, b"\n" | b"\r\n") {
            return Some(&bytes[..length]);
        }
    }
    None
}

/// Whether a head has a Content-Length line.
fn has_content_length(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.get(..NAME.len()))
        .any(|name| name.eq_ignore_ascii_case(NAME))
}

#[cfg(test)]
mod tests {
    use super::{Activity, Framing, HeadTap};

    fn is_refused(tap: &HeadTap, bytes: &[u8], framing: Framing) -> bool {
        tap.lock().record(bytes);
        tap.begin(framing).0 != Some(false)
    }

    #[test]
    fn nothing_is_idle_that_is_under_way() {
        let tap = HeadTap::default();
        let mut heads = 0;
        assert_eq!(tap.activity(&mut heads), Activity::Idle);
        tap.record(b"GET / HTTP/1.1\r\n");
        assert_eq!(tap.activity(&mut heads), Activity::Waiting, "a head has begun");
        tap.record(b"\r\n");
        tap.begin(Framing::NoBody);
        assert_eq!(tap.activity(&mut heads), Activity::Busy, "one has come");
        let answering = tap.answering();
        assert_eq!(tap.activity(&mut heads), Activity::Busy, "it is being answered");
        drop(answering);
        tap.set_unflushed(true);
        assert_eq!(tap.activity(&mut heads), Activity::Waiting, "something is not out");
        tap.set_unflushed(false);
        assert_eq!(tap.activity(&mut heads), Activity::Idle);
        tap.record(b"POST / HTTP/1.1\r\n\r\n");
        let (_, body) = tap.begin(Framing::Length(3));
        assert_eq!(tap.activity(&mut heads), Activity::Busy);
        assert_eq!(tap.activity(&mut heads), Activity::Waiting, "a body is to come");
        drop(body);
        assert_eq!(tap.activity(&mut heads), Activity::Waiting, "what came of it is not known");
    }

    #[test]
    fn the_end_follows_the_last_answer_once_that_is_whole() {
        let tap = HeadTap::default();
        assert!(!tap.ends_with_what_is_written());
        let answering = tap.answering();
        tap.set_last();
        assert!(!tap.ends_with_what_is_written());
        drop(answering);
        assert!(tap.ends_with_what_is_written());
    }

    #[test]
    fn only_the_head_counts() {
        for (bytes, refused) in [
            ("POST / HTTP/1.1\r\nHost: a\r\nCONTENT-length: 3\r\n\r\n", true),
            ("POST / HTTP/1.1\nContent-Length : 3\n\n", true),
            ("\r\nPOST / HTTP/1.1\nContent-Length : 3\n\n", true),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\ncontent-length: 3\r\n", false),
            ("POST /content-length HTTP/1.1\r\nHost: a\r\n\r\n", false),
            ("", true),
        ] {
            let tap = HeadTap::default();
            assert_eq!(is_refused(&tap, bytes.as_bytes(), Framing::Chunked), refused, "{bytes:?}");
        }
    }

    #[test]
    fn a_head_is_found_behind_whatever_ends_where_it_should() {
        const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\n\r\n";
        for (first, framing, then, refused) in [
            ("", Framing::NoBody, HEAD, false),
            (HEAD, Framing::NoBody, "", false),
            ("abc", Framing::Length(3), HEAD, false),
            ("abcP", Framing::Length(3), "OST / HTTP/1.1\r\n\r\n", true),
            ("ab", Framing::Length(3), HEAD, true),
            ("0\r\n\r\n", Framing::Chunked, HEAD, false),
            ("0\r\n\r\nP", Framing::Chunked, "OST / HTTP/1.1\r\n\r\n", true),
            ("0\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n", Framing::Chunked, "", true),
        ] {
            let tap = HeadTap::default();
            tap.lock().record(format!("{HEAD}{first}").as_bytes());
            let (has_length, reading) = tap.begin(framing);
            assert_eq!(has_length, Some(false));
            if let Some(reading) = reading {
                reading.finish();
            }
            assert_eq!(is_refused(&tap, then.as_bytes(), Framing::Chunked), refused, "{first:?} {then:?}");
        }
    }
}
