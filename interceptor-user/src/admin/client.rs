//! Asks the agent of this node, on its unix socket: for commands, which wait.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// For all of an answer. Names may be looked up for it.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);

const LINE_BYTES_MAX: usize = 1 << 20;

/// A request that was answered as asked.
#[derive(Debug)]
pub struct Answer {
    pub headers: HeaderMap,
    pub text: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no agent answers at {}: there is no such socket; is `interceptor agent` running on this node? \
         --agent-socket names another socket", path.display()
    )]
    NoSocket { path: PathBuf },
    #[error("no agent answers at {}: the one that made the socket has ended; is it being restarted?", path.display())]
    Ended { path: PathBuf },
    #[error("no agent answers at {}: that is no socket; --agent-socket names another", path.display())]
    NotASocket { path: PathBuf },
    #[error("permission denied at {}: the agent's socket is root's; try sudo", path.display())]
    Denied { path: PathBuf },
    #[error("can't connect to the agent's socket {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the agent at {} broke the answer off; it may have ended", path.display())]
    Broken { path: PathBuf, source: hyper::Error },
    #[error("the agent at {} has not answered for {} s", path.display(), ANSWER_WAIT_MAX.as_secs())]
    Slow { path: PathBuf },
    #[error("the agent at {} sends a line of more than {LINE_BYTES_MAX} bytes", path.display())]
    LongLine { path: PathBuf },
    #[error("can't start a runtime")]
    Runtime { source: io::Error },
    #[error("{uri:?} can't be asked for")]
    Uri { uri: String, source: http::Error },
    /// In the agent's own words.
    #[error("{why}")]
    Refused { status: StatusCode, why: String },
}

/// A path with parameters, each where there is a value.
#[derive(Debug)]
pub struct Uri(String);

impl Uri {
    pub fn new(path: &str, parameters: &[(&str, Option<&str>)]) -> Self {
        let given = parameters.iter().filter_map(|(name, value)| Some((name, (*value)?)));
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish();
        Self(if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") })
    }
}

/// Asks, and waits for all of the answer.
///
/// # Errors
/// When there is nobody to answer, or the answer is no.
pub fn ask(socket: &Path, method: Method, uri: &Uri, body: Vec<u8>) -> Result<Answer, ClientError> {
    run(async {
        let answer = exchange(socket, method, uri, body);
        let slow = || ClientError::Slow { path: socket.to_owned() };
        tokio::time::timeout(ANSWER_WAIT_MAX, answer).await.unwrap_or_else(|_| Err(slow()))
    })
}

/// As [`ask`], for as long as it takes.
pub async fn exchange(
    socket: &Path,
    method: Method,
    uri: &Uri,
    body: Vec<u8>,
) -> Result<Answer, ClientError> {
    let mut driver = JoinSet::new();
    let response = send(socket, method, uri, body, &mut driver).await?;
    let headers = response.headers().clone();
    Ok(Answer { headers, text: text(socket, response).await? })
}

/// An answer that comes line by line, for as long as it does.
#[derive(Debug)]
pub struct Lines {
    socket: PathBuf,
    body: Incoming,
    /// What has come and was not asked for yet.
    buffer: BytesMut,
    _driver: JoinSet<()>,
}

impl Lines {
    /// # Errors
    /// When there is nobody to answer, or the answer is no.
    pub async fn open(socket: &Path, uri: &Uri) -> Result<Self, ClientError> {
        let mut driver = JoinSet::new();
        let response = send(socket, Method::GET, uri, Vec::new(), &mut driver).await?;
        let buffer = BytesMut::new();
        Ok(Self { socket: socket.to_owned(), body: response.into_body(), buffer, _driver: driver })
    }

    /// The next one, without its end; `None` after the last.
    ///
    /// # Errors
    /// When the connection breaks, or a line is longer than any that is sent.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        let mut searched = 0;
        loop {
            if let Some(length) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(searched + length + 1);
                return Ok(Some(String::from_utf8_lossy(&line[..line.len() - 1]).into_owned()));
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES_MAX {
                return Err(ClientError::LongLine { path: self.socket.clone() });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().ok()),
                Some(Err(source)) => {
                    return Err(ClientError::Broken { path: self.socket.clone(), source });
                }
                None => return Ok(None),
            }
        }
    }
}

fn run<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| ClientError::Runtime { source })?.block_on(work)
}

/// `driver` carries the connection for as long as it lives.
async fn send(
    socket: &Path,
    method: Method,
    uri: &Uri,
    body: Vec<u8>,
    driver: &mut JoinSet<()>,
) -> Result<Response<Incoming>, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| not_connected(socket, error))?;
    let broken = |source| ClientError::Broken { path: socket.to_owned(), source };
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    driver.spawn(async {
        // The answer has the error, too.
        drop(connection.await);
    });
    let request = Request::builder().method(method).uri(&uri.0).header(header::HOST, "agent");
    let request = request
        .body(Full::new(Bytes::from(body)))
        .map_err(|source| ClientError::Uri { uri: uri.0.clone(), source })?;
    let response = requests.send_request(request).await.map_err(broken)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let why = text(socket, response).await?;
    Err(ClientError::Refused { status, why: why.trim_end().to_owned() })
}

async fn text(socket: &Path, response: Response<Incoming>) -> Result<String, ClientError> {
    let broken = |source| ClientError::Broken { path: socket.to_owned(), source };
    let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn not_connected(socket: &Path, source: io::Error) -> ClientError {
    let path = socket.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT) => ClientError::NoSocket { path },
        Some(libc::ECONNREFUSED) if is_socket(&path) => ClientError::Ended { path },
        Some(libc::ECONNREFUSED) => ClientError::NotASocket { path },
        Some(libc::EACCES | libc::EPERM) => ClientError::Denied { path },
        Some(_) | None => ClientError::Connect { path, source },
    }
}

fn is_socket(path: &Path) -> bool {
    // Gone since: it was one.
    std::fs::metadata(path).map_or(true, |found| found.file_type().is_socket())
}
