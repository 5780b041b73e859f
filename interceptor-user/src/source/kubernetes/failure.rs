//! Why a request to the API server failed, in one sentence, and what that means for whoever asked.

use std::error::Error as _;

use kube::runtime::watcher;

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) why: String,
    pub(super) class: FailureClass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureClass {
    /// No answer: the server is away, or the way to it.
    NoAnswer,
    /// 401: it does not know who asks. Nothing can be said of what there is.
    Unauthorized,
    /// 403: it answers, and this is not allowed.
    Forbidden,
    /// 404: there is no such kind now.
    NotServed,
    /// 410: what was asked for is too old to be continued.
    Expired,
    /// What came is no JSON.
    Garbage,
    /// Any other status.
    Status(u16),
}

impl Failure {
    pub(super) fn of(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            return Self::of_status(status);
        }
        let class = if matches!(error, kube::Error::SerdeError(_)) {
            FailureClass::Garbage
        } else {
            FailureClass::NoAnswer
        };
        Self { why: whole_chain(error), class }
    }

    pub(super) fn of_watcher(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => Self::of(error),
            watcher::Error::WatchError(status) => Self::of_status(status),
            watcher::Error::NoResourceVersion => {
                Self { why: "an object came without a resourceVersion".into(), class: FailureClass::Garbage }
            }
        }
    }

    pub(super) fn of_status(status: &kube::core::Status) -> Self {
        let class = match status.code {
            401 => FailureClass::Unauthorized,
            403 => FailureClass::Forbidden,
            404 => FailureClass::NotServed,
            410 => FailureClass::Expired,
            code => FailureClass::Status(code),
        };
        let message: String = status.message.chars().take(MESSAGE_CHARACTERS_MAX).collect();
        Self { why: format!("{} {}", status.code, message.trim()).trim_end().to_owned(), class }
    }
}

/// A proxy in between may answer with a whole page.
const MESSAGE_CHARACTERS_MAX: usize = 300;

/// The innermost causes say what happened; kube's own words around them don't.
fn whole_chain(error: &kube::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        cause = error.source();
    }
    if parts.is_empty() { error.to_string() } else { parts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_one_sentence() {
        let status = |code: u16, message: &str| {
            kube::Error::Api(Box::new(kube::core::Status::failure(message, "").with_code(code)))
        };
        let garbage = serde_json::from_str::<u8>("{").unwrap_err();
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        for (error, class, why) in [
            (status(403, "pods is forbidden"), FailureClass::Forbidden, "403 pods is forbidden"),
            (status(401, "Unauthorized"), FailureClass::Unauthorized, "401 Unauthorized"),
            (status(404, "404 page not found"), FailureClass::NotServed, "404 404 page not found"),
            (status(410, "too old"), FailureClass::Expired, "410 too old"),
            (status(500, ""), FailureClass::Status(500), "500"),
            (
                kube::Error::SerdeError(garbage),
                FailureClass::Garbage,
                "invalid type: map, expected u8 at line 1 column 0",
            ),
            (kube::Error::Service(Box::new(refused)), FailureClass::NoAnswer, "connection refused"),
        ] {
            assert_eq!(Failure::of(&error), Failure { why: why.into(), class });
        }
    }
}
