//! What there is to ask, and who answers.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, mpsc};

use super::body::{self, Body, ChunkWriter};
use super::config_tables::{self, Table};
use super::query::Query;
use super::refusal::Refusal;
use super::{Admin, config_dump, explained, flows, health, metrics, pods, requests};
use crate::telemetry::logging::{self, FilterError};

/// So many answers are worked out at a time, beside the control loop.
const WORKED_OUT_MAX: usize = 4;
/// So many dumps are written at a time; each for at most so long.
const DUMPS_MAX: usize = 2;
const DUMP_TIME_MAX: Duration = Duration::from_secs(60);
/// Chunks of a dump that wait for the client.
const DUMP_CHUNKS_MAX: usize = 2;
const FOLLOWERS_MAX: usize = 16;
const REQUEST_BYTES_MAX: usize = 64 * 1024;
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Unix,
    Tcp,
}

/// What all connections share.
pub(super) struct Serving {
    admin: Admin,
    worked_out: Arc<Semaphore>,
    dumps: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

impl Serving {
    pub(super) fn new(admin: Admin) -> Self {
        Self {
            admin,
            worked_out: Arc::new(Semaphore::new(WORKED_OUT_MAX)),
            dumps: Arc::new(Semaphore::new(DUMPS_MAX)),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Alive,
    Ready,
    Metrics,
    Pods,
    Config(Table),
    ConfigDump,
    Explain,
    Flows,
    LogFilter,
    SetLogFilter,
    Cni,
    Retire,
}

struct Endpoint {
    asked: Asked,
    method: Method,
    path: &'static str,
    door: Door,
    what: &'static str,
}

const fn read(asked: Asked, path: &'static str, what: &'static str) -> Endpoint {
    Endpoint { asked, method: Method::GET, path, door: Door::Tcp, what }
}

const fn post(asked: Asked, path: &'static str, what: &'static str) -> Endpoint {
    Endpoint { asked, method: Method::POST, path, door: Door::Unix, what }
}

static ENDPOINTS: [Endpoint; 16] = [
    read(Asked::Alive, "/healthz", "whether the agent lives"),
    read(Asked::Ready, "/readyz", "whether the node may rely on it; ?verbose"),
    read(Asked::Metrics, "/metrics", "Prometheus' text format"),
    read(Asked::Pods, "/pods", "pods of this node; ?pod=NAMESPACE/NAME"),
    read(Asked::Config(Table::Listeners), "/config/listeners", "?pod=NAMESPACE/NAME&output=text|json|yaml"),
    read(Asked::Config(Table::Routes), "/config/routes", "as listeners"),
    read(Asked::Config(Table::Clusters), "/config/clusters", "as listeners"),
    read(Asked::Config(Table::Endpoints), "/config/endpoints", "as listeners"),
    read(Asked::Config(Table::Registry), "/config/registry", "as listeners"),
    read(Asked::ConfigDump, "/config_dump", "all that is in force; ?pod=NAMESPACE/NAME"),
    post(Asked::Explain, "/explain", "?pod=NAMESPACE/NAME, with {\"target\": \"http://HOST\"}"),
    Endpoint {
        asked: Asked::Flows,
        method: Method::GET,
        path: "/flows",
        door: Door::Unix,
        what: "connections and requests as they end; ?follow, ?pod=NAMESPACE/NAME",
    },
    read(Asked::LogFilter, "/logging", "which messages are logged"),
    post(Asked::SetLogFilter, "/logging", "?level=debug, or ?filter=TARGET=LEVEL,…"),
    post(Asked::Cni, "/cni", "the CNI plugin asks"),
    post(Asked::Retire, "/retire", "a successor asks"),
];

pub(super) async fn answer(serving: &Arc<Serving>, door: Door, request: Request<Incoming>) -> Response<Body> {
    let endpoint = match find(door, request.method(), request.uri().path()) {
        Ok(endpoint) => endpoint,
        Err(refusal) => return refusal.into_response(),
    };
    let is_for_programs = matches!(endpoint.asked, Asked::Cni | Asked::Retire);
    match endpoint.answer(serving, request).await {
        Ok(response) => response,
        Err(refusal) if is_for_programs => refusal.in_json().into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

fn find(door: Door, method: &Method, path: &str) -> Result<&'static Endpoint, Refusal> {
    let mut there = ENDPOINTS.iter().filter(|endpoint| endpoint.path == path).peekable();
    if there.peek().is_none() {
        return Err(Refusal::new(StatusCode::NOT_FOUND, directory(path)));
    }
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let allowed: Vec<&str> = there.clone().map(|endpoint| endpoint.method.as_str()).collect();
    let endpoint = there.find(|endpoint| endpoint.method == method);
    let endpoint = endpoint.ok_or_else(|| Refusal::wrong_method(&allowed.join(", ")))?;
    if endpoint.door == Door::Unix && door == Door::Tcp {
        let why = format!("{method} {path} is served on the agent's unix socket only");
        return Err(Refusal::new(StatusCode::FORBIDDEN, why));
    }
    Ok(endpoint)
}

/// For people who guess.
fn directory(path: &str) -> String {
    let mut text = format!("there is no {}; there are\n", path.escape_debug());
    for Endpoint { method, path, door, what, .. } in &ENDPOINTS {
        let door = if *door == Door::Unix { " (unix socket only)" } else { "" };
        // A String takes what is written.
        let _written = writeln!(text, "  {:4} {path:18} {what}{door}", method.as_str()).is_ok();
    }
    text
}

impl Endpoint {
    async fn answer(
        &self,
        serving: &Arc<Serving>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let admin = &serving.admin;
        let query = Query::new(request.uri().query());
        match self.asked {
            Asked::Alive => health::alive(admin, query),
            Asked::Ready => health::ready(admin, query),
            Asked::Metrics => {
                query.finish()?;
                work_out(serving, |admin| Ok(metrics::answer(admin))).await
            }
            Asked::Pods => work_out(serving, |admin| pods::answer(admin, query)).await,
            Asked::Config(table) => {
                work_out(serving, move |admin| config_tables::answer(&admin.view.load(), table, query)).await
            }
            Asked::ConfigDump => config_dump(serving, query),
            Asked::Explain => {
                let question = read_all(request).await?;
                work_out(serving, move |admin| explained::answer(&admin.view.load(), query, &question)).await
            }
            Asked::Flows => {
                let place = Arc::clone(&serving.followers).try_acquire_owned();
                let place =
                    place.map_err(|_all_taken| Refusal::unavailable("too many follow flows already"))?;
                flows::answer(&admin.flows, &admin.view.load(), query, place)
            }
            Asked::LogFilter => shown_log_filter(admin, query),
            Asked::SetLogFilter => set_log_filter(admin, query),
            Asked::Cni => requests::cni(admin, &read_all(request).await?).await,
            Asked::Retire => requests::retire(admin).await,
        }
    }
}

/// On a thread of its own: whatever it takes, the control loop goes on.
async fn work_out(
    serving: &Arc<Serving>,
    work: impl FnOnce(&Admin) -> Result<Response<Body>, Refusal> + Send + 'static,
) -> Result<Response<Body>, Refusal> {
    let ended = |error: &dyn std::fmt::Display| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("it could not be worked out: {error}"))
    };
    let place = Arc::clone(&serving.worked_out).acquire_owned().await.map_err(|error| ended(&error))?;
    let serving = Arc::clone(serving);
    let worked = tokio::task::spawn_blocking(move || {
        let answer = work(&serving.admin);
        drop(place);
        answer
    });
    worked.await.unwrap_or_else(|error| Err(ended(&error)))
}

fn config_dump(serving: &Arc<Serving>, mut query: Query) -> Result<Response<Body>, Refusal> {
    let pod = query.take("pod");
    query.finish()?;
    let view = serving.admin.view.load_full();
    let pod = pod.map(|pod| pods::find(&view, &pod).map(Arc::clone)).transpose()?;
    let place = Arc::clone(&serving.dumps).try_acquire_owned();
    let place =
        place.map_err(|_all_taken| Refusal::unavailable("others are being dumped to: try again later"))?;
    let (chunks, sent) = mpsc::channel(DUMP_CHUNKS_MAX);
    let writer = ChunkWriter::new(chunks, Instant::now() + DUMP_TIME_MAX);
    drop(tokio::task::spawn_blocking(move || {
        config_dump::write(&view, pod.as_ref(), writer);
        drop(place);
    }));
    Ok(body::streamed(body::JSON, sent))
}

fn log_filter(admin: &Admin) -> Response<Body> {
    body::text(admin.log_filter.current() + "\n")
}

/// Whoever says what it should be wants it changed.
fn shown_log_filter(admin: &Admin, mut query: Query) -> Result<Response<Body>, Refusal> {
    if query.take("level").or_else(|| query.take("filter")).is_some() {
        return Err(Refusal::bad_request("GET /logging changes nothing: POST does (curl -X POST)"));
    }
    query.finish()?;
    Ok(log_filter(admin))
}

fn set_log_filter(admin: &Admin, mut query: Query) -> Result<Response<Body>, Refusal> {
    let (level, filter) = (query.take("level"), query.take("filter"));
    query.finish()?;
    let filter = match (level, filter) {
        (Some(level), None) => logging::filter_of_level(&level)
            .ok_or_else(|| {
                Refusal::bad_request(format!(
                    "level={level}: expected off, error, warn, info, debug or trace"
                ))
            })?
            .to_owned(),
        (None, Some(filter)) => filter,
        (Some(_), Some(_)) => return Err(Refusal::bad_request("say either level or filter")),
        (None, None) => {
            return Err(Refusal::bad_request("say ?level=debug, or ?filter=TARGET=LEVEL,…"));
        }
    };
    let refused = |error: FilterError| Refusal::bad_request(error.to_string());
    admin.log_filter.set(&filter).map_err(refused)?;
    tracing::info!("messages are logged by {filter} now");
    Ok(log_filter(admin))
}

async fn read_all(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect();
    match tokio::time::timeout(REQUEST_WAIT_MAX, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request is longer than {REQUEST_BYTES_MAX} bytes"),
        )),
        Ok(Err(error)) => Err(Refusal::bad_request(format!("the request broke off: {error}"))),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request did not come in time")),
    }
}
