//! Header operations of a route, and header names in matches.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::decode::Field;
use super::object::Object;
use super::string_match::StringMatch;

/// What to do to the headers of requests and responses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    pub request: HeaderOperations,
    pub response: HeaderOperations,
    /// `host` or `:authority` among the request's: the authority is replaced.
    pub authority: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOperations {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

/// Reads `headers` of a route or destination.
pub(super) fn read(route: &Object<'_>) -> Option<Box<Headers>> {
    let headers = route.get("headers").and_then(|field| field.object())?;
    let mut authority = None;
    let request = read_operations(headers.get("request"), Some(&mut authority));
    let response = read_operations(headers.get("response"), None);
    let headers = Headers { request, response, authority };
    (headers != Headers::default()).then(|| Box::new(headers))
}

fn read_operations(
    field: Option<Field<'_>>,
    mut authority: Option<&mut Option<Arc<str>>>,
) -> HeaderOperations {
    let Some(operations) = field.and_then(|field| field.object()) else { return HeaderOperations::default() };
    let mut pairs = |name: &'static str| -> Vec<(HeaderName, HeaderValue)> {
        let entries = operations.get(name).map(|field| field.entries()).unwrap_or_default();
        let pair = |(key, value): (super::Spanned<&str>, Field<'_>)| {
            let text = value.text()?;
            if is_authority(key.value) {
                match authority.as_deref_mut() {
                    Some(None) => authority.as_deref_mut().map(|slot| *slot = Some(Arc::clone(&text))),
                    Some(Some(have)) => {
                        let have = have.clone();
                        value.error(format!(
                            "authority header cannot be set multiple times: have {have:?}, attempting to set {text:?}"
                        ));
                        None
                    }
                    None => {
                        value.error(format!(
                            "invalid header {:?}: header cannot have name \"host\"",
                            key.value
                        ));
                        None
                    }
                };
                return None;
            }
            Some((header_name(&value, key.value)?, header_value(&value, &text)?))
        };
        entries.into_iter().filter_map(pair).collect()
    };
    let set = pairs("set");
    let add = pairs("add");
    let remove = operations.list("remove", |item| {
        let text = item.text()?;
        if is_authority(&text) {
            item.error(format!("invalid header {text:?}: the host can't be removed"));
            return None;
        }
        header_name(&item, &text)
    });
    HeaderOperations { set, add, remove }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn header_name(field: &Field<'_>, name: &str) -> Option<HeaderName> {
    const OF_THE_CONNECTION: [HeaderName; 5] = [
        http::header::CONNECTION,
        http::header::CONTENT_LENGTH,
        http::header::TE,
        http::header::TRANSFER_ENCODING,
        http::header::UPGRADE,
    ];
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) if OF_THE_CONNECTION.contains(&name) => {
            field.error(format!("header {name} says how the message is carried: a route can't change it"));
            None
        }
        Ok(name) => Some(name),
        Err(_) => {
            field.error(format!("header name {name:?} is not a valid header name"));
            None
        }
    }
}

fn header_value(field: &Field<'_>, value: &str) -> Option<HeaderValue> {
    if value.contains('%') {
        field.warning("`%` starts a variable in Istio; here the value is sent as it is written");
    }
    let parsed = HeaderValue::from_str(value).ok();
    if parsed.is_none() {
        field.error(format!("header value {value:?} holds characters that a header can't carry"));
    }
    parsed
}

/// The headers of a match. `uri`, `scheme`, `method` and `authority` are not headers: Istio ignores them.
pub(super) fn matched(
    object: &Object<'_>,
    name: &str,
    headers: Vec<(Arc<str>, StringMatch)>,
) -> Vec<(Arc<str>, StringMatch)> {
    let valid = |(header, _): &(Arc<str>, StringMatch)| {
        let field = object.field();
        if matches!(&**header, "uri" | "scheme" | "method" | "authority") {
            field.warning(format!("{name}[{header}] is ignored: match `{header}` beside `{name}` instead"));
            return false;
        }
        if HeaderName::from_bytes(header.as_bytes()).is_err() {
            field.error(format!("{name}: header name {header:?} is not a valid header name"));
            return false;
        }
        true
    };
    headers.into_iter().filter(valid).collect()
}
