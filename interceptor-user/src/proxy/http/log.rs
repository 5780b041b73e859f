//! The record of one request: begun when its head is there, written when the last of its reply is
//! gone, whichever way it ends.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::header::{HOST, HeaderName, USER_AGENT};
use http::uri::Authority;
use http::{HeaderMap, Request, StatusCode, Version};

use super::tap::Answering;
use super::upload::Upload;
use super::{Connection, grpc};
use crate::proxy::outcome::{ResponseFlag, ResponseFlags};
use crate::proxy::worker::Worker;
use crate::telemetry::{AccessRecord, HttpRecord};

/// Lives as long as its request, and writes the record when dropped. Holds none when nobody reads them.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    open: Option<Box<Open>>,
    answering: Option<Answering>,
    is_grpc: bool,
}

#[derive(Debug)]
struct Open {
    worker: Rc<Worker>,
    started: Instant,
    record: AccessRecord,
    upload: Option<Rc<Upload>>,
    /// A fault held it up, which is told however it ends.
    delayed: bool,
}

impl RequestLog {
    /// Until something else is set, the client is who ended it.
    pub(super) fn new<B>(connection: &Connection, request: &Request<B>) -> Self {
        let worker = &connection.worker;
        let answering = Some(connection.tap.answering());
        let is_grpc = grpc::is_grpc(request.headers());
        if !worker.access_log.enabled() {
            return Self { open: None, answering, is_grpc };
        }
        let text = |name: HeaderName| header_text(request.headers(), name);
        let downstream = &connection.downstream;
        let record = AccessRecord {
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
                request_headers: worker
                    .access_log
                    .format()
                    .map(|format| named(&format.request_headers, request.headers()))
                    .unwrap_or_default(),
                response_headers: Vec::new(),
            }),
            response_code: 0,
            response_flags: ResponseFlag::DownstreamConnectionTermination.into(),
            response_code_details: Some("downstream_remote_disconnect".into()),
            ..downstream.record()
        };
        let started = Instant::now();
        let open = Open { worker: Rc::clone(worker), started, record, upload: None, delayed: false };
        Self { open: Some(Box::new(open)), answering, is_grpc }
    }

    /// Whether replies of our own are gRPC's.
    pub(super) fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    pub(super) fn set(&mut self, change: impl FnOnce(&mut AccessRecord)) {
        if let Some(open) = &mut self.open {
            change(&mut open.record);
        }
    }

    pub(super) fn set_http(&mut self, change: impl FnOnce(&mut HttpRecord)) {
        if let Some(http) = self.open.as_mut().and_then(|open| open.record.http.as_mut()) {
            change(http);
        }
    }

    /// The reply is about to be sent.
    pub(super) fn replied(&mut self, code: u16, flags: ResponseFlags, details: Cow<'static, str>) {
        let Some(open) = &mut self.open else { return };
        open.record.response_code = code;
        open.record.response_flags =
            if open.delayed { flags.with(ResponseFlag::DelayInjected) } else { flags };
        open.record.response_code_details = Some(details);
    }

    /// The reply's headers are known.
    pub(super) fn headers(&mut self, headers: &HeaderMap) {
        let Some(open) = &mut self.open else { return };
        if let (Some(http), Some(format)) = (&mut open.record.http, open.worker.access_log.format()) {
            http.response_headers = named(&format.response_headers, headers);
        }
    }

    /// A fault holds the request up.
    pub(super) fn delayed(&mut self) {
        if let Some(open) = &mut self.open {
            open.delayed = true;
            open.record.response_flags.insert(ResponseFlag::DelayInjected);
        }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.set(|record| record.bytes_sent += bytes as u64);
    }

    /// The protocol changes: the client's end means what it says from here on.
    pub(super) fn upgraded(&mut self) {
        self.answering = None;
    }

    /// What was answered did not end well.
    pub(super) fn broke_off(&mut self, flag: ResponseFlag, details: &'static str) {
        self.set(|record| {
            record.response_flags.insert(flag);
            record.response_code_details = Some(details.into());
        });
    }

    /// Bytes after a change of protocol.
    pub(super) fn carried(&mut self, received: u64, sent: u64) {
        self.set(|record| {
            record.bytes_received += received;
            record.bytes_sent += sent;
        });
    }

    /// Counts what the client uploads, until the end.
    pub(super) fn track(&mut self, upload: &Rc<Upload>) {
        if let Some(open) = &mut self.open {
            open.upload = Some(Rc::clone(upload));
        }
    }
}

impl Open {
    /// A request that was answered here was given no id to send on; Envoy gives every request one.
    fn identify(&mut self) {
        let Some(http) = self.record.http.as_mut().filter(|http| http.request_id.is_none()) else { return };
        if self.worker.current().snapshot.mesh.proxy_headers.request_id {
            http.request_id = Some(super::headers::new_request_id());
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.record.bytes_received += open.upload.as_deref().map_or(0, Upload::received);
            open.record.duration = open.started.elapsed();
            open.identify();
            open.worker.access_log.write(&open.record);
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
    if !error.is_parse() || !worker.access_log.enabled() {
        return;
    }
    let status = if error.is_parse_too_large() {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    } else {
        StatusCode::BAD_REQUEST
    };
    let record = AccessRecord {
        start_time: SystemTime::now(),
        http: Some(HttpRecord { protocol: "HTTP/1.1", ..HttpRecord::default() }),
        response_code: status.as_u16(),
        response_flags: ResponseFlag::DownstreamProtocolError.into(),
        response_code_details: Some("http1.codec_error".into()),
        ..connection.downstream.record()
    };
    worker.access_log.write(&record);
}
