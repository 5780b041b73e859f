//! VirtualService `corsPolicy`, as headers have it.

use http::HeaderValue;

use crate::resource::string_match::StringMatch;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    pub allow_origins: Vec<StringMatch>,
    /// `GET,POST`; `*` stands for whatever is asked for. As the next ones, `None` when nothing is listed.
    pub allow_methods: Option<HeaderValue>,
    /// `*` stands for whatever is asked for.
    pub allow_headers: Option<HeaderValue>,
    pub expose_headers: Option<HeaderValue>,
    /// Seconds.
    pub max_age: Option<HeaderValue>,
    pub allow_credentials: bool,
    /// Preflights of other origins go to the upstream.
    pub forward_unmatched_preflights: bool,
}

impl Cors {
    pub fn allows(&self, origin: &str) -> bool {
        self.allow_origins.iter().any(|allowed| {
            matches!(allowed, StringMatch::Exact(any) if &**any == "*") || allowed.matches(origin, false)
        })
    }
}
