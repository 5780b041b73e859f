//! A question as it comes in: from the command line, or to the agent as JSON. With a pod, or a client of files, it is
//! answered.

use std::net::IpAddr;
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::client_tls::ServerFiles;
use super::{Explanation, LookUp, Place, Question, Spoken, Target, explain};
use crate::compile::CompileSettings;
use crate::proxy::upstream::InUse;
use crate::resource::World;
use crate::snapshot::{Snapshot, TlsOrigination, TlsTermination};
use crate::workload::{RedirectPolicy, SpiffeId};

/// What becomes of a connection to `target`?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Asked {
    #[serde(serialize_with = "target", deserialize_with = "parsed")]
    pub target: Target,
    /// At a gateway: the port of its Service that the connection comes to, if not the target's.
    #[serde(default)]
    pub port: Option<u16>,
    /// At a gateway: who the client's certificate says that it is.
    #[serde(default, serialize_with = "displayed_if_any", deserialize_with = "peer")]
    pub peer: Option<SpiffeId>,
    /// What is spoken, if not what the target says.
    #[serde(default)]
    pub protocol: Option<Spoken>,
    /// Where the connection goes, if not where the target or a ServiceEntry says.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Look names up as they are now: the target's, and those of endpoints.
    #[serde(default)]
    pub resolve: bool,
    #[serde(default, serialize_with = "displayed", deserialize_with = "parsed")]
    pub method: Method,
    #[serde(default)]
    pub headers: Vec<Header>,
    /// The server name in the TLS handshake, if not the target's host.
    #[serde(default)]
    pub sni: Option<String>,
}

/// Of a request: `NAME: VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header(pub HeaderName, pub HeaderValue);

/// Whose connection it would be.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub world: &'a World,
    pub snapshot: &'a Snapshot,
    pub settings: &'a CompileSettings,
    pub redirect: &'a RedirectPolicy,
    pub redirect_by: &'a [Place],
    /// See [`Question::in_use`].
    pub in_use: &'a InUse,
}

/// What is looked at outside of the resources.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    pub look_up: LookUp,
    /// See [`Question::look_at_server`].
    pub look_at_server: fn(&TlsTermination) -> ServerFiles,
    /// See [`Question::look_at_files`].
    pub look_at_files: fn(&TlsOrigination) -> Result<TlsOrigination, String>,
    /// See [`Question::is_proxy_here`].
    pub is_proxy_here: bool,
}

impl Asked {
    /// # Errors
    /// What of the question makes no sense for `settings`.
    pub fn check(&self, settings: &CompileSettings) -> Result<(), &'static str> {
        if (self.port.is_some() || self.peer.is_some()) && !settings.role.is_gateway() {
            return Err("a port beside the target's and a peer are asked of an egress gateway alone");
        }
        Ok(())
    }

    pub fn answer(self, of: Subject<'_>, outside: Outside) -> Explanation {
        let host = &self.target.host;
        let is_gateway = of.settings.role.is_gateway();
        // A name that is not found has no addresses.
        let resolved = self.resolve.then(|| (outside.look_up)(host).unwrap_or_default());
        let first = resolved.as_ref().and_then(|addresses| addresses.first().copied());
        let address = self
            .address
            .map(|address| (address, "as asked".to_owned()))
            .or_else(|| first.filter(|_| !is_gateway).map(|first| (first, format!("what {host} is now"))));
        let mut headers = HeaderMap::new();
        headers.extend(self.headers.into_iter().map(|Header(name, value)| (Some(name), value)));
        let question = Question {
            target: self.target,
            port: self.port,
            peer: self.peer,
            look_at_server: outside.look_at_server,
            spoken: self.protocol,
            address,
            resolved,
            look_up: self.resolve.then_some(outside.look_up),
            in_use: of.in_use.clone(),
            method: self.method,
            headers,
            sni: self.sni,
            redirect: of.redirect.clone(),
            redirect_by: of.redirect_by.to_vec(),
            look_at_files: outside.look_at_files,
            is_proxy_here: outside.is_proxy_here,
        };
        explain(of.world, of.snapshot, of.settings, &question)
    }
}

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?;
        Ok(Self(name, value))
    }
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}: {}", self.0, String::from_utf8_lossy(self.1.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

fn target<S: Serializer>(target: &Target, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&target.text)
}

fn displayed<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn displayed_if_any<S: Serializer>(
    value: &Option<impl std::fmt::Display>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

/// # Errors
/// What is expected instead.
pub fn parse_peer(text: &str) -> Result<SpiffeId, &'static str> {
    SpiffeId::parse(text)
        .ok_or("expected the identity in a certificate, such as spiffe://cluster.local/ns/shop/sa/cart")
}

fn peer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SpiffeId>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_peer(&text).map_err(de::Error::custom)).transpose()
}

fn parsed<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: std::fmt::Display>,
    D: Deserializer<'de>,
{
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_its_way() {
        let asked = Asked {
            target: "https://www.apple.com:8443/x".parse().unwrap(),
            port: Some(80),
            peer: Some(parse_peer("spiffe://td/ns/shop/sa/cart").unwrap()),
            protocol: Some(Spoken::Http),
            address: Some("192.0.2.1".parse().unwrap()),
            resolve: true,
            method: Method::PATCH,
            headers: vec!["X-A: 1: 2".parse().unwrap(), "x-a:3".parse().unwrap()],
            sni: Some("b.example.com".to_owned()),
        };
        let json = serde_json::to_string(&asked).unwrap();
        assert_eq!(serde_json::from_str::<Asked>(&json).unwrap(), asked, "{json}");
    }

    #[test]
    fn the_target_is_enough_and_mistakes_are_told() {
        let asked: Asked = serde_json::from_str(r#"{"target":"http://a.example.com"}"#).unwrap();
        assert_eq!((asked.method, asked.resolve, asked.headers), (Method::GET, false, Vec::new()));
        for (json, says) in [
            ("{}", "missing field `target`"),
            (r#"{"target":"a.example.com"}"#, "has no port"),
            (r#"{"target":"a:1","method":"G T"}"#, "invalid HTTP method"),
            (r#"{"target":"a:1","peer":"shop/cart"}"#, "such as spiffe://cluster.local/ns/shop/sa/cart"),
            (r#"{"target":"a:1","headers":["x"]}"#, "expected NAME: VALUE"),
            (r#"{"target":"a:1","protocol":"udp"}"#, "`http`, `tls`, `tcp`"),
            (r#"{"target":"a:1","adress":"192.0.2.1"}"#, "unknown field `adress`"),
        ] {
            let error = serde_json::from_str::<Asked>(json).unwrap_err().to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }
}
