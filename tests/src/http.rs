//! What `curl -i` printed, as a response.

use anyhow::Context;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// `HTTP/1.1 200 OK`.
    pub status_line: String,
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Http {
    /// All responses in the text, in order: informational ones, redirects, the last one with its body.
    pub fn all(text: &str) -> anyhow::Result<Vec<Self>> {
        let mut responses = Vec::new();
        let mut rest = text;
        while rest.starts_with("HTTP/") {
            let (head, after) = rest.split_once("\r\n\r\n").context("a head without an end")?;
            let mut lines = head.split("\r\n");
            let status_line = lines.next().unwrap_or_default().to_owned();
            let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status = status.with_context(|| format!("no status in {status_line:?}"))?;
            let headers = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect();
            responses.push(Self { status_line, status, headers, body: String::new() });
            rest = after;
        }
        if let Some(last) = responses.last_mut() {
            rest.clone_into(&mut last.body);
        }
        Ok(responses)
    }

    /// The last response, with the body.
    pub fn last(text: &str) -> anyhow::Result<Self> {
        Self::all(text)?.pop().with_context(|| format!("no HTTP response in {text:?}"))
    }

    /// A header's value; several are joined by a comma.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self
            .headers
            .iter()
            .filter(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The body as JSON (httpbin's echoes).
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {:?}", self.body))
    }
}
