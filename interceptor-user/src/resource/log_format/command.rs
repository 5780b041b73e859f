//! One command operator of a format: what stands between its per cent signs, and what it means.

use super::known::{OPERATORS, UNKNOWN, address, client_fact, request_header, response_header};
use super::{Header, Operator, Remarks};
use crate::resource::words::did_you_mean;

/// `NAME`, `NAME(ARGUMENTS)` or `NAME(ARGUMENTS):LENGTH`.
pub(super) struct Command<'a> {
    name: &'a str,
    arguments: Option<&'a str>,
    pub(super) length_max: Option<usize>,
}

/// The command in front of a `%`, and what follows that.
pub(super) fn command(text: &str) -> Option<(Command<'_>, &str)> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let name_end = text.find(|c| !is_name(c)).filter(|end| *end > 0)?;
    let (name, mut rest) = text.split_at(name_end);
    let mut arguments = None;
    if let Some(inner) = rest.strip_prefix('(') {
        let (inside, after) = inner.split_once(')')?;
        (arguments, rest) = (Some(inside), after);
    }
    let mut length_max = None;
    if let Some(length) = rest.strip_prefix(':') {
        let digits = length.find('%')?;
        length_max = Some(length[..digits].parse().ok()?);
        rest = &length[digits..];
    }
    Some((Command { name, arguments, length_max }, rest.strip_prefix('%')?))
}

impl Command<'_> {
    /// `None` for one that the remarks call a mistake.
    pub(super) fn operator(&self, remarks: &mut Remarks) -> Option<Operator> {
        let Self { name, arguments, .. } = *self;
        match (name, arguments) {
            ("REQ", Some(headers)) => {
                return self.headers(headers, request_header, remarks).map(Operator::Request);
            }
            ("RESP", Some(headers)) => {
                return self.headers(headers, response_header, remarks).map(Operator::Response);
            }
            ("REQ" | "RESP", None) => {
                remarks.errors.push(format!("%{name}% needs the name of a header: %{name}(NAME)%"));
                return None;
            }
            ("FILTER_STATE", Some(state)) => {
                let fact = client_fact(state);
                if fact.is_none() {
                    remarks.unknown.push(format!("{name}({state})"));
                }
                return Some(fact.map_or(Operator::Unknown, Operator::Client));
            }
            ("START_TIME", Some(format)) => {
                let sample = jiff::Zoned::new(jiff::Timestamp::UNIX_EPOCH, jiff::tz::TimeZone::UTC);
                if let Err(error) = jiff::fmt::strtime::format(format, &sample) {
                    remarks.errors.push(format!("%START_TIME({format})%: {error}"));
                    return None;
                }
                return Some(Operator::StartTime(Some(format.into())));
            }
            _ => {}
        }
        let plain = OPERATORS.iter().find(|(known, _)| *known == name).map(|(_, operator)| operator.clone());
        if let Some(operator) = plain.or_else(|| address(name)) {
            if arguments.is_some() {
                remarks.errors.push(format!("%{name}% takes no arguments"));
                return None;
            }
            return Some(operator);
        }
        if UNKNOWN.iter().any(|beginning| name.starts_with(beginning)) {
            remarks.unknown.push(name.to_owned());
            return Some(Operator::Unknown);
        }
        let known: Vec<&str> = OPERATORS.iter().map(|(known, _)| *known).chain(["REQ", "RESP"]).collect();
        remarks
            .errors
            .push(format!("%{name}% is no operator of Envoy's access log{}", did_you_mean(name, &known)));
        None
    }

    /// `NAME` or `NAME?OTHER`.
    fn headers(
        &self,
        text: &str,
        header: fn(&str) -> Option<Header>,
        remarks: &mut Remarks,
    ) -> Option<Vec<Header>> {
        let headers: Option<Vec<Header>> = text.split('?').map(header).collect();
        if headers.is_none() {
            remarks.errors.push(format!(
                "%{}({text})%: expected the name of a header, or two with ? between",
                self.name
            ));
        }
        headers.filter(|headers| headers.len() <= 2)
    }
}
