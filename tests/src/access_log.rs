//! The access log read back: Istio's text format, strictly, and its JSON format.

use std::sync::LazyLock;

use anyhow::Context;
use regex::Regex;

/// ISTIO's text format, one capture for each operator, in their order. Anchored at both ends.
#[expect(clippy::expect_used, reason = "the expression is a constant")]
static TEXT: LazyLock<Regex> = LazyLock::new(|| {
    // A quote inside is escaped, so that no header can make a field.
    let quoted = r#""((?:[^"\\]|\\.)*)""#;
    let word = r"(\S+)";
    let number = r"(\d+)";
    let fields = [
        r"\[(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)\]",
        r#""(\S+) (\S+) (\S+)""#,
        number, // RESPONSE_CODE
        word,   // RESPONSE_FLAGS
        word,   // RESPONSE_CODE_DETAILS
        word,   // CONNECTION_TERMINATION_DETAILS
        quoted, // UPSTREAM_TRANSPORT_FAILURE_REASON
        number, // BYTES_RECEIVED
        number, // BYTES_SENT
        number, // DURATION
        r"(-|\d+)",
        quoted, // X-FORWARDED-FOR
        quoted, // USER-AGENT
        quoted, // X-REQUEST-ID
        quoted, // :AUTHORITY
        quoted, // UPSTREAM_HOST
        word,   // UPSTREAM_CLUSTER_RAW
        word,   // UPSTREAM_LOCAL_ADDRESS
        word,   // DOWNSTREAM_LOCAL_ADDRESS
        word,   // DOWNSTREAM_REMOTE_ADDRESS
        word,   // REQUESTED_SERVER_NAME
        word,   // ROUTE_NAME
    ];
    Regex::new(&format!("^{}$", fields.join(" "))).expect("a valid expression")
});

/// One line of the text format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub line: String,
    pub start_time: String,
    pub method: String,
    pub path: String,
    pub protocol: String,
    pub code: u16,
    pub flags: String,
    pub details: String,
    pub termination: String,
    pub transport_failure: String,
    pub received: u64,
    pub sent: u64,
    pub duration_ms: u64,
    pub service_time: String,
    pub forwarded_for: String,
    pub user_agent: String,
    pub request_id: String,
    pub authority: String,
    pub upstream_host: String,
    pub cluster: String,
    pub upstream_local: String,
    pub local: String,
    pub remote: String,
    pub sni: String,
    pub route: String,
}

impl LogLine {
    /// Reads a line; fails unless it is exactly of the format.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let found = TEXT.captures(line).with_context(|| format!("not Istio's access log format: {line}"))?;
        let text =
            |index: usize| found.get(index).map_or_else(String::new, |field| field.as_str().to_owned());
        let number = |index: usize| text(index).parse::<u64>().with_context(|| format!("too large: {line}"));
        Ok(Self {
            line: line.to_owned(),
            start_time: text(1),
            method: text(2),
            path: text(3),
            protocol: text(4),
            code: text(5).parse().with_context(|| format!("not a status: {line}"))?,
            flags: text(6),
            details: text(7),
            termination: text(8),
            transport_failure: text(9),
            received: number(10)?,
            sent: number(11)?,
            duration_ms: number(12)?,
            service_time: text(13),
            forwarded_for: text(14),
            user_agent: text(15),
            request_id: text(16),
            authority: text(17),
            upstream_host: text(18),
            cluster: text(19),
            upstream_local: text(20),
            local: text(21),
            remote: text(22),
            sni: text(23),
            route: text(24),
        })
    }
}
