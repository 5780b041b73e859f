//! One watch: the objects that there are, where that is asked for, then what happens to them.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::{as_version, fault, status};
use super::faults::StreamingLists;
use super::objects::Change;
use super::request::{Request, Selection, Target};
use super::{Shared, answer};

/// A real one's come every minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(2);

/// Serves a watch to its end, and closes the connection.
pub(super) fn serve(
    shared: &Arc<Shared>,
    number: u64,
    socket: &mut TcpStream,
    request: &Request,
    target: &Target,
) -> io::Result<()> {
    let asks_for_list = request.parameter("sendInitialEvents") == Some("true");
    let (refusal, streaming_lists) = {
        let state = shared.lock();
        (fault(&state, target), state.faults.streaming_lists)
    };
    let refusal = refusal.or_else(|| {
        let is_refused = asks_for_list && streaming_lists == StreamingLists::Refused;
        let message = "etcd cluster version does not support RequestWatchProgress";
        is_refused.then(|| (500, status(500, "InternalError", message).to_string()))
    });
    if let Some((code, body)) = refusal {
        return answer::write(socket, code, "application/json", &body);
    }
    let selection = match Selection::of(request, target) {
        Ok(selection) => selection,
        Err(message) => {
            return answer::write(
                socket,
                400,
                "application/json",
                &status(400, "BadRequest", &message).to_string(),
            );
        }
    };
    {
        let mut state = shared.lock();
        if let Some((_, is_watch)) = state.connections.get_mut(&number) {
            *is_watch = true;
        }
        *state.faults.open_watches.entry(target.plural.clone()).or_default() += 1;
    }
    let mut watch = Watch { shared, number, socket, target, selection, version: 0, lines: 0 };
    let ended = watch.run(request, asks_for_list && streaming_lists == StreamingLists::Served);
    if let Some(open) = shared.lock().faults.open_watches.get_mut(&target.plural) {
        *open -= 1;
    }
    ended
}

struct Watch<'a> {
    shared: &'a Arc<Shared>,
    number: u64,
    socket: &'a mut TcpStream,
    target: &'a Target,
    selection: Selection,
    /// Up to which all has been sent.
    version: u64,
    /// Lines of garbage that were sent.
    lines: u64,
}

impl Watch<'_> {
    fn run(&mut self, request: &Request, ends_list: bool) -> io::Result<()> {
        write!(
            self.socket,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )?;
        let from = request.parameter("resourceVersion").unwrap_or_default().parse::<u64>().unwrap_or(0);
        let state = self.shared.lock();
        self.lines = state.faults.garbage_lines.get(&self.target.plural).copied().unwrap_or_default();
        if from == 0 {
            let objects: Vec<Value> = state.objects.of_kind(&self.target.plural).cloned().collect();
            self.version = state.objects.version();
            drop(state);
            for object in &objects {
                if self.selection.has(object) {
                    self.event("ADDED", as_version(object, self.target))?;
                }
            }
            if ends_list {
                self.bookmark(&json!({"k8s.io/initial-events-end": "true"}))?;
            }
        } else if from < state.objects.compacted {
            let message = format!("too old resource version: {from} ({})", state.objects.compacted);
            drop(state);
            self.event("ERROR", status(410, "Expired", &message))?;
            return self.end();
        } else {
            drop(state);
            self.version = from;
        }
        let seconds = request.parameter("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(1800);
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut next_bookmark = Instant::now() + BOOKMARK_EVERY;
        while Instant::now() < until {
            let state = self.shared.lock();
            if !state.connections.contains_key(&self.number) {
                return Ok(());
            }
            if state.faults.silent_until >= self.number {
                drop(self.shared.wait(state, until.min(Instant::now() + Duration::from_millis(100))));
                self.is_still_there()?;
                continue;
            }
            let garbage = state.faults.garbage_lines.get(&self.target.plural).copied().unwrap_or_default();
            let changes = state.objects.since(&self.target.plural, self.version);
            let version = state.objects.version();
            let is_expired = state.faults.expired_until >= self.number;
            let is_gone = !answer::is_served(&state, self.target);
            if garbage > self.lines {
                drop(state);
                self.lines = garbage;
                // What happened is lost with it.
                self.version = version;
                self.chunk("this is no JSON\n")?;
                continue;
            }
            if is_expired {
                drop(state);
                self.event("ERROR", status(410, "Expired", "the event in this version is too old"))?;
                return self.end();
            }
            if changes.is_empty() && !is_gone {
                drop(self.shared.wait(state, until.min(next_bookmark)));
                if Instant::now() >= next_bookmark {
                    next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    self.bookmark(&json!({}))?;
                }
                self.is_still_there()?;
                continue;
            }
            drop(state);
            for change in changes {
                self.change(&change)?;
            }
            self.version = version;
            if is_gone {
                return self.end();
            }
        }
        self.end()
    }

    /// A watch of some objects only sees one come when it begins to be one of them.
    fn change(&mut self, change: &Change) -> io::Result<()> {
        let was_in = change.before.as_ref().filter(|object| self.selection.has(object));
        let is_in = change.after.as_ref().filter(|object| self.selection.has(object));
        match (was_in, is_in) {
            (None, Some(object)) => self.event("ADDED", as_version(object, self.target)),
            (Some(_), Some(object)) => self.event("MODIFIED", as_version(object, self.target)),
            (Some(object), None) => {
                let mut object = as_version(object, self.target);
                object["metadata"]["resourceVersion"] = change.version.to_string().into();
                self.event("DELETED", object)
            }
            (None, None) => Ok(()),
        }
    }

    fn bookmark(&mut self, annotations: &Value) -> io::Result<()> {
        let state = self.shared.lock();
        // Nothing is said of what was not sent yet.
        if !state.objects.since(&self.target.plural, self.version).is_empty() {
            return Ok(());
        }
        let version = state.objects.version();
        drop(state);
        self.version = self.version.max(version);
        let group =
            if self.target.group.is_empty() { String::new() } else { format!("{}/", self.target.group) };
        let mut metadata = json!({"resourceVersion": self.version.to_string(), "creationTimestamp": null});
        if annotations.as_object().is_some_and(|annotations| !annotations.is_empty()) {
            metadata["annotations"] = annotations.clone();
        }
        let object = json!({
            "kind": self.target.kind, "apiVersion": format!("{group}{}", self.target.version), "metadata": metadata,
        });
        self.event("BOOKMARK", object)
    }

    fn event(&mut self, kind: &str, object: Value) -> io::Result<()> {
        // The type comes first, as a real one writes it.
        self.chunk(&format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
    }

    fn chunk(&mut self, text: &str) -> io::Result<()> {
        write!(self.socket, "{:x}\r\n{text}\r\n", text.len())
    }

    fn end(&mut self) -> io::Result<()> {
        write!(self.socket, "0\r\n\r\n")
    }

    /// An error when the other side has hung up.
    fn is_still_there(&mut self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        let peeked = self.socket.peek(&mut [0]);
        self.socket.set_nonblocking(false)?;
        match peeked {
            Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
