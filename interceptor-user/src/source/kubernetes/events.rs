//! Writes Events (events.k8s.io/v1) about what is wrong, on the object that it is about.
//!
//! Every node finds the same about the cluster's resources. The name of an Event is made of the object's uid and of what is
//! said, so that all nodes write one Event: the first makes it, the others find it there. It is counted up when it is found
//! again later (`series.count`), by one of them. docs/operations.md tells operators.

use std::collections::{HashMap, HashSet};
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use twox_hash::XxHash64;

use super::failure::Failure;
use super::follow::jittered;
use crate::resource::{Diagnostic, Kind, code};

/// Who says so.
const CONTROLLER: &str = "egress.interceptor.io/agent";
/// Kubernetes takes no more bytes in a note.
const NOTE_BYTES_MAX: usize = 1024;
/// An Event lives for an hour: what goes on is told again.
const REPEAT: Duration = Duration::from_secs(30 * 60);
/// Found again within this, it is another node that has told it.
const FRESH: SignedDuration = SignedDuration::from_secs(60);
/// The same when it is told again.
const FRESH_REPEATED: SignedDuration = SignedDuration::from_mins(25);
/// After a failure.
const RETRY: Duration = Duration::from_secs(30);
/// Nodes that find something at the same time don't write it at the same time.
const SPREAD: Duration = Duration::from_secs(2);
/// So many at once, then one each second.
const BURST: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// What an Event says, and about which object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    object: ObjectReference,
    /// Its own name.
    name: String,
    reason: &'static str,
    note: String,
}

impl Report {
    pub(super) fn new(finding: &Diagnostic, object: ObjectReference) -> Self {
        let mut note = String::new();
        let code = finding.code.and_then(code::Code::find);
        if let Some(code) = code {
            note.push_str(&format!("[{}] ", code.id));
        }
        if !finding.field.is_empty() {
            note.push_str(&format!("{}: ", finding.field));
        }
        note.push_str(&finding.message);
        let parts = [
            (&*finding.effect, code.map_or("", |code| code.effect)),
            (&*finding.mend, code.map_or("", |code| code.mend)),
        ];
        for (own, general) in parts {
            let part = if own.is_empty() { general } else { own };
            if !part.is_empty() {
                note.push_str("; ");
                note.push_str(part);
            }
        }
        let end = (0..=NOTE_BYTES_MAX.min(note.len())).rev().find(|end| note.is_char_boundary(*end));
        note.truncate(end.unwrap_or_default());
        let mut hash = XxHash64::with_seed(0);
        hash.write(object.uid.as_deref().unwrap_or_default().as_bytes());
        hash.write(note.as_bytes());
        // The name of a resource may fill all that a name may have.
        let object_name: String = object.name.as_deref().unwrap_or_default().chars().take(200).collect();
        let name = format!("{}.{:016x}", object_name.trim_end_matches(['.', '-']), hash.finish());
        Self { object, name, reason: code.map_or("Finding", |code| code.name), note }
    }

    fn is_about_a_pod(&self) -> bool {
        self.object.kind.as_deref() == Some(Kind::Pod.name())
    }

    /// Events of what has no namespace are in `default`.
    fn namespace(&self) -> &str {
        self.object.namespace.as_deref().unwrap_or("default")
    }

    fn event(&self, node: &str) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace().to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            type_: Some("Warning".into()),
            reason: Some(self.reason.into()),
            note: Some(self.note.clone()),
            action: Some("Configure".into()),
            regarding: Some(self.object.clone()),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(node.into()),
            ..Event::default()
        }
    }
}

/// Writes what is reported until nobody reports any more.
pub(super) async fn write(client: Client, node: Arc<str>, mut reports: watch::Receiver<Vec<Report>>) {
    let mut writer = Writer { client, node, next: HashMap::new(), tokens: BURST, refilled: Instant::now() };
    loop {
        let mut latest = reports.borrow_and_update().clone();
        // A pod's waits for nobody: no other node writes it.
        latest.sort_by_key(|report| !report.is_about_a_pod());
        let due = writer.write_due(&latest, &reports).await;
        let ended = tokio::select! {
            changed = reports.changed() => changed.is_err(),
            () = sleep_until(due) => false,
        };
        if ended {
            return;
        }
    }
}

struct Writer {
    client: Client,
    node: Arc<str>,
    /// When each that was written is written again, and whether it was written before.
    next: HashMap<String, (Instant, bool)>,
    tokens: u32,
    refilled: Instant,
}

impl Writer {
    /// Writes those whose time has come, as long as there is nothing newer. When the next one's comes.
    async fn write_due(&mut self, reports: &[Report], newer: &watch::Receiver<Vec<Report>>) -> Instant {
        let names: HashSet<&str> = reports.iter().map(|report| report.name.as_str()).collect();
        self.next.retain(|name, _| names.contains(name.as_str()));
        let mut has_waited = false;
        for report in reports {
            let next = self.next.get(&report.name).copied();
            if next.is_some_and(|(next, _)| next > Instant::now()) {
                continue;
            }
            if !report.is_about_a_pod() && !std::mem::replace(&mut has_waited, true) {
                sleep(jittered(SPREAD)).await;
            }
            self.take_token().await;
            if newer.has_changed().unwrap_or(true) {
                self.tokens += 1;
                return Instant::now();
            }
            let was_written = next.is_some_and(|(_, was_written)| was_written);
            let fresh = if was_written { FRESH_REPEATED } else { FRESH };
            let (pause, is_written) = match timeout(PATIENCE, self.put(report, fresh)).await {
                Ok(Ok(())) => (REPEAT, true),
                Ok(Err(error)) => {
                    tracing::debug!(event = report.name, why = Failure::of(&error).why, "no Event");
                    (RETRY, was_written)
                }
                Err(_) => (RETRY, was_written),
            };
            self.next.insert(report.name.clone(), (Instant::now() + jittered(pause), is_written));
        }
        let next = self.next.values().map(|(next, _)| *next).min();
        next.unwrap_or_else(|| Instant::now() + REPEAT)
    }

    async fn take_token(&mut self) {
        let seconds = u32::try_from(self.refilled.elapsed().as_secs()).unwrap_or(BURST);
        self.refilled += Duration::from_secs(seconds.into());
        self.tokens = self.tokens.saturating_add(seconds).min(BURST);
        if self.tokens == 0 {
            sleep_until(self.refilled + Duration::from_secs(1)).await;
            self.refilled += Duration::from_secs(1);
            return;
        }
        self.tokens -= 1;
    }

    /// Makes the Event, or counts it up when it is there and was found longer than `fresh` ago.
    async fn put(&self, report: &Report, fresh: SignedDuration) -> Result<(), kube::Error> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), report.namespace());
        match events.create(&PostParams::default(), &report.event(&self.node)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            result => return result.map(drop),
        }
        let there = events.get(&report.name).await?;
        let now = Timestamp::now();
        let last = match &there.series {
            Some(series) => Some(series.last_observed_time.0),
            None => there.event_time.map(|time| time.0),
        };
        if last.is_some_and(|last| now.duration_since(last) < fresh) {
            return Ok(());
        }
        let count = there.series.map_or(1, |series| series.count).saturating_add(1);
        let series = EventSeries { count, last_observed_time: MicroTime(now) };
        let patch = Patch::Merge(json!({ "series": series }));
        events.patch(&report.name, &PatchParams::default(), &patch).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Level;

    fn report(message: &str, uid: &str) -> Report {
        let finding = Diagnostic {
            level: Level::Error,
            code: Some(code::IST0106.id),
            origin: None,
            resource: "ServiceEntry shop/e".into(),
            field: "spec.hosts".into(),
            message: message.to_owned(),
            effect: String::new(),
            mend: "write one".into(),
        };
        let object =
            ObjectReference { name: Some("e".into()), uid: Some(uid.into()), ..ObjectReference::default() };
        Report::new(&finding, object)
    }

    #[test]
    fn all_nodes_give_an_event_the_same_name() {
        let one = report("is missing", "u");
        assert_eq!(one.name, report("is missing", "u").name);
        assert_ne!(one.name, report("is empty", "u").name);
        assert_ne!(one.name, report("is missing", "v").name);
        assert_eq!(one.reason, "SchemaValidationError");
        assert!(
            one.note.starts_with("[IST0106] spec.hosts: is missing; the resource is left out"),
            "{}",
            one.note
        );
        assert!(one.note.ends_with("; write one"), "{}", one.note);
        // Each is three bytes long.
        let length = report(&"€".repeat(2000), "u").note.len();
        assert!((NOTE_BYTES_MAX - 2..=NOTE_BYTES_MAX).contains(&length), "{length}");
    }

    #[tokio::test(start_paused = true)]
    async fn many_are_written_slowly() {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            let created = serde_json::to_vec(&Event::default()).unwrap();
            Ok::<_, tower::BoxError>(http::Response::new(http_body_util::Full::from(created)))
        });
        let mut writer = Writer {
            client: Client::new(service, "default"),
            node: "n".into(),
            next: HashMap::new(),
            tokens: BURST,
            refilled: Instant::now(),
        };
        let reports: Vec<Report> = (0..50).map(|number| report(&format!("{number}"), "u")).collect();
        let started = Instant::now();
        let (_newer, none) = watch::channel(Vec::new());
        let due = writer.write_due(&reports, &none).await;
        let took = started.elapsed().as_secs();
        assert!((28..=32).contains(&took), "{took} s for 30 more than may be written at once");
        assert!(due - Instant::now() > REPEAT / 3, "told again too soon");
        // Not told again when nothing has changed.
        let started = Instant::now();
        writer.write_due(&reports, &none).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
