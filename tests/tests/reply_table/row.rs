//! One row of the table, and how it is checked.

use anyhow::{Context, ensure};
use interceptor_tests::{Finished, Interceptor, World};
use regex::Regex;
use serde_json::Value;

/// What curl gets.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// An answer; `headers` are all there are, besides `date`. Placeholders as in log lines.
    Http { status_line: String, headers: Vec<String>, body: String },
    /// Something that this table does not own: TLS passed through, an answer that the next row reads.
    Any,
    /// None: curl ends with one of these.
    Closed(&'static [i32]),
}

impl Reply {
    /// Of our own, with a body in text/plain unless it is empty.
    pub(crate) fn own(status: &str, body: &str) -> Self {
        let mut headers = vec![format!("content-length: {}", body.len()), "server: interceptor".to_owned()];
        if !body.is_empty() {
            headers.push("content-type: text/plain".to_owned());
        }
        Self::Http { status_line: format!("HTTP/1.1 {status}"), headers, body: body.to_owned() }
    }

    /// Of our own, for a failure whose last words are rustls's: they have a length of their own.
    pub(crate) fn own_with_words(status: &str, body: &str) -> Self {
        Self::own(status, body).and_header("content-length: <n>", "content-length: ")
    }

    /// With a header more, in the place of those that begin with `instead_of`, if any do.
    pub(crate) fn and_header(mut self, header: &str, instead_of: &str) -> Self {
        if let Self::Http { headers, .. } = &mut self {
            headers.retain(|have| instead_of.is_empty() || !have.starts_with(instead_of));
            headers.push(header.to_owned());
        }
        self
    }

    /// An upstream's answer, with the headers that the upstream gave it.
    pub(crate) fn upstream(status: &str, headers: &[&str], body: &str) -> Self {
        let mut headers: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
        headers.push("x-envoy-upstream-service-time: <ms>".to_owned());
        Self::Http { status_line: format!("HTTP/1.1 {status}"), headers, body: body.to_owned() }
    }
}

/// A situation, and all that can be seen of it.
#[derive(Debug, Clone)]
pub(crate) struct Row<'a> {
    pub(crate) config: String,
    pub(crate) registry_only: bool,
    pub(crate) curl: Vec<&'a str>,
    pub(crate) reply: Reply,
    /// The whole line after `[START_TIME] `, with `<ms>` and the like for what no one can know.
    pub(crate) log: String,
}

impl Row<'_> {
    /// Fails, showing both sides, where what is seen is not what the table says; in both forms of the access log.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let pod = World::shared()?.pod()?;
        let text = self.interceptor(pod.interceptor()?)?.curl(&self.curl)?;
        self.check_reply(&text)?;
        ensure!(text.log.lines().count() == 1, "not one line: {}", text.log);
        check_line(&self.log, text.log.trim_end())?;

        let json = self.interceptor(pod.interceptor()?)?.json().curl(&self.curl)?;
        let [line] = &json.json_lines()?[..] else { anyhow::bail!("not one line: {}", json.log) };
        check_line(&self.log, &text_of(line)?)
    }

    fn interceptor<'pod>(&self, interceptor: Interceptor<'pod>) -> anyhow::Result<Interceptor<'pod>> {
        let interceptor = interceptor.config(&self.config)?;
        Ok(if self.registry_only { interceptor.registry_only() } else { interceptor })
    }

    fn check_reply(&self, run: &Finished) -> anyhow::Result<()> {
        match &self.reply {
            Reply::Any => run.expect_code(0).map(drop),
            Reply::Closed(codes) => {
                ensure!(codes.contains(&run.code()), "exit {}: {}{}", run.code(), run.text(), run.stderr);
                ensure!(run.stdout.is_empty(), "an answer: {}", run.text());
                Ok(())
            }
            Reply::Http { status_line, headers, body } => {
                run.expect_code(0)?;
                check_http(&run.text(), status_line, headers, body)
            }
        }
    }
}

/// Compares a whole response, as `curl -i` prints it.
pub(crate) fn check_http(
    text: &str,
    status_line: &str,
    headers: &[String],
    body: &str,
) -> anyhow::Result<()> {
    let (head, got) = text.split_once("\r\n\r\n").with_context(|| format!("no response: {text:?}"))?;
    let (got_status, got_headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let mut got_headers: Vec<&str> = got_headers.split("\r\n").collect();
    let mut headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    headers.push("date: <date>");
    headers.sort_unstable();
    got_headers.sort_unstable();
    let expected = format!("{status_line}\n{}\n\n{body}", headers.join("\n"));
    let got = format!("{got_status}\n{}\n\n{got}", got_headers.join("\n"));
    ensure!(pattern(&expected)?.is_match(&got), "expected:\n{expected}\ngot:\n{got}");
    Ok(())
}

/// Compares a whole line; `expected` is without its time.
pub(crate) fn check_line(expected: &str, got: &str) -> anyhow::Result<()> {
    let whole = format!("[<time>] {expected}");
    ensure!(pattern(&whole)?.is_match(got), "expected:\n{whole}\ngot:\n{got}");
    Ok(())
}

/// The template with its placeholders as an expression, anchored at both ends.
fn pattern(template: &str) -> anyhow::Result<Regex> {
    let mut pattern = regex::escape(template);
    for (placeholder, expression) in [
        ("<time>", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
        ("<date>", r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"),
        ("<ms>", r"\d{1,4}"),
        ("<n>", r"[1-9]\d*"),
        ("<ua>", r"curl/[\d.]+"),
        ("<id>", r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
        ("<pod>", r"10\.244\.\d+\.2:\d+"),
        // The application's own end, which is loopback when a redirected socket was not bound before.
        ("<client>", r"(?:10\.244\.\d+\.2|127\.0\.0\.1):\d+"),
        // rustls's words about a certificate, and the same in details.
        ("<words>", r"[^|{}]+"),
        ("<details>", r"[^\s|{}]+"),
    ] {
        pattern = pattern.replace(placeholder, expression);
    }
    Regex::new(&format!("^{pattern}$")).context("the template is no expression")
}

/// A JSON line as the text line would have it: one expectation serves both.
fn text_of(line: &Value) -> anyhow::Result<String> {
    let keys = line.as_object().context("not an object")?;
    ensure!(keys.len() == 24, "{} keys: {line:#}", keys.len());
    let numbers = ["response_code", "bytes_received", "bytes_sent", "duration"];
    for (key, value) in keys {
        let fits = if numbers.contains(&key.as_str()) {
            value.is_number()
        } else {
            value.is_string() || value.is_null()
        };
        ensure!(fits, "{key} is of the wrong type: {value}");
    }
    let field = |key: &str| match &line[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    };
    let plain = |keys: &[&str]| keys.iter().map(|key| field(key)).collect::<Vec<_>>().join(" ");
    let quoted =
        |keys: &[&str]| keys.iter().map(|key| format!("\"{}\"", field(key))).collect::<Vec<_>>().join(" ");
    Ok(format!(
        "[{}] \"{}\" {} {} {} {} {}",
        field("start_time"),
        plain(&["method", "path", "protocol"]),
        plain(&[
            "response_code",
            "response_flags",
            "response_code_details",
            "connection_termination_details"
        ]),
        quoted(&["upstream_transport_failure_reason"]),
        plain(&["bytes_received", "bytes_sent", "duration", "upstream_service_time"]),
        quoted(&["x_forwarded_for", "user_agent", "request_id", "authority", "upstream_host"]),
        plain(&[
            "upstream_cluster",
            "upstream_local_address",
            "downstream_local_address",
            "downstream_remote_address",
            "requested_server_name",
            "route_name"
        ]),
    ))
}
