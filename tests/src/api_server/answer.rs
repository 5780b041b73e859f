//! Answers the requests of one connection.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;

use serde_json::{Value, json};

use super::faults::Fault;
use super::objects::ISTIO;
use super::request::{Request, Selection, Target};
use super::{Shared, State, discovery, watch};

/// Until the other side hangs up.
pub(super) fn serve(shared: &Arc<Shared>, number: u64, mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = io::BufReader::new(socket.try_clone()?);
    while let Some(request) = Request::read(&mut reader)? {
        let delay = {
            let mut state = shared.lock();
            state.requests.push(request.shown());
            state.faults.delay
        };
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let is_watch = matches!(request.parameter("watch"), Some("true" | "1"));
        let target = request.target().filter(|target| is_served(&shared.lock(), target));
        match target {
            Some(target) if is_watch => {
                return watch::serve(shared, number, &mut socket, &request, &target);
            }
            Some(target) => {
                let (status, body) = of_target(&mut shared.lock(), &request, &target);
                shared.changed.notify_all();
                write(&mut socket, status, "application/json", &body)?;
            }
            None => match discovery::answer(&shared.lock().objects, &request.path) {
                Some(found) => write(&mut socket, 200, "application/json", &found.to_string())?,
                // So does a real one: plain text.
                None => write(&mut socket, 404, "text/plain; charset=utf-8", "404 page not found\n")?,
            },
        }
    }
    Ok(())
}

pub(super) fn is_served(state: &State, target: &Target) -> bool {
    target.group != ISTIO
        || state.objects.served(&target.plural).is_some_and(|versions| versions.contains(&target.version))
}

pub(super) fn write(socket: &mut TcpStream, status: u16, kind: &str, body: &str) -> io::Result<()> {
    write!(
        socket,
        "HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A Status as the server writes it.
pub(super) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code,
    })
}

/// What a fault of the kind makes of a request.
pub(super) fn fault(state: &State, target: &Target) -> Option<(u16, String)> {
    match state.faults.of_kind.get(&target.plural)? {
        Fault::Status(403) => {
            let message = format!("{} is forbidden: User \"test\" cannot list resource", target.plural);
            Some((403, status(403, "Forbidden", &message).to_string()))
        }
        Fault::Status(code) => {
            Some((*code, status(*code, "InternalError", "asked for by the test").to_string()))
        }
        Fault::Garbage => Some((200, "{\"kind\": \"List\", \"items\": [garbage".to_owned())),
    }
}

fn of_target(state: &mut State, request: &Request, target: &Target) -> (u16, String) {
    if let Some(answer) = fault(state, target) {
        return answer;
    }
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let (status, body) = match (request.method.as_str(), &target.name) {
        ("GET", None) => list(state, request, target),
        ("GET", Some(name)) => match state.objects.get(&target.plural, namespace, name) {
            Some(object) => (200, as_version(object, target)),
            None => not_found(target, name),
        },
        ("POST", None) if target.plural == "events" => create_event(state, request, namespace),
        ("PATCH", Some(name)) if target.plural == "events" => patch_event(state, request, namespace, name),
        (method, _) => (405, status(405, "MethodNotAllowed", method)),
    };
    (status, body.to_string())
}

fn not_found(target: &Target, name: &str) -> (u16, Value) {
    (404, status(404, "NotFound", &format!("{} \"{name}\" not found", target.plural)))
}

/// An object in the version that was asked for.
pub(super) fn as_version(object: &Value, target: &Target) -> Value {
    let mut object = object.clone();
    if target.group == ISTIO {
        object["apiVersion"] = format!("{ISTIO}/{}", target.version).into();
    }
    object
}

/// A page of a list.
fn list(state: &State, request: &Request, target: &Target) -> (u16, Value) {
    let selection = match Selection::of(request, target) {
        Ok(selection) => selection,
        Err(message) => return (400, status(400, "BadRequest", &message)),
    };
    let items: Vec<&Value> =
        state.objects.of_kind(&target.plural).filter(|object| selection.has(object)).collect();
    let number = |name| request.parameter(name).and_then(|text| text.parse::<usize>().ok());
    let (start, limit) = (number("continue").unwrap_or(0), number("limit").filter(|limit| *limit > 0));
    let end = limit.map_or(items.len(), |limit| (start + limit).min(items.len()));
    let page = items.get(start..end).unwrap_or_default().iter().map(|object| {
        let mut object = as_version(object, target);
        // Items of built-in kinds don't say what they are.
        if let Some(fields) = object.as_object_mut().filter(|_| target.group != ISTIO) {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        object
    });
    let page: Vec<Value> = page.collect();
    let mut metadata = json!({"resourceVersion": state.objects.version().to_string()});
    if end < items.len() {
        metadata["continue"] = end.to_string().into();
        metadata["remainingItemCount"] = (items.len() - end).into();
    }
    let group = if target.group.is_empty() { String::new() } else { format!("{}/", target.group) };
    let api_version = format!("{group}{}", target.version);
    let list = json!({
        "kind": format!("{}List", target.kind), "apiVersion": api_version, "metadata": metadata, "items": page,
    });
    (200, list)
}

/// As the server's validation of events.k8s.io/v1 has it.
fn create_event(state: &mut State, request: &Request, namespace: &str) -> (u16, Value) {
    let Ok(event) = serde_json::from_slice::<Value>(&request.body) else {
        return (400, status(400, "BadRequest", "not JSON"));
    };
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let required =
        ["/metadata/name", "/eventTime", "/reportingController", "/reportingInstance", "/action", "/reason"];
    if let Some(missing) = required.iter().find(|pointer| text(pointer).is_empty()) {
        return (422, status(422, "Invalid", &format!("{missing}: required value")));
    }
    let regarding = text("/regarding/namespace");
    let home = if regarding.is_empty() { "default" } else { regarding };
    if text("/metadata/namespace") != namespace || home != namespace {
        return (422, status(422, "Invalid", "regarding.namespace: does not match event.namespace"));
    }
    if text("/note").len() > 1024 || !matches!(text("/type"), "Normal" | "Warning") {
        return (422, status(422, "Invalid", "note or type"));
    }
    let name = text("/metadata/name");
    if state.objects.get("events", namespace, name).is_some() {
        return (409, status(409, "AlreadyExists", &format!("events \"{name}\" already exists")));
    }
    let mut event = event.clone();
    event["apiVersion"] = "events.k8s.io/v1".into();
    event["kind"] = "Event".into();
    match state.objects.apply(event) {
        Ok(event) => (201, event),
        Err(error) => (500, status(500, "InternalError", &error.to_string())),
    }
}

/// Only the series may change.
fn patch_event(state: &mut State, request: &Request, namespace: &str, name: &str) -> (u16, Value) {
    let patch = serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
    let is_series = patch.as_object().is_some_and(|fields| fields.keys().eq(["series"]));
    let count = patch["series"]["count"].as_i64().unwrap_or_default();
    if !is_series || count < 2 || !patch["series"]["lastObservedTime"].is_string() {
        return (422, status(422, "Invalid", "only series may change, and its count begins at 2"));
    }
    let Some(mut event) = state.objects.get("events", namespace, name).cloned() else {
        return (404, status(404, "NotFound", name));
    };
    event["series"] = patch["series"].clone();
    match state.objects.apply(event) {
        Ok(event) => (200, event),
        Err(error) => (500, status(500, "InternalError", &error.to_string())),
    }
}
