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
        let names: Vec<Arc<str>> = texts[..=position].iter().flatten().cloned().collect();
        let addresses = addresses(&record.data);
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

/// The addresses in one record; an HTTPS record gives them as hints. Its target is the word of whoever owns the
/// name that was asked for: the hints say nothing of it.
#[expect(clippy::wildcard_enum_match_arm, reason = "every record type and parameter there is")]
fn addresses(data: &RData) -> Vec<IpAddr> {
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
            hints.collect()
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

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_resolver::proto::op::OpCode;
    use hickory_resolver::proto::rr::RecordType;
    use hickory_resolver::proto::rr::rdata::svcb::{IpHint, SVCB, SvcParamKey};
    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, HTTPS, TXT};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn a(owner: &str, address: &str, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A(address.parse().unwrap())))
    }

    fn cname(owner: &str, target: &str, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn answer(question: &str, kind: RecordType, records: Vec<Record>) -> Message {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(name(question), kind));
        message.add_answers(records);
        message
    }

    /// `address: names ttl`, one for each lesson.
    fn learned(message: &Message) -> Vec<String> {
        match read(&message.to_vec().unwrap()) {
            Answer::Malformed => panic!("malformed"),
            Answer::Read { lessons, .. } => lessons
                .iter()
                .map(|lesson| {
                    format!("{}: {} {}", lesson.address, lesson.names.join(" "), lesson.ttl.as_secs())
                })
                .collect(),
        }
    }

    #[test]
    fn addresses_are_learned_for_the_name_and_its_aliases() {
        let records = vec![
            cname("www.a.test.", "Alias.b.test.", 20),
            cname("alias.b.test.", "host.c.test.", 60),
            a("host.c.test.", "192.0.2.1", 30),
            a("host.c.test.", "192.0.2.2", 10),
            Record::from_rdata(name("host.c.test."), 30, RData::AAAA(AAAA("2001:db8::1".parse().unwrap()))),
            // Nothing that was asked for leads there.
            a("stranger.test.", "192.0.2.66", 30),
            Record::from_rdata(name("www.a.test."), 30, RData::TXT(TXT::new(vec!["192.0.2.77".to_owned()]))),
        ];
        let names = "www.a.test alias.b.test host.c.test";
        assert_eq!(
            learned(&answer("WWW.a.test.", RecordType::A, records)),
            [
                format!("192.0.2.1: {names} 20"),
                format!("192.0.2.2: {names} 10"),
                format!("2001:db8::1: {names} 20"),
            ]
        );
    }

    #[test]
    fn hints_of_https_records_are_learned() {
        let hint = |target: &str| {
            let params = vec![
                (
                    SvcParamKey::Ipv4Hint,
                    SvcParamValue::Ipv4Hint(IpHint(vec![A("192.0.2.9".parse().unwrap())])),
                ),
                (
                    SvcParamKey::Ipv6Hint,
                    SvcParamValue::Ipv6Hint(IpHint(vec![AAAA("2001:db8::9".parse().unwrap())])),
                ),
            ];
            Record::from_rdata(name("a.test."), 60, RData::HTTPS(HTTPS(SVCB::new(1, name(target), params))))
        };
        let got = learned(&answer("a.test.", RecordType::HTTPS, vec![hint(".")]));
        assert_eq!(got, ["192.0.2.9: a.test 60", "2001:db8::9: a.test 60"]);
        let got = learned(&answer("a.test.", RecordType::HTTPS, vec![hint("cdn.test.")]));
        assert_eq!(got, ["192.0.2.9: a.test 60", "2001:db8::9: a.test 60"]);
    }

    #[test]
    fn what_is_no_answer_teaches_nothing() {
        let good = || answer("a.test.", RecordType::A, vec![a("a.test.", "192.0.2.1", 60)]);
        assert_eq!(learned(&good()).len(), 1);
        let mut query = good();
        query.metadata.message_type = MessageType::Query;
        let mut refused = good();
        refused.metadata.response_code = ResponseCode::Refused;
        let mut two_questions = good();
        two_questions.add_query(Query::query(name("b.test."), RecordType::A));
        let mut chaos = good();
        chaos.queries[0].query_class = DNSClass::CH;
        let name_of_no_host = Name::from_labels(vec![&b"a@b"[..], b"test"]).unwrap();
        let mut strange = good();
        strange.queries[0].name = name_of_no_host.clone();
        strange.answers[0].name = name_of_no_host;
        for message in [query, refused, two_questions, chaos, strange] {
            assert_eq!(learned(&message), [""; 0], "{message}");
        }
    }

    #[test]
    fn circles_and_long_answers_end() {
        let circle = vec![
            cname("a.test.", "b.test.", 1),
            cname("b.test.", "a.test.", 1),
            a("b.test.", "192.0.2.1", 1),
        ];
        assert_eq!(learned(&answer("a.test.", RecordType::A, circle)), ["192.0.2.1: a.test b.test 1"]);
        let chain = (0..100).map(|i| cname(&format!("n{i}.test."), &format!("n{}.test.", i + 1), 1));
        let chain = chain.chain([a("n100.test.", "192.0.2.1", 1)]).collect();
        assert_eq!(learned(&answer("n0.test.", RecordType::A, chain)), [""; 0]);
        let many = (0..1000_u32).map(|i| a("a.test.", &std::net::Ipv4Addr::from(i).to_string(), 1)).collect();
        assert_eq!(learned(&answer("a.test.", RecordType::A, many)).len(), LESSONS_MAX);
    }

    #[test]
    fn a_question_is_the_same_whatever_its_case() {
        let query = |text: &str, id| {
            let mut message = Message::new(id, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(name(text), RecordType::A));
            question(&message.to_vec().unwrap())
        };
        assert!(query("a.test.", 1).is_some());
        assert_eq!(query("a.test.", 1), query("A.tEst.", 1));
        assert_ne!(query("a.test.", 1), query("a.test.", 2));
        assert_ne!(query("a.test.", 1), query("b.test.", 1));
        assert_eq!(question(b""), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// Broken anywhere, cut off anywhere: an answer is read or malformed, and that is all.
        #[test]
        fn whatever_comes_is_read_or_malformed(
            noise in proptest::collection::vec(any::<u8>(), 0..600),
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
            length in any::<proptest::sample::Index>(),
        ) {
            read(&noise);
            question(&noise);
            let records = vec![cname("a.test.", "b.test.", 20), a("b.test.", "192.0.2.1", 30)];
            let mut bytes = answer("a.test.", RecordType::A, records).to_vec().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            read(&bytes);
            read(&bytes[..length.index(bytes.len())]);
        }
    }
}
