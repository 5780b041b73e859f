//! The record of one request: begun when its head is there, counted and written when the last of its reply is
//! gone, whichever way it ends.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::uri::Authority;
use http::{HeaderMap, Request, StatusCode, Version};

use super::http1::HEAD_MAX;
use super::tap::Answering;
use super::upload::Upload;
use super::{Connection, grpc};
use crate::proxy::counting::{Taker, To};
use crate::proxy::extra::Extra;
use crate::proxy::outcome::{ResponseFlag, ResponseFlags};
use crate::proxy::peers::Peer;
use crate::proxy::upstream::ClusterRuntime;
use crate::proxy::worker::Worker;
use crate::telemetry::metrics::{Outcome, RequestProtocol};
use crate::telemetry::{AccessRecord, HttpRecord};

/// Lives as long as its request; dropped, it counts the request and writes its record.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    open: Option<Box<Open>>,
    answering: Option<Answering>,
    /// Of a request beside others on its connection.
    _extra: Option<Extra>,
}

/// What is known so far.
#[derive(Debug)]
struct Open {
    worker: Rc<Worker>,
    started: Instant,
    peer: Option<Rc<Peer>>,
    to: To,
    is_grpc: bool,
    grpc_status: Option<u8>,
    response_code: u16,
    flags: ResponseFlags,
    bytes_received: u64,
    bytes_sent: u64,
    upload: Option<Rc<Upload>>,
    /// A fault held it up, which is told however it ends.
    delayed: bool,
    /// The rest, when somebody reads it.
    record: Option<Box<AccessRecord>>,
}

impl RequestLog {
    /// Until something else is set, the client is who ended it.
    pub(super) fn new<B>(connection: &Connection, request: &Request<B>) -> Self {
        let worker = &connection.worker;
        let record = worker.wants_records().then(|| Box::new(record(connection, request)));
        let open = Open {
            worker: Rc::clone(worker),
            started: Instant::now(),
            peer: connection.downstream.peer(),
            to: To::Unknown,
            is_grpc: grpc::is_grpc(request.headers()),
            grpc_status: None,
            response_code: 0,
            flags: ResponseFlag::DownstreamConnectionTermination.into(),
            bytes_received: 0,
            bytes_sent: 0,
            upload: None,
            delayed: false,
            record,
        };
        Self { open: Some(Box::new(open)), answering: Some(connection.tap.answering()), _extra: None }
    }

    /// The request counts as a connection of its own until its end.
    pub(super) fn counts_as_connection(&mut self, extra: Extra) {
        self._extra = Some(extra);
    }

    /// Whether replies of our own are gRPC's.
    pub(super) fn is_grpc(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_grpc)
    }

    /// Whom the request is for.
    pub(super) fn goes_to(&mut self, runtime: &ClusterRuntime, host: &HeaderValue) {
        if let Some(open) = &mut self.open {
            open.to = open.worker.counting().to(runtime, host);
        }
    }

    /// The same, of a request that no cluster is for.
    pub(super) fn goes_to_undeclared(&mut self, taker: Taker, host: &HeaderValue) {
        if let Some(open) = &mut self.open {
            open.to = To::Undeclared(taker, host.clone());
        }
    }

    /// What is told in the record alone.
    pub(super) fn set(&mut self, change: impl FnOnce(&mut AccessRecord)) {
        if let Some(record) = self.open.as_mut().and_then(|open| open.record.as_deref_mut()) {
            change(record);
        }
    }

    pub(super) fn set_http(&mut self, change: impl FnOnce(&mut HttpRecord)) {
        self.set(|record| {
            if let Some(http) = &mut record.http {
                change(http);
            }
        });
    }

    /// The reply is about to be sent.
    pub(super) fn replied(&mut self, code: u16, flags: ResponseFlags, details: Cow<'static, str>) {
        let Some(open) = &mut self.open else { return };
        open.response_code = code;
        open.flags = if open.delayed { flags.with(ResponseFlag::DelayInjected) } else { flags };
        self.set(|record| record.response_code_details = Some(details));
    }

    /// The reply's headers are known.
    pub(super) fn headers(&mut self, headers: &HeaderMap) {
        let Some(open) = &mut self.open else { return };
        if open.is_grpc {
            open.grpc_status = grpc::status_in(headers);
        }
        let http = open.record.as_mut().and_then(|record| record.http.as_mut());
        if let (Some(http), Some(format)) = (http, open.worker.access_log.format()) {
            http.response_headers = named(&format.response_headers, headers);
        }
    }

    /// What follows the reply's body.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(open) = self.open.as_mut().filter(|open| open.is_grpc) {
            open.grpc_status = grpc::status_in(trailers).or(open.grpc_status);
        }
    }

    /// A fault holds the request up.
    pub(super) fn delayed(&mut self) {
        if let Some(open) = &mut self.open {
            open.delayed = true;
            open.flags.insert(ResponseFlag::DelayInjected);
        }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        if let Some(open) = &mut self.open {
            open.bytes_sent += bytes as u64;
        }
    }

    /// The protocol changes: the client's end means what it says from here on.
    pub(super) fn upgraded(&mut self) {
        self.answering = None;
    }

    /// What was answered did not end well.
    pub(super) fn broke_off(&mut self, flag: ResponseFlag, details: impl Into<Cow<'static, str>>) {
        let Some(open) = &mut self.open else { return };
        open.flags.insert(flag);
        self.set(|record| record.response_code_details = Some(details.into()));
    }

    /// Bytes after a change of protocol.
    pub(super) fn carried(&mut self, received: u64, sent: u64) {
        if let Some(open) = &mut self.open {
            open.bytes_received += received;
            open.bytes_sent += sent;
        }
    }

    /// Counts what the client uploads, until the end.
    pub(super) fn track(&mut self, upload: &Rc<Upload>) {
        if let Some(open) = &mut self.open {
            open.upload = Some(Rc::clone(upload));
        }
    }
}

/// What the head of a request says of it.
fn record<B>(connection: &Connection, request: &Request<B>) -> AccessRecord {
    let text = |name: HeaderName| header_text(request.headers(), name);
    let format = connection.worker.access_log.format();
    AccessRecord {
        start_time: SystemTime::now(),
        http: Some(HttpRecord {
            method: request.method().to_string(),
            path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
            protocol: match request.version() {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2",
                _ => "HTTP/1.1",
            },
            upstream_service_time: None,
            x_forwarded_for: text(HeaderName::from_static("x-forwarded-for")),
            user_agent: text(USER_AGENT),
            request_id: text(super::headers::X_REQUEST_ID),
            authority: request.uri().authority().map(host_without_user).or_else(|| text(HOST)),
            request_headers: format
                .map(|format| named(&format.request_headers, request.headers()))
                .unwrap_or_default(),
            response_headers: Vec::new(),
        }),
        response_code_details: Some("downstream_remote_disconnect".into()),
        ..connection.downstream.record()
    }
}

impl Open {
    fn end(&mut self) {
        let duration = self.started.elapsed();
        let received = self.bytes_received + self.upload.as_deref().map_or(0, Upload::received);
        let outcome =
            Outcome { protocol: self.protocol(), response_code: self.response_code, flags: self.flags };
        let to = (self.peer.as_ref().map(|peer| &peer.labels), &self.to);
        self.worker.counting().request(to, outcome, duration, received, self.bytes_sent);
        let Some(mut record) = self.record.take() else { return };
        self.identify(&mut record);
        record.response_code = self.response_code;
        record.response_flags = self.flags;
        record.bytes_received = received;
        record.bytes_sent = self.bytes_sent;
        record.duration = duration;
        self.worker.record(&record);
    }

    /// Without a status in the response it is that of the HTTP response, if there was one (Envoy's getGrpcStatus).
    fn protocol(&self) -> RequestProtocol {
        if !self.is_grpc {
            return RequestProtocol::Http;
        }
        let of_response = || Some(grpc::status_of(StatusCode::from_u16(self.response_code).ok()?));
        RequestProtocol::Grpc(self.grpc_status.or_else(of_response))
    }

    /// A request that was answered here was given no id to send on; Envoy gives every request one.
    fn identify(&self, record: &mut AccessRecord) {
        let Some(http) = record.http.as_mut().filter(|http| http.request_id.is_none()) else { return };
        if self.worker.current().snapshot.mesh.proxy_headers.request_id {
            http.request_id = Some(super::headers::new_request_id());
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        if let Some(open) = &mut self.open {
            open.end();
        }
    }
}

/// A user and password in a target are nobody else's business.
fn host_without_user(authority: &Authority) -> String {
    let authority = authority.as_str();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned()
}

/// Those of `names` that are there.
fn named(names: &[HeaderName], headers: &HeaderMap) -> Vec<(HeaderName, String)> {
    let text = |name: &HeaderName| Some((name.clone(), header_text(headers, name.clone())?));
    names.iter().filter_map(text).collect()
}

fn header_text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Records what could not be read as a request; hyper has answered it, when it could be answered.
pub(super) fn unreadable(connection: &Connection, error: &hyper::Error) {
    let worker = &connection.worker;
    if !error.is_parse() {
        return;
    }
    let (status, details) = if !error.is_parse_too_large() {
        (StatusCode::BAD_REQUEST, "http1.codec_error")
    } else if connection.tap.is_head_longer_than(HEAD_MAX) {
        (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.headers_too_large")
    } else {
        (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.too_many_headers")
    };
    let (response_code, flags) = (status.as_u16(), ResponseFlag::DownstreamProtocolError.into());
    let outcome = Outcome { protocol: RequestProtocol::Http, response_code, flags };
    let peer = connection.downstream.peer();
    let to = (peer.as_ref().map(|peer| &peer.labels), &To::Unknown);
    worker.counting().request(to, outcome, Duration::ZERO, 0, 0);
    if !worker.wants_records() {
        return;
    }
    worker.record(&AccessRecord {
        start_time: SystemTime::now(),
        http: Some(HttpRecord { protocol: "HTTP/1.1", ..HttpRecord::default() }),
        response_code,
        response_flags: flags,
        response_code_details: Some(details.into()),
        ..connection.downstream.record()
    });
}
