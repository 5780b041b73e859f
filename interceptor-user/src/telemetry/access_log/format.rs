//! One record as one line, as Envoy writes it.
//!
//! Values that a peer chose can't end a field or a line: what could is escaped, where Envoy writes it as
//! it came. Everything else is byte for byte the same.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::HeaderName;
use serde::{Serialize, Serializer};

use crate::snapshot::log_format::{
    Address, ClientFact, ClientTlsFact, Header, Json, Operator, Part, Piece, Shape,
};
use crate::snapshot::{EndpointAddress, LogFormat};
use crate::telemetry::record::{AccessRecord, HttpRecord};

/// Appends the line, newline included.
pub(super) fn append_line(line: &mut Vec<u8>, format: &LogFormat, record: &AccessRecord) {
    let appended = match &format.shape {
        Shape::Text(pieces) => {
            let mut out = Bytes(line);
            pieces
                .iter()
                .try_for_each(|piece| write_piece(&mut out, piece, record))
                .map_err(|error| error.to_string())
        }
        Shape::Json(json) => {
            serde_json::to_writer(&mut *line, &JsonOf { json, record }).map_err(|error| error.to_string())
        }
    };
    debug_assert_eq!(appended, Ok(()), "writing to memory fails only where a value's Display does");
    line.push(b'\n');
}

/// What an operator stands for.
enum Value<'a> {
    Absent,
    Number(u128),
    /// What a peer chose, or made of it.
    Text(Cow<'a, str>),
    /// Ends no field and no line.
    Plain(&'a dyn fmt::Display),
    Address(SocketAddr),
    StartTime(StartTime),
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::Absent, |text| Self::Text(text.into()))
    }
}

fn value<'a>(operator: &Operator, record: &'a AccessRecord) -> Value<'a> {
    match operator {
        Operator::StartTime(None) => Value::StartTime(StartTime(record.start_time)),
        Operator::StartTime(Some(format)) => {
            let time = timestamp(record.start_time).to_zoned(jiff::tz::TimeZone::UTC);
            Value::Text(jiff::fmt::strtime::format(&**format, &time).unwrap_or_default().into())
        }
        Operator::Request(headers) => first(headers, record, |http| &http.request_headers),
        Operator::Response(headers) => first(headers, record, |http| &http.response_headers),
        Operator::Protocol => record.http.as_ref().map(|http| http.protocol).into(),
        Operator::ResponseCode => Value::Number(record.response_code.into()),
        Operator::ResponseCodeDetails => record.response_code_details.as_deref().into(),
        Operator::ResponseFlags => Value::Plain(&record.response_flags),
        Operator::ConnectionTerminationDetails => record.connection_termination_details.as_deref().into(),
        Operator::UpstreamTransportFailureReason => {
            let reason = record.upstream_transport_failure_reason.as_deref();
            reason.map_or(Value::Absent, |reason| Value::Text(without_spaces(reason)))
        }
        Operator::DownstreamTransportFailureReason => {
            let reason = record.downstream_transport_failure_reason.as_deref();
            reason.map_or(Value::Absent, |reason| Value::Text(without_spaces(reason)))
        }
        Operator::ClientTls(fact) => client_tls(*fact, record),
        Operator::Client(fact) => client(*fact, record),
        Operator::BytesReceived => Value::Number(record.bytes_received.into()),
        Operator::BytesSent => Value::Number(record.bytes_sent.into()),
        Operator::Duration => Value::Number(record.duration.as_millis()),
        Operator::UpstreamCluster => record.upstream_cluster.as_ref().map(|cluster| &*cluster.0).into(),
        Operator::RequestedServerName => record.requested_server_name.as_deref().into(),
        Operator::RouteName => record.route_name.as_deref().into(),
        Operator::Address(address, part) => {
            let address = match address {
                Address::Upstream => match &record.upstream_host {
                    Some(EndpointAddress::Unix(_)) if *part == Part::Port => None,
                    Some(EndpointAddress::Unix(path)) => return Value::Text(path.as_str().into()),
                    Some(EndpointAddress::Ip(address)) => Some(*address),
                    None => None,
                },
                Address::UpstreamLocal => record.upstream_local_address,
                Address::DownstreamLocal => Some(record.downstream_local_address),
                Address::DownstreamRemote => Some(record.downstream_remote_address),
            };
            match (address, part) {
                (None, _) => Value::Absent,
                (Some(address), Part::Whole) => Value::Address(address),
                (Some(address), Part::WithoutPort) => Value::Text(address.ip().to_string().into()),
                (Some(address), Part::Port) => Value::Number(address.port().into()),
            }
        }
        Operator::Unknown => Value::Absent,
    }
}

fn client(fact: ClientFact, record: &AccessRecord) -> Value<'_> {
    let Some(client) = record.client.as_deref() else { return Value::Absent };
    let fact = match fact {
        ClientFact::Namespace => &client.namespace,
        ClientFact::Pod => &client.pod,
        ClientFact::ServiceAccount => &client.service_account,
        ClientFact::Workload => &client.workload,
        ClientFact::CanonicalService => &client.canonical_service,
        ClientFact::CanonicalRevision => &client.canonical_revision,
        ClientFact::App => &client.app,
        ClientFact::Version => &client.version,
        ClientFact::Cluster => &client.cluster,
    };
    known(fact).into()
}

fn client_tls(fact: ClientTlsFact, record: &AccessRecord) -> Value<'_> {
    let Some(tls) = record.client_tls.as_deref() else { return Value::Absent };
    if fact == ClientTlsFact::Version {
        return Value::Text(tls.version.into());
    }
    let Some(certificate) = &tls.certificate else { return Value::Absent };
    let all = |names: &[String]| Some(names.join(",")).filter(|names| !names.is_empty());
    match fact {
        ClientTlsFact::Version => Value::Absent,
        ClientTlsFact::Subject => known(&certificate.subject).into(),
        ClientTlsFact::Issuer => known(&certificate.issuer).into(),
        ClientTlsFact::Serial => known(&certificate.serial).into(),
        ClientTlsFact::Fingerprint => known(&certificate.fingerprint).into(),
        ClientTlsFact::UriNames => {
            all(&certificate.uri_names).map_or(Value::Absent, |names| Value::Text(names.into()))
        }
        ClientTlsFact::DnsNames => {
            all(&certificate.dns_names).map_or(Value::Absent, |names| Value::Text(names.into()))
        }
    }
}

/// The first of the headers that is there.
fn first<'a>(
    headers: &[Header],
    record: &'a AccessRecord,
    others: impl Fn(&'a HttpRecord) -> &'a [(HeaderName, String)],
) -> Value<'a> {
    let Some(http) = &record.http else { return Value::Absent };
    let mut found = headers.iter().map(|header| match header {
        Header::Method => known(&http.method).into(),
        Header::Path => known(&http.path).into(),
        Header::Authority => http.authority.as_deref().into(),
        Header::UserAgent => http.user_agent.as_deref().into(),
        Header::ForwardedFor => http.x_forwarded_for.as_deref().into(),
        Header::RequestId => http.request_id.as_deref().into(),
        Header::Status => match record.response_code {
            0 => Value::Absent,
            code => Value::Text(code.to_string().into()),
        },
        Header::UpstreamServiceTime => match http.upstream_service_time {
            Some(time) => Value::Text(time.as_millis().to_string().into()),
            None => Value::Absent,
        },
        Header::Other(name) => {
            others(http).iter().find(|(known, _)| known == name).map(|(_, value)| &**value).into()
        }
        Header::Never => Value::Absent,
    });
    found.find(|value| !matches!(value, Value::Absent)).unwrap_or(Value::Absent)
}

/// At most so many characters.
fn cut(text: Cow<'_, str>, length_max: Option<usize>) -> Cow<'_, str> {
    match length_max.and_then(|max| text.char_indices().nth(max)) {
        Some((end, _)) => Cow::Owned(text[..end].to_owned()),
        None => text,
    }
}

fn write_piece(out: &mut impl fmt::Write, piece: &Piece, record: &AccessRecord) -> fmt::Result {
    let (operator, length_max, is_quoted) = match piece {
        Piece::Literal(text) => return out.write_str(text),
        Piece::Operator { operator, length_max, is_quoted } => (operator, *length_max, *is_quoted),
    };
    match value(operator, record) {
        Value::Absent => out.write_str("-"),
        Value::Number(number) => write!(out, "{number}"),
        Value::Address(address) => write!(out, "{address}"),
        Value::StartTime(time) => write!(out, "{time}"),
        Value::Plain(value) => write!(out, "{value}"),
        Value::Text(text) => {
            let text = cut(text, length_max);
            // Spaces of headers and paths are theirs where quotes hold them together; Envoy has none in its own values.
            let is_given =
                matches!(operator, Operator::Request(_) | Operator::Response(_) | Operator::Address(..));
            let keeps_spaces =
                is_given && is_quoted || matches!(operator, Operator::StartTime(_) | Operator::Protocol);
            if keeps_spaces { write!(out, "{}", Quoted(&text)) } else { write!(out, "{}", Bare(&text)) }
        }
    }
}

/// JSON as its format has it. Envoy sorts the keys (always since 1.33), writes numbers as numbers, what is absent as
/// null, and headers as strings.
struct JsonOf<'a> {
    json: &'a Json,
    record: &'a AccessRecord,
}

impl Serialize for JsonOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { json, record } = *self;
        match json {
            Json::Object(fields) => {
                serializer.collect_map(fields.iter().map(|(key, json)| (&**key, JsonOf { json, record })))
            }
            Json::List(items) => serializer.collect_seq(items.iter().map(|json| JsonOf { json, record })),
            Json::Literal(value) => value.serialize(serializer),
            Json::Text(pieces) => match pieces.as_slice() {
                [Piece::Operator { operator, length_max, .. }] => match value(operator, record) {
                    Value::Absent => serializer.serialize_none(),
                    Value::Number(number) => serializer.serialize_u128(number),
                    Value::Text(text) => serializer.serialize_str(&cut(text, *length_max)),
                    Value::Address(address) => serializer.collect_str(&address),
                    Value::StartTime(time) => serializer.collect_str(&time),
                    Value::Plain(value) => serializer.collect_str(value),
                },
                pieces => serializer.collect_str(&TextOf { pieces, record }),
            },
        }
    }
}

/// A string of JSON with more than one operator; JSON escapes what needs it.
struct TextOf<'a> {
    pieces: &'a [Piece],
    record: &'a AccessRecord,
}

impl fmt::Display for TextOf<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Operator { operator, length_max, .. } => match value(operator, self.record) {
                Value::Text(text) => out.write_str(&cut(text, *length_max)),
                Value::Absent
                | Value::Number(_)
                | Value::Plain(_)
                | Value::Address(_)
                | Value::StartTime(_) => write_piece(out, piece, self.record),
            },
            Piece::Literal(text) => out.write_str(text),
        })
    }
}

fn timestamp(time: SystemTime) -> jiff::Timestamp {
    // A clock outside of jiff's years -9999..9999 is no reason to lose the line.
    jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// `2006-01-02T15:04:05.000Z`.
struct StartTime(SystemTime);

impl fmt::Display for StartTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.3}", timestamp(self.0))
    }
}

/// A value between quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(formatter, self.0, |_| false)
    }
}

/// A value between spaces. Envoy has no spaces in such values: it writes `_` for those of its details.
struct Bare<'a>(&'a str);

impl fmt::Display for Bare<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(formatter, if self.0.is_empty() { "-" } else { self.0 }, |character| character == ' ')
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
