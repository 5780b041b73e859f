//! Asks the proxy at the other end of a connection for one to somebody else: by CONNECT, after which the connection is
//! the tunnel, or by POST, whose request and response bodies are.

mod connect;
mod post;

pub(super) use connect::open as connect;
pub(crate) use post::PostTunnel;
pub(super) use post::open as post;

use super::error::UpstreamError;

/// What a proxy may say before the bytes.
const ANSWER_HEAD_MAX: usize = 16 * 1024;

/// Why there is no tunnel by `method` to `target`.
fn failed(method: &str, target: &str, reason: &str) -> UpstreamError {
    UpstreamError::Connect(format!("{method} {target}: {reason}").into())
}
