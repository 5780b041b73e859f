//! A tunnel by POST, as Envoy's `tunneling_config` with `use_post` makes it: the client's bytes are the request's body,
//! the server's that of the response, both framed as HTTP/1.1 frames bodies.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Request, Uri, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, SimplexStream, WriteHalf};
use tokio::sync::oneshot;

use super::{ANSWER_HEAD_MAX, failed};
use crate::proxy::maybe_tls::UpstreamIo;
use crate::proxy::upstream::error::UpstreamError;

/// What waits to be framed.
const UPLOAD_BUFFER: usize = 64 << 10;

/// What is framed at once.
const FRAME_MAX: usize = 16 << 10;

/// How long the last bytes may take on their way after the tunnel is let go of.
const LAST_BYTES_WAIT_MAX: Duration = Duration::from_secs(5);

/// Bytes towards and from the target.
#[derive(Debug)]
pub(crate) struct PostTunnel {
    upload: WriteHalf<SimplexStream>,
    /// The client has sent everything.
    is_complete: bool,
    /// Told when the tunnel is let go of complete; dropped when it is not.
    driver: Option<oneshot::Sender<()>>,
    download: Incoming,
    /// Received and not read yet.
    left: Bytes,
}

/// Asks for the target and waits for the 2xx. Must be called inside a `LocalSet`.
pub(in crate::proxy::upstream) async fn open(
    io: UpstreamIo,
    target: &str,
) -> Result<PostTunnel, UpstreamError> {
    let failed = |reason: &str| failed("POST", target, reason);
    let told = |error: hyper::Error| failed(&describe(&error));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(ANSWER_HEAD_MAX)
        .handshake::<_, Upload>(TokioIo::new(io))
        .await
        .map_err(told)?;
    let (driver, is_complete) = oneshot::channel();
    tokio::task::spawn_local(drive(connection, is_complete));
    let (source, upload) = tokio::io::simplex(UPLOAD_BUFFER);
    let request = Request::post(Uri::from_static("/")).header(header::HOST, target);
    let request = request.body(Upload(source)).map_err(|error| failed(&error.to_string()))?;
    let response = sender.send_request(request).await.map_err(told)?;
    let (status, version) = (response.status(), response.version());
    if !status.is_success() {
        return Err(failed(&format!("the proxy answered {version:?} {status}")));
    }
    let (download, left) = (response.into_body(), Bytes::new());
    Ok(PostTunnel { upload, is_complete: false, driver: Some(driver), download, left })
}

/// Runs the connection while the tunnel is there. When that is gone and complete, its last bytes still go.
async fn drive(
    connection: http1::Connection<TokioIo<UpstreamIo>, Upload>,
    is_complete: oneshot::Receiver<()>,
) {
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        is_complete = is_complete => match is_complete {
            Ok(()) => tokio::time::timeout(LAST_BYTES_WAIT_MAX, connection).await.unwrap_or(Ok(())),
            // The body breaks off, which no proxy takes for its end.
            Err(_) => Ok(()),
        },
    };
    if let Err(error) = result {
        tracing::debug!(%error, "tunnel ended");
    }
}

fn describe(error: &hyper::Error) -> String {
    if error.is_parse_too_large() {
        "the proxy's answer has no end".into()
    } else if error.is_parse() {
        "the proxy does not speak HTTP/1.1".into()
    } else if error.is_incomplete_message() {
        "the proxy closed without an answer".into()
    } else {
        format!("the proxy broke off: {error}")
    }
}

/// The request's body.
#[derive(Debug)]
struct Upload(ReadHalf<SimplexStream>);

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut bytes = [0; FRAME_MAX];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.get_mut().0).poll_read(cx, &mut read))?;
        let read = read.filled();
        Poll::Ready((!read.is_empty()).then(|| Ok(Frame::data(Bytes::copy_from_slice(read)))))
    }
}

impl Drop for PostTunnel {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.take().filter(|_| self.is_complete) {
            // It may be done already.
            driver.send(()).unwrap_or_default();
        }
    }
}

impl AsyncRead for PostTunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.left.is_empty() {
            match ready!(Pin::new(&mut this.download).poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                // Trailers are nobody's.
                Some(Ok(frame)) => this.left = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let length = this.left.len().min(buffer.remaining());
        buffer.put_slice(&this.left[..length]);
        this.left.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PostTunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().upload).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().upload).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.is_complete = true;
        Pin::new(&mut this.upload).poll_shutdown(cx)
    }
}
