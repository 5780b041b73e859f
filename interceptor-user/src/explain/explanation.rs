//! What is told of a connection, as data: the text and JSON forms hold the same.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::target::Spoken;
use crate::compile;
use crate::proxy::outcome::ResponseFlags;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub target: String,
    /// Whose connection it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
    /// Instead, whom it comes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Client>,
    pub destination: Destination,
    pub protocol: Spoken,
    pub protocol_because: String,
    pub steps: Vec<Step>,
    /// What the client sees, one for each cluster that may be chosen.
    pub outcomes: Vec<Outcome>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Client {
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
}

impl From<&compile::Client> for Client {
    fn from(client: &compile::Client) -> Self {
        let labels = client.labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Self { namespace: client.namespace.to_string(), labels: labels.collect() }
    }
}

/// Where the connection goes.
#[derive(Clone, Debug, Serialize)]
pub struct Destination {
    /// `None`: what is told holds for any address, as far as no step says otherwise.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub because: String,
}

/// One decision.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    pub step: &'static str,
    pub decided: String,
    /// Who decided it.
    pub by: Vec<Place>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What was looked at and lost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
}

impl Step {
    pub(super) fn new(step: &'static str, decided: impl Into<String>) -> Self {
        Self { step, decided: decided.into(), by: Vec::new(), notes: Vec::new(), passed_over: Vec::new() }
    }
}

/// A part of a resource, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    pub resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// `file:line:column`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PassedOver {
    #[serde(flatten)]
    pub place: Place,
    pub why: String,
}

/// What the client would see, and what the access log would say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The connection or request gets out; false when it is refused or answered here with an error.
    pub carried: bool,
    pub client_sees: String,
    /// Of an answer that is given here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Of several clusters, how much of all goes here: `30/100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// `None`: nothing is logged.
    pub access_log: Option<Logged>,
}

impl Outcome {
    /// What only some see.
    pub(super) fn of(self, whom: &str) -> Self {
        let share = match &self.share {
            Some(share) => format!("{share}, {whom}"),
            None => whom.to_owned(),
        };
        Self { share: Some(share), ..self }
    }
}

/// Fields of the access log that are known without sending anything. `-` where the log has a dash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Logged {
    pub cluster: String,
    pub route: String,
    #[serde(serialize_with = "displayed")]
    pub flags: ResponseFlags,
    pub details: String,
}

fn displayed<S: Serializer>(flags: &ResponseFlags, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(flags)
}

impl Explanation {
    /// Nothing of it is refused or answered here with an error.
    pub fn is_carried(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.carried)
    }
}
