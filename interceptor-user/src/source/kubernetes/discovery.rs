//! Which kinds of Istio's the server has, in which version, looked up again and again: a CRD may come at any time. It is
//! also how one notices that the server is away, and that it is back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::HttpInfo;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::failure::{Failure, FailureClass};
use super::follow::jittered;
use super::watches::{ISTIO_GROUP, ISTIO_VERSIONS, plural};
use crate::resource::Kind;

/// The best version of each kind that there is.
pub(super) type Served = BTreeMap<Kind, &'static str>;

/// What the last look found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// `None` until the first answer.
    pub(super) served: Option<Served>,
    /// Why the last look failed.
    pub(super) failure: Option<Failure>,
}

/// While a kind is missing.
const LOOK_OFTEN: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_secs(10);
/// While the server is away.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks until nobody wants to know. `look_now` hurries the next look; `server_is_back` counts how often the server came
/// back, or another one took its place.
pub(super) async fn discover(
    client: Client,
    look_now: &Notify,
    found: &watch::Sender<Found>,
    server_is_back: &watch::Sender<u64>,
) {
    let mut looker = Looker { client, connection: None };
    let mut was_away = false;
    while !found.is_closed() {
        let connection = looker.connection;
        let pause = match looker.look().await {
            Ok(served) => {
                // A server that was told to stop closes what is idle, and may be back before the next look.
                let is_another = connection.is_some() && connection != looker.connection;
                if std::mem::take(&mut was_away) || is_another {
                    server_is_back.send_modify(|times| *times += 1);
                }
                let pause = if served.len() < Kind::ISTIO.len() { LOOK_OFTEN } else { LOOK };
                found.send_replace(Found { served: Some(served), failure: None });
                pause
            }
            Err(failure) => {
                was_away = true;
                let is_away = failure.class == FailureClass::NoAnswer;
                found.send_modify(|found| found.failure = Some(failure));
                if is_away { LOOK_AGAIN } else { LOOK_OFTEN }
            }
        };
        tokio::select! {
            () = sleep(jittered(pause)) => {}
            // Not at once: the server may just be busy with taking the kind away.
            () = look_now.notified() => sleep(jittered(LOOK_AGAIN / 2)).await,
        }
    }
}

#[derive(Deserialize)]
struct ApiGroup {
    #[serde(default)]
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
struct GroupVersion {
    version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<ApiResource>,
}

#[derive(Deserialize)]
struct ApiResource {
    name: String,
    #[serde(default)]
    verbs: Vec<String>,
}

struct Looker {
    client: Client,
    /// Our end of the connection that the last answer came on; the next one comes on the same while it is open.
    connection: Option<SocketAddr>,
}

impl Looker {
    async fn look(&mut self) -> Result<Served, Failure> {
        let Some(group) = self.get::<ApiGroup>(&format!("/apis/{ISTIO_GROUP}")).await? else {
            return Ok(Served::new());
        };
        let mut served = Served::new();
        for version in ISTIO_VERSIONS {
            if !group.versions.iter().any(|served| served.version == version) {
                continue;
            }
            let list = self.get::<ResourceList>(&format!("/apis/{ISTIO_GROUP}/{version}")).await?;
            for resource in list.map(|list| list.resources).unwrap_or_default() {
                let kind = Kind::ISTIO.into_iter().find(|kind| plural(*kind) == resource.name);
                if let Some(kind) = kind.filter(|_| resource.verbs.iter().any(|verb| verb == "watch")) {
                    served.entry(kind).or_insert(version);
                }
            }
            if served.len() == Kind::ISTIO.len() {
                break;
            }
        }
        Ok(served)
    }

    /// `None` when there is no such thing.
    async fn get<T: serde::de::DeserializeOwned>(&mut self, path: &str) -> Result<Option<T>, Failure> {
        match timeout(PATIENCE, self.answer(path)).await {
            Ok(Ok((status, _))) if status.code == 404 => Ok(None),
            Ok(Ok((status, _))) if status.code >= 400 => Err(Failure::of_status(&status)),
            Ok(Ok((_, body))) => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| Failure::of(&kube::Error::SerdeError(error))),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_) => Err(Failure {
                why: format!("no answer to GET {path} within {} s", PATIENCE.as_secs()),
                class: FailureClass::NoAnswer,
            }),
        }
    }

    async fn answer(&mut self, path: &str) -> Result<(Status, Bytes), kube::Error> {
        let request = http::Request::get(path).body(Body::empty()).map_err(kube::Error::HttpError)?;
        let answer = self.client.send(request).await?;
        self.connection = answer.extensions().get::<HttpInfo>().map(HttpInfo::local_addr);
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        let status = serde_json::from_slice::<Status>(&body).ok().filter(|_| code >= 400);
        let text = || Status::failure(&String::from_utf8_lossy(&body), "");
        Ok((status.unwrap_or_else(text).with_code(code), body))
    }
}
