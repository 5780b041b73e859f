//! A client that sees every byte, and a server's view of one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::support::PATIENCE;

pub(crate) fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: test\r\n\r\n")
}

/// A client that sends and reads bytes.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    buffer: Vec<u8>,
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The value of a header in a head, when there is exactly one.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut found = head.lines().skip(1).filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    let value = found.next();
    assert!(found.next().is_none(), "{name} more than once in {head}");
    value
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self.stream.flush().unwrap();
    }

    /// Reads more into the buffer; false at the end.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        let read = loop {
            match self.stream.read(&mut chunk) {
                // What a stopped and continued process finds, for a socket with a timeout.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => false,
            Ok(length) => {
                self.buffer.extend_from_slice(&chunk[..length]);
                true
            }
            // Inside TLS reading writes, too.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
                ) =>
            {
                false
            }
            Err(error) => panic!("{error}, after {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }

    /// Everything up to and including `end`.
    pub(crate) fn read_until(&mut self, end: &str) -> String {
        loop {
            let found = self.buffer.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(position) = found {
                let taken: Vec<u8> = self.buffer.drain(..position + end.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            assert!(self.fill(), "closed before {end:?}: {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    pub(crate) fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.fill(), "closed after {} of {length} bytes", self.buffer.len());
        }
        self.buffer.drain(..length).collect()
    }

    /// What comes until the other end closes.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// As a server: the next request, if there is one.
    pub(crate) fn request(&mut self) -> Option<Reply> {
        if self.buffer.is_empty() && !self.fill() {
            return None;
        }
        Some(self.reply())
    }

    /// One response with its body, framed by its length or in chunks.
    pub(crate) fn reply(&mut self) -> Reply {
        let head = self.read_until("\r\n\r\n");
        let reply = Reply { head, body: Vec::new() };
        let body = if let Some(length) = reply.header("content-length") {
            self.read_exactly(length.parse().unwrap())
        } else if reply.header("transfer-encoding") == Some("chunked") {
            self.read_chunks()
        } else {
            Vec::new()
        };
        Reply { body, ..reply }
    }

    pub(crate) fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let size = self.read_until("\r\n");
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            if size == 0 {
                while self.read_until("\r\n") != "\r\n" {}
                return body;
            }
            body.extend(self.read_exactly(size));
            self.read_until("\r\n");
        }
    }

    /// What comes up to the end of a head, or until the other end closes.
    pub(crate) fn read_to_end_of_head(&mut self) -> Vec<u8> {
        while !self.buffer.ends_with(b"\r\n\r\n") && self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the other end closes without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill()
    }
}
