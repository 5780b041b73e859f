//! Follows one list: kube's watcher with what it leaves to its user. Falls back from streaming lists to list and watch,
//! waits longer each time that it fails, starts over where going on could miss something.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::failure::{Failure, FailureClass};
use super::object::Object;
use super::patience::Patient;
use super::watches::{Request, Watch};

/// What became of a list.
#[derive(Debug)]
pub(super) enum Update {
    /// A whole list begins: what is not [`Update::Listed`] until [`Update::ListEnds`] is gone.
    ListBegins,
    Listed(Object),
    ListEnds,
    Applied(Object),
    Deleted(Object),
    /// The watch is open.
    Opened,
    /// What is known goes on holding; the next try comes by itself, unless it is not served.
    Failed(Failure),
}

/// Where updates go to, each with its watch.
pub(super) type Updates = mpsc::Sender<(Watch, Update)>;

const BACK_OFF_FIRST: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(15);
/// A streaming list that has not ended after this much silence comes from a server that knows none.
const STREAMING_SILENCE: Duration = Duration::from_secs(10);
/// A watch without news is open longer than this.
const OPEN_MIN: Duration = Duration::from_secs(5);
/// Objects in a page of a list that is not streamed.
const PAGE_OBJECTS: u32 = 500;

/// Follows a list until it is not served any more, or nobody wants its updates.
pub(super) async fn follow(
    client: Client,
    server_is_back: watch::Receiver<u64>,
    (watch, request): (Watch, Request),
    updates: Updates,
) {
    let (opened, mut is_opened) = mpsc::channel(1);
    let patient = Patient { client, server_is_back: server_is_back.clone(), opened };
    let namespace = request.namespace.as_deref().unwrap_or_default().to_owned();
    let client = Client::new(patient, namespace.clone());
    let api: Api<Object> = match &request.namespace {
        Some(_) => Api::namespaced_with(client, &namespace, &request.resource),
        None => Api::all_with(client, &request.resource),
    };
    let mut follower =
        Follower { watch, request, api, updates, server_is_back, is_streaming: true, failures: 0 };
    while follower.follow_once(&mut is_opened).await {}
}

struct Follower {
    watch: Watch,
    request: Request,
    api: Api<Object>,
    updates: Updates,
    server_is_back: watch::Receiver<u64>,
    /// Whether the server is asked for a streaming list.
    is_streaming: bool,
    /// Since something came.
    failures: u32,
}

/// What comes next.
enum Step {
    Came(watcher::Result<Event<Object>>),
    Opened,
    /// A streaming list that does not end.
    Silent,
}

impl Follower {
    /// From a whole list on. False when it is over.
    async fn follow_once(&mut self, is_opened: &mut mpsc::Receiver<()>) -> bool {
        let mut stream = pin!(watcher(self.api.clone(), self.config()));
        let mut is_listed = false;
        // The last time, when nothing came since.
        let mut opened: Option<Instant> = None;
        loop {
            let patience = (self.is_streaming && !is_listed).then_some(STREAMING_SILENCE);
            let error = match next(stream.as_mut(), is_opened, patience).await {
                Step::Came(Ok(event)) => {
                    self.failures = 0;
                    opened = None;
                    is_listed |= matches!(event, Event::InitDone);
                    if !self.send(self.update(event)).await {
                        return false;
                    }
                    continue;
                }
                Step::Opened => {
                    if !self.send(Update::Opened).await {
                        return false;
                    }
                    // One that ends as soon as it is open is opened anew at once: not so for ever.
                    if opened.replace(Instant::now()).is_some_and(|before| before.elapsed() < OPEN_MIN) {
                        self.back_off().await;
                    }
                    continue;
                }
                Step::Silent => {
                    self.is_streaming = false;
                    return true;
                }
                Step::Came(Err(error)) => error,
            };
            let failure = Failure::of_watcher(&error);
            let class = failure.class;
            if self.is_streaming && !is_listed && is_refusal_to_stream(&error) {
                tracing::debug!(watch = %self.watch, why = failure.why, "no streaming list: listing instead");
                self.is_streaming = false;
                return true;
            }
            if !self.send(Update::Failed(failure)).await || class == FailureClass::NotServed {
                return false;
            }
            self.back_off().await;
            match class {
                // A watch goes on where it was.
                FailureClass::NoAnswer
                | FailureClass::Unauthorized
                | FailureClass::Forbidden
                | FailureClass::Status(_) => {}
                // An event may be lost, or what is asked for does not exist any more.
                FailureClass::Garbage | FailureClass::Expired => return true,
                FailureClass::NotServed => return false,
            }
        }
    }

    fn config(&self) -> watcher::Config {
        let config = watcher::Config {
            field_selector: self.request.field_selector.clone(),
            label_selector: self.request.label_selector.map(str::to_owned),
            page_size: Some(PAGE_OBJECTS),
            ..watcher::Config::default()
        };
        if self.is_streaming { config.streaming_lists() } else { config }
    }

    fn update(&self, event: Event<Object>) -> Update {
        // Items of a list don't say what they are.
        let declared = |mut object: Object| {
            self.watch.unread().iter().for_each(|path| object.json.remove(path));
            object.json.declare(&self.request.resource.api_version, &self.request.resource.kind);
            object
        };
        match event {
            Event::Init => Update::ListBegins,
            Event::InitApply(object) => Update::Listed(declared(object)),
            Event::InitDone => Update::ListEnds,
            Event::Apply(object) => Update::Applied(declared(object)),
            Event::Delete(object) => Update::Deleted(object),
        }
    }

    /// False when nobody wants it.
    async fn send(&self, update: Update) -> bool {
        self.updates.send((self.watch.clone(), update)).await.is_ok()
    }

    /// Waits, but not much longer once the server is back.
    async fn back_off(&mut self) {
        self.failures = self.failures.saturating_add(1);
        let longest = BACK_OFF_FIRST.saturating_mul(1 << self.failures.min(10)).min(BACK_OFF_MAX);
        self.server_is_back.mark_unchanged();
        tokio::select! {
            () = sleep(jittered(longest)) => {}
            Ok(()) = self.server_is_back.changed() => sleep(jittered(BACK_OFF_FIRST)).await,
            else => {}
        }
    }
}

async fn next(
    mut stream: impl Stream<Item = watcher::Result<Event<Object>>> + Unpin,
    is_opened: &mut mpsc::Receiver<()>,
    patience: Option<Duration>,
) -> Step {
    let next = async {
        tokio::select! {
            // Before the first event that it brings.
            biased;
            Some(()) = is_opened.recv() => Step::Opened,
            Some(event) = stream.next() => Step::Came(event),
            // The watcher never ends, and its client keeps the other end.
            else => std::future::pending().await,
        }
    };
    match patience {
        Some(patience) => timeout(patience, next).await.unwrap_or(Step::Silent),
        None => next.await,
    }
}

/// Whether a server says that it knows no streaming lists: 500 with an etcd that is too old, 422 (or 400) without the
/// feature.
fn is_refusal_to_stream(error: &watcher::Error) -> bool {
    let watcher::Error::WatchStartFailed(error) = error else { return false };
    matches!(Failure::of(error).class, FailureClass::Status(400 | 422 | 500 | 501))
}

/// Between half of it and all: what fails together is not tried again together.
pub(super) fn jittered(longest: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let thousandths = u32::try_from(random % 500).unwrap_or_default();
    longest / 2 + longest * thousandths / 1000
}
