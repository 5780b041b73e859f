//! A tunnel by CONNECT (RFC 9110 §9.3.6): after the proxy's answer the connection is the target's.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::ANSWER_HEAD_MAX;
use crate::proxy::upstream::error::UpstreamError;

/// Sends the request and waits for its 2xx. What follows the answer's head is left to be read.
pub(in crate::proxy::upstream) async fn open<S>(stream: &mut S, target: &str) -> Result<(), UpstreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |reason: &str| super::failed("CONNECT", target, reason);
    let broke_off = |error: std::io::Error| failed(&format!("the proxy broke off: {error}"));
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(broke_off)?;
    stream.flush().await.map_err(broke_off)?;

    let mut head = Vec::with_capacity(128);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= ANSWER_HEAD_MAX {
            return Err(failed("the proxy's answer has no end"));
        }
        // One by one: whatever comes behind the head belongs to the client.
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(failed("the proxy closed without an answer"));
            }
            Err(error) => return Err(broke_off(error)),
        }
    }
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    match status(line) {
        Some(200..=299) => Ok(()),
        Some(_) => Err(failed(&format!("the proxy answered {}", String::from_utf8_lossy(line)))),
        None => Err(failed("the proxy does not speak HTTP/1.1")),
    }
}

/// Of `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?.get(1..)?.strip_prefix(b" ")?;
    let digits = rest.split(|byte| *byte == b' ').next()?;
    let status = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 3)?;
    status.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::open;

    async fn answered(answer: &[u8]) -> Result<Vec<u8>, String> {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let (opened, ()) = tokio::join!(open(&mut ours, "a.example.com:443"), async {
            let expected = b"CONNECT a.example.com:443 HTTP/1.1\r\nhost: a.example.com:443\r\n\r\n";
            let mut request = vec![0; expected.len()];
            theirs.read_exact(&mut request).await.unwrap();
            assert_eq!(request, expected);
            theirs.write_all(answer).await.unwrap();
            drop(theirs);
        });
        opened.map_err(|error| error.transport_failure_reason().unwrap().into_owned())?;
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        Ok(rest)
    }

    #[tokio::test]
    async fn what_follows_the_answer_is_the_clients() {
        let answer = b"HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\n220 ready\r\n";
        assert_eq!(answered(answer).await.unwrap(), b"220 ready\r\n");
        assert_eq!(answered(b"HTTP/1.0 204 \r\n\r\n").await.unwrap(), b"");
    }

    #[tokio::test]
    async fn everything_else_is_told() {
        let endless = [b"HTTP/1.1 200 OK\r\n".to_vec(), vec![b'x'; 17 * 1024]].concat();
        for (answer, expected) in [
            (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], "the proxy answered HTTP/1.1 403 Forbidden"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", "the proxy does not speak HTTP/1.1"),
            (b"SSH-2.0-x\r\n\r\n", "the proxy does not speak HTTP/1.1"),
            (b"", "the proxy closed without an answer"),
            (b"HTTP/1.1 200 OK\r\n", "the proxy closed without an answer"),
            (&endless, "the proxy's answer has no end"),
        ] {
            let reason = answered(answer).await.unwrap_err();
            assert_eq!(reason, format!("CONNECT a.example.com:443: {expected}"));
        }
    }
}
