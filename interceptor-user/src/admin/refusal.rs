//! A request that is not answered as asked: a status, and one sentence that says why and how to mend it.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::body::{self, Body};
use crate::output::OutputError;

#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    why: String,
    header: Option<(HeaderName, HeaderValue)>,
    in_json: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), header: None, in_json: false }
    }

    pub(super) fn bad_request(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why)
    }

    pub(super) fn unavailable(why: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, why)
    }

    /// `allow`: methods, with commas between them.
    pub(super) fn wrong_method(allow: &str) -> Self {
        let why = format!("expected {allow}");
        let header = HeaderValue::from_str(allow).ok().map(|allow| (header::ALLOW, allow));
        Self { header, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, why) }
    }

    /// `{"error": …}`, for programs.
    pub(super) fn in_json(self) -> Self {
        Self { in_json: true, ..self }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = if self.in_json {
            let text = serde_json::json!({ "error": self.why }).to_string();
            body::whole(self.status, body::JSON, text + "\n")
        } else {
            body::whole(self.status, body::TEXT, self.why.trim_end().to_owned() + "\n")
        };
        response.headers_mut().extend(self.header.map(|(name, value)| (Some(name), value)));
        response
    }
}

impl From<OutputError> for Refusal {
    fn from(error: OutputError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}
