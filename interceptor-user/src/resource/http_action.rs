//! What an HTTP route of a VirtualService does beside forwarding: redirect, rewrite, answer.

use std::sync::Arc;

use super::decode::Field;
use super::string_match;
use super::virtual_service::{HttpAction, Pattern, Redirect, Rewrite};

pub(super) fn read_redirect(field: &Field<'_>) -> Option<Redirect> {
    let redirect = field.object()?;
    let code = redirect.get("redirectCode").map_or(Some(301), |field| {
        let code = field.integer(300..=399)?;
        let code = u16::try_from(code).ok().filter(|code| matches!(code, 301 | 302 | 303 | 307 | 308));
        if code.is_none() {
            field.error("redirectCode must be one of 301, 302, 303, 307 and 308");
        }
        code
    });
    let derive = redirect
        .get("derivePort")
        .and_then(|field| field.one_of(&[("FROM_PROTOCOL_DEFAULT", false), ("FROM_REQUEST_PORT", true)]));
    let read = Redirect {
        uri: redirect.text("uri").filter(|uri| !uri.is_empty()),
        uri_prefix: redirect.text("uriPrefix").filter(|prefix| !prefix.is_empty()),
        authority: redirect.text("authority").filter(|authority| !authority.is_empty()),
        scheme: redirect
            .get("scheme")
            .and_then(|field| field.one_of(&[("http", "http"), ("https", "https")]))
            .map(Arc::from),
        port: redirect.get("port").and_then(|field| field.port()),
        port_of_request: derive.unwrap_or(false),
        code: code?,
    };
    if read.uri.is_some() && read.uri_prefix.is_some() {
        field.error("redirect cannot contain both uri and uriPrefix");
    }
    if read.uri.is_none()
        && read.uri_prefix.is_none()
        && read.authority.is_none()
        && read.scheme.is_none()
        && !redirect.has("port")
        && !redirect.has("derivePort")
    {
        field.error("redirect must specify URI, authority, scheme, or port");
    }
    Some(read)
}

pub(super) fn read_rewrite(field: &Field<'_>) -> Option<Rewrite> {
    let rewrite = field.object()?;
    let regex = rewrite.get("uriRegexRewrite").and_then(|field| {
        let regex = field.object()?;
        let pattern = string_match::read_pattern(&regex.require("match")?);
        let replacement = regex.require("rewrite")?.text()?;
        Some((Pattern(pattern?), groups(&replacement).into()))
    });
    let read = Rewrite {
        uri: rewrite.text("uri").filter(|uri| !uri.is_empty()),
        authority: rewrite.text("authority").filter(|authority| !authority.is_empty()),
        regex,
    };
    if read.uri.is_some() && read.regex.is_some() {
        field.error("rewrite may only contain one of URI or uriRegexRewrite");
    }
    if read == Rewrite::default() {
        field.error("rewrite must specify URI, UriRegexRewrite, or authority");
    }
    Some(read)
}

/// RE2's `\\1` as the `${1}` of our regular expressions.
fn groups(replacement: &str) -> String {
    let mut out = String::new();
    let mut characters = replacement.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(digit) if digit.is_ascii_digit() => out.push_str(&format!("${{{digit}}}")),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            '$' => out.push_str("$$"),
            other => out.push(other),
        }
    }
    out
}

pub(super) fn read_direct_response(field: &Field<'_>) -> Option<HttpAction> {
    const BODY_BYTES_MAX: usize = 1 << 20;
    let response = field.object()?;
    let body = response.get("body").and_then(|field| {
        let body = field.object()?;
        body.text("string").map(|text| text.as_bytes().to_vec()).or_else(|| read_base64(&body.get("bytes")?))
    });
    let body = body.unwrap_or_default();
    if body.len() > BODY_BYTES_MAX {
        field.error(format!("response body size must be less than 1MB: it has {} bytes", body.len()));
    }
    let status = response.require("status")?.integer(200..=599)?;
    Some(HttpAction::DirectResponse { status: u16::try_from(status).ok()?, body })
}

/// Protobuf's JSON carries bytes as base64.
fn read_base64(field: &Field<'_>) -> Option<Vec<u8>> {
    let text = field.text()?;
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for symbol in text.trim_end_matches('=').bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => {
                field.error("expected base64");
                return None;
            }
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).unwrap_or_default());
        }
    }
    Some(bytes)
}
