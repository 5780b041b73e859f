//! `accessLogFormat`: Envoy's command operators between literal text, or in the values of a JSON object
//! (envoy: docs/root/configuration/observability/access_log/usage.rst).

mod command;
mod known;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;
use serde_json::Value;

use command::command;
pub use known::{DEFAULT_JSON, DEFAULT_TEXT};

/// How a line is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFormat {
    pub shape: Shape,
    /// Headers that records need beside those that they always have.
    pub request_headers: Vec<HeaderName>,
    pub response_headers: Vec<HeaderName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Without the newline at its end.
    Text(Vec<Piece>),
    Json(Json),
}

/// What a JSON line is made of; keys in Envoy's order, which is by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    Object(BTreeMap<Box<str>, Json>),
    List(Vec<Json>),
    /// Neither of them, nor a string.
    Literal(Value),
    /// One operator alone keeps its type, and is null where it has no value.
    Text(Vec<Piece>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Literal(Box<str>),
    Operator {
        operator: Operator,
        length_max: Option<usize>,
        /// Stands between quotes: spaces end nothing.
        is_quoted: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// With a format of strftime, if not Envoy's own.
    StartTime(Option<Box<str>>),
    /// The first of these headers that is there.
    Request(Vec<Header>),
    Response(Vec<Header>),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    DownstreamTransportFailureReason,
    ClientTls(ClientTlsFact),
    Client(ClientFact),
    BytesReceived,
    BytesSent,
    Duration,
    UpstreamCluster,
    RequestedServerName,
    RouteName,
    Address(Address, Part),
    /// Envoy's, and never known here.
    Unknown,
}

/// A header, or what stands for one in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    Method,
    Path,
    Authority,
    UserAgent,
    ForwardedFor,
    RequestId,
    Status,
    UpstreamServiceTime,
    Other(HeaderName),
    /// One that is never there.
    Never,
}

/// Of a client whose TLS ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTlsFact {
    Version,
    Subject,
    Issuer,
    Serial,
    Fingerprint,
    UriNames,
    DnsNames,
}

/// Of the workload whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFact {
    Namespace,
    Pod,
    ServiceAccount,
    Workload,
    CanonicalService,
    CanonicalRevision,
    App,
    Version,
    Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    Upstream,
    UpstreamLocal,
    DownstreamLocal,
    DownstreamRemote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    WithoutPort,
    Port,
}

/// What is said of a format: mistakes, and operators that are written as `-`.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    pub(super) errors: Vec<String>,
    pub(super) unknown: Vec<String>,
}

/// A text format. `None` when it has mistakes, which the remarks name.
pub(super) fn text(format: &str, remarks: &mut Remarks) -> Option<LogFormat> {
    // Istio adds one where there is none.
    let pieces = pieces(format.strip_suffix('\n').unwrap_or(format), remarks);
    remarks.errors.is_empty().then(|| LogFormat::of(Shape::Text(pieces)))
}

/// A JSON object whose strings are text formats.
pub(super) fn json(format: &str, remarks: &mut Remarks) -> Option<LogFormat> {
    let value = match serde_json::from_str(format) {
        Ok(value @ Value::Object(_)) => value,
        Ok(_) => {
            remarks.errors.push("expected a JSON object, as accessLogEncoding is JSON".into());
            return None;
        }
        Err(error) => {
            remarks.errors.push(format!("expected a JSON object, as accessLogEncoding is JSON: {error}"));
            return None;
        }
    };
    let json = Json::of(value, remarks);
    remarks.errors.is_empty().then(|| LogFormat::of(Shape::Json(json)))
}

impl LogFormat {
    /// Istio's own.
    pub fn default_text() -> Self {
        text(DEFAULT_TEXT, &mut Remarks::default()).unwrap_or_else(|| Self::of(Shape::Text(Vec::new())))
    }

    /// Istio's own.
    pub fn default_json() -> Self {
        json(DEFAULT_JSON, &mut Remarks::default()).unwrap_or_else(|| Self::of(Shape::Text(Vec::new())))
    }

    fn of(shape: Shape) -> Self {
        let mut format =
            Self { shape: Shape::Text(Vec::new()), request_headers: vec![], response_headers: vec![] };
        let mut note = |piece: &Piece| {
            let (headers, named) = match piece {
                Piece::Operator { operator: Operator::Request(headers), .. } => {
                    (headers, &mut format.request_headers)
                }
                Piece::Operator { operator: Operator::Response(headers), .. } => {
                    (headers, &mut format.response_headers)
                }
                Piece::Operator { .. } | Piece::Literal(_) => return,
            };
            for header in headers {
                if let Header::Other(name) = header {
                    named.push(name.clone());
                }
            }
        };
        match &shape {
            Shape::Text(pieces) => pieces.iter().for_each(&mut note),
            Shape::Json(json) => json.each(&mut note),
        }
        for headers in [&mut format.request_headers, &mut format.response_headers] {
            headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            headers.dedup();
        }
        Self { shape, ..format }
    }
}

impl Json {
    fn of(value: Value, remarks: &mut Remarks) -> Self {
        match value {
            Value::Object(fields) => Self::Object(
                fields.into_iter().map(|(key, value)| (key.into(), Self::of(value, remarks))).collect(),
            ),
            Value::Array(items) => {
                Self::List(items.into_iter().map(|item| Self::of(item, remarks)).collect())
            }
            Value::String(text) => Self::Text(pieces(&text, remarks)),
            literal @ (Value::Null | Value::Bool(_) | Value::Number(_)) => Self::Literal(literal),
        }
    }

    fn each(&self, visit: &mut impl FnMut(&Piece)) {
        match self {
            Self::Object(fields) => fields.values().for_each(|field| field.each(visit)),
            Self::List(items) => items.iter().for_each(|item| item.each(visit)),
            Self::Literal(_) => {}
            Self::Text(pieces) => pieces.iter().for_each(visit),
        }
    }
}

fn pieces(format: &str, remarks: &mut Remarks) -> Vec<Piece> {
    let (mut pieces, mut literal, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        literal.push_str(before);
        is_quoted ^= before.matches('"').count() % 2 == 1;
        rest = &from[1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let Some((command, after)) = command(rest) else {
            let shown: String = from.chars().take(40).collect();
            remarks.errors.push(format!(
                "`{shown}` begins an operator that does not end: expected %NAME%, %NAME(ARGUMENTS)% or \
                 %NAME(ARGUMENTS):LENGTH%; %% is a per cent sign"
            ));
            return pieces;
        };
        rest = after;
        if let Some(operator) = command.operator(remarks) {
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
            }
            pieces.push(Piece::Operator { operator, length_max: command.length_max, is_quoted });
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    pieces
}

/// What MeshConfig's two fields ask for; `None` for Istio's own.
pub(super) fn read(field: &super::decode::Field<'_>, is_json: bool) -> Option<Arc<LogFormat>> {
    let given = field.text().filter(|text| !text.is_empty())?;
    let mut remarks = Remarks::default();
    let format = if is_json { json(&given, &mut remarks) } else { text(&given, &mut remarks) };
    for error in remarks.errors {
        field.error(error);
    }
    remarks.unknown.dedup();
    for name in remarks.unknown {
        let message = format!("%{name}% is never known here: it is written as `-`, or null in JSON");
        field.coded_warning(&super::code::EGR0119, message);
    }
    format.map(Arc::new)
}
