//! One record as one line, as Envoy writes it with Istio's default formats.
//!
//! Values that a peer chose can't end a field or a line: what could is escaped, where Envoy writes it as
//! it came. Everything else is byte for byte the same.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::snapshot::{AccessLogEncoding, EndpointAddress};
use crate::telemetry::record::{AccessRecord, HttpRecord};

/// Appends the line, newline included.
pub(super) fn append_line(line: &mut Vec<u8>, encoding: AccessLogEncoding, record: &AccessRecord) {
    let appended = match encoding {
        AccessLogEncoding::Text => append_text(line, record).map_err(|_fmt| "formatting failed".to_owned()),
        AccessLogEncoding::Json => {
            serde_json::to_writer(&mut *line, &JsonLine::new(record)).map_err(|error| error.to_string())
        }
    };
    debug_assert_eq!(appended, Ok(()), "writing to memory fails only where a value's Display does");
    line.push(b'\n');
}

/// Istio's `EnvoyTextLogFormat` (pilot/pkg/model/telemetry_logging.go), since 1.9.
fn append_text(line: &mut Vec<u8>, record: &AccessRecord) -> fmt::Result {
    let none = HttpRecord::default();
    let http = record.http.as_ref();
    let fields = http.unwrap_or(&none);
    let mut out = Bytes(line);
    match http {
        Some(http) => write!(
            out,
            "[{}] \"{} {} {}\" ",
            StartTime(record.start_time),
            Quoted(known(&http.method)),
            Quoted(known(&http.path)),
            Quoted(Some(http.protocol)),
        )?,
        None => write!(out, "[{}] \"- - -\" ", StartTime(record.start_time))?,
    }
    write!(
        out,
        "{} {} {} {} \"{}\" {} {} {} {} ",
        record.response_code,
        record.response_flags,
        Bare(record.response_code_details.as_deref()),
        Bare(record.connection_termination_details.as_deref()),
        Bare(record.upstream_transport_failure_reason.as_deref()),
        record.bytes_received,
        record.bytes_sent,
        record.duration.as_millis(),
        OrDash(fields.upstream_service_time.map(|time| time.as_millis())),
    )?;
    write!(
        out,
        "\"{}\" \"{}\" \"{}\" \"{}\" \"{}\" ",
        Quoted(fields.x_forwarded_for.as_deref()),
        Quoted(fields.user_agent.as_deref()),
        Quoted(fields.request_id.as_deref()),
        Quoted(fields.authority.as_deref()),
        Host(record.upstream_host.as_ref()),
    )?;
    write!(
        out,
        "{} {} {} {} {} {}",
        Bare(record.upstream_cluster.as_ref().map(|cluster| &*cluster.0)),
        OrDash(record.upstream_local_address),
        record.downstream_local_address,
        record.downstream_remote_address,
        Bare(record.requested_server_name.as_deref()),
        Bare(record.route_name.as_deref()),
    )
}

/// Istio's `EnvoyJSONLogFormatIstio`. Envoy sorts the keys (always since 1.33), writes numbers as numbers,
/// what is absent as null, and headers as strings.
#[derive(Serialize)]
struct JsonLine<'a> {
    authority: Option<&'a str>,
    bytes_received: u64,
    bytes_sent: u64,
    connection_termination_details: Option<&'a str>,
    downstream_local_address: std::net::SocketAddr,
    downstream_remote_address: std::net::SocketAddr,
    duration: u128,
    method: Option<&'a str>,
    path: Option<&'a str>,
    protocol: Option<&'a str>,
    request_id: Option<&'a str>,
    requested_server_name: Option<&'a str>,
    response_code: u16,
    response_code_details: Option<&'a str>,
    #[serde(serialize_with = "displayed")]
    response_flags: crate::proxy::outcome::ResponseFlags,
    route_name: Option<&'a str>,
    #[serde(serialize_with = "displayed")]
    start_time: StartTime,
    upstream_cluster: Option<&'a str>,
    #[serde(serialize_with = "displayed_or_null")]
    upstream_host: Option<&'a EndpointAddress>,
    upstream_local_address: Option<std::net::SocketAddr>,
    #[serde(serialize_with = "header_milliseconds")]
    upstream_service_time: Option<Duration>,
    upstream_transport_failure_reason: Option<Cow<'a, str>>,
    user_agent: Option<&'a str>,
    x_forwarded_for: Option<&'a str>,
}

impl<'a> JsonLine<'a> {
    fn new(record: &'a AccessRecord) -> Self {
        let http = record.http.as_ref();
        Self {
            authority: http.and_then(|http| http.authority.as_deref()),
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            connection_termination_details: record.connection_termination_details.as_deref(),
            downstream_local_address: record.downstream_local_address,
            downstream_remote_address: record.downstream_remote_address,
            duration: record.duration.as_millis(),
            method: http.and_then(|http| known(&http.method)),
            path: http.and_then(|http| known(&http.path)),
            protocol: http.map(|http| http.protocol),
            request_id: http.and_then(|http| http.request_id.as_deref()),
            requested_server_name: record.requested_server_name.as_deref(),
            response_code: record.response_code,
            response_code_details: record.response_code_details.as_deref(),
            response_flags: record.response_flags,
            route_name: record.route_name.as_deref(),
            start_time: StartTime(record.start_time),
            upstream_cluster: record.upstream_cluster.as_ref().map(|cluster| &*cluster.0),
            upstream_host: record.upstream_host.as_ref(),
            upstream_local_address: record.upstream_local_address,
            upstream_service_time: http.and_then(|http| http.upstream_service_time),
            upstream_transport_failure_reason: record
                .upstream_transport_failure_reason
                .as_deref()
                .map(without_spaces),
            user_agent: http.and_then(|http| http.user_agent.as_deref()),
            x_forwarded_for: http.and_then(|http| http.x_forwarded_for.as_deref()),
        }
    }
}

fn displayed<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn displayed_or_null<T: fmt::Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn header_milliseconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&time.as_millis()),
        None => serializer.serialize_none(),
    }
}

/// `2006-01-02T15:04:05.000Z`.
struct StartTime(SystemTime);

impl fmt::Display for StartTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A clock outside of jiff's years -9999..9999 is no reason to lose the line.
        let time = jiff::Timestamp::try_from(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        write!(formatter, "{time:.3}")
    }
}

struct OrDash<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for OrDash<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(formatter),
            None => formatter.write_str("-"),
        }
    }
}

/// Whom was sent to, between quotes.
struct Host<'a>(Option<&'a EndpointAddress>);

impl fmt::Display for Host<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(EndpointAddress::Ip(address)) => address.fmt(formatter),
            Some(EndpointAddress::Unix(path)) => Quoted(Some(path.as_str())).fmt(formatter),
            None => formatter.write_str("-"),
        }
    }
}

/// A value between quotes.
struct Quoted<'a>(Option<&'a str>);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(formatter, self.0.unwrap_or("-"), |_| false)
    }
}

/// A value between spaces. Envoy has no spaces in such values: it writes `_` for those of its details.
struct Bare<'a>(Option<&'a str>);

impl fmt::Display for Bare<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0.filter(|value| !value.is_empty()).unwrap_or("-");
        write_escaped(formatter, value, |character| character == ' ')
    }
}

/// Envoy writes `_` for the spaces of this value in either form.
fn without_spaces(reason: &str) -> Cow<'_, str> {
    if reason.contains(' ') { Cow::Owned(reason.replace(' ', "_")) } else { Cow::Borrowed(reason) }
}

/// A request that could not be read has no method and no path.
fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// Writes `\"`, `\\` and control characters (C1 among them: terminals obey them) as escapes.
fn write_escaped(out: &mut fmt::Formatter<'_>, value: &str, is_space: fn(char) -> bool) -> fmt::Result {
    let mut plain = 0;
    let special = |character: char| character == '"' || character == '\\' || character.is_control();
    for (at, character) in value.char_indices() {
        if !special(character) && !is_space(character) {
            continue;
        }
        out.write_str(&value[plain..at])?;
        plain = at + character.len_utf8();
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            ' ' => out.write_str("_")?,
            _ => {
                for byte in &value.as_bytes()[at..plain] {
                    write!(out, "\\x{byte:02x}")?;
                }
            }
        }
    }
    out.write_str(&value[plain..])
}

struct Bytes<'a>(&'a mut Vec<u8>);

impl fmt::Write for Bytes<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
