//! Reads DNS messages that pass by: what was asked, and which addresses an answer gives for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::svcb::SvcParamValue;
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record};

use super::learned::Lesson;
use super::lookup::is_host_name;

/// What is learned of one answer; the rest of a larger one is passed on like all of it.
const LESSONS_MAX: usize = 128;
/// Aliases of aliases.
const ALIASES_MAX: usize = 16;

/// A message's id and its one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    id: u16,
    question: Query,
}

/// The question of a query; `None` when it is none, or asks no single question.
pub(super) fn question(bytes: &[u8]) -> Option<Asked> {
    asked(&Message::from_vec(bytes).ok()?)
}

fn asked(message: &Message) -> Option<Asked> {
    match &message.queries[..] {
        [question] => Some(Asked { id: message.metadata.id, question: question.clone() }),
        _ => None,
    }
}

/// An answer as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not a DNS message, or broken.
    Malformed,
    /// What was asked, when the server repeats it, and what it says.
    Read { asked: Option<Asked>, lessons: Vec<Lesson> },
}

pub(super) fn read(bytes: &[u8]) -> Answer {
    let Ok(message) = Message::from_vec(bytes) else { return Answer::Malformed };
    let asked = asked(&message);
    let is_answer = message.metadata.message_type == MessageType::Response
        && message.metadata.response_code == ResponseCode::NoError;
    let lessons = match &asked {
        Some(asked) if is_answer && asked.question.query_class == DNSClass::IN => {
            lessons(&asked.question.name, &message.answers)
        }
        Some(_) | None => Vec::new(),
    };
    Answer::Read { asked, lessons }
}

/// The addresses of `name` and of what it is an alias of. Records that have nothing to do with the question are not
/// believed.
fn lessons(name: &Name, records: &[Record]) -> Vec<Lesson> {
    let mut chain = vec![(name.clone(), u32::MAX)];
    while let Some((target, ttl)) = chain.last().and_then(|(name, _)| alias(name, records)) {
        if chain.len() > ALIASES_MAX || chain.iter().any(|(name, _)| *name == target) {
            break;
        }
        let ttl = ttl.min(chain.last().map_or(u32::MAX, |(_, ttl)| *ttl));
        chain.push((target, ttl));
    }
    let texts: Vec<Option<Arc<str>>> = chain.iter().map(|(name, _)| text(name)).collect();
    let mut lessons = Vec::new();
    for record in records.iter().filter(|record| record.dns_class == DNSClass::IN) {
        let Some(position) = chain.iter().position(|(name, _)| *name == record.name) else { continue };
        let ttl = Duration::from_secs(record.ttl.min(chain[position].1).into());
        let mut names: Vec<Arc<str>> = texts[..=position].iter().flatten().cloned().collect();
        let addresses = addresses(&record.data, &mut names);
        if names.is_empty() {
            continue;
        }
        let room = LESSONS_MAX - lessons.len();
        lessons.extend(addresses.into_iter().take(room).map(|address| Lesson {
            address: address.to_canonical(),
            names: names.clone(),
            ttl,
        }));
    }
    lessons
}

/// What `name` is an alias of.
#[expect(clippy::wildcard_enum_match_arm, reason = "every record type there is")]
fn alias(name: &Name, records: &[Record]) -> Option<(Name, u32)> {
    records.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *name => Some((target.0.clone(), record.ttl)),
        _ => None,
    })
}

/// The addresses in one record; an HTTPS record gives them as hints for its target.
#[expect(clippy::wildcard_enum_match_arm, reason = "every record type and parameter there is")]
fn addresses(data: &RData, names: &mut Vec<Arc<str>>) -> Vec<IpAddr> {
    match data {
        RData::A(address) => vec![address.0.into()],
        RData::AAAA(address) => vec![address.0.into()],
        RData::HTTPS(service) => {
            let hints = service.0.svc_params.iter().flat_map(|(_, value)| -> Vec<IpAddr> {
                match value {
                    SvcParamValue::Ipv4Hint(hints) => hints.0.iter().map(|hint| hint.0.into()).collect(),
                    SvcParamValue::Ipv6Hint(hints) => hints.0.iter().map(|hint| hint.0.into()).collect(),
                    _ => Vec::new(),
                }
            });
            let hints = hints.collect();
            if !service.0.target_name.is_root() {
                names.extend(text(&service.0.target_name).filter(|target| !names.contains(target)));
            }
            hints
        }
        _ => Vec::new(),
    }
}

/// As hosts are spelled in resources. `None` for what is no host name.
fn text(name: &Name) -> Option<Arc<str>> {
    let text = name.to_ascii().to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    is_host_name(text).then(|| text.into())
}
