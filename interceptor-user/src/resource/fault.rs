//! HTTPFaultInjection: requests that are held up or broken off on purpose.

use std::time::Duration;

use super::decode::Field;
use super::percentage::{self, Percentage};
use super::retries::at_least_a_millisecond;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
}

/// A delay without a percentage delays nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultDelay {
    pub fixed: Duration,
    pub percentage: Percentage,
}

/// An abort without a percentage aborts nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultAbort {
    pub status: AbortStatus,
    pub percentage: Percentage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    Http(u16),
    Grpc(u8),
}

pub(super) fn read(field: &Field<'_>) -> Option<Fault> {
    let fault = field.object()?;
    if !fault.has("delay") && !fault.has("abort") {
        field.error("HTTP fault injection must have an abort and/or a delay");
    }
    Some(Fault {
        delay: fault.get("delay").and_then(|field| read_delay(&field)),
        abort: fault.get("abort").and_then(|field| read_abort(&field)),
    })
}

fn read_delay(field: &Field<'_>) -> Option<FaultDelay> {
    let delay = field.object()?;
    let of_percentage = delay.get("percentage").map(|field| percentage::read(&field));
    // The older field; it counts where the newer one is absent.
    let of_percent = percentage::read_whole(&delay, "percent");
    let percentage = of_percentage.unwrap_or(of_percent);
    if let Some(exponential) = delay.get("exponentialDelay") {
        exponential.error("exponentialDelay not supported yet: Istio has none either; use fixedDelay");
        return None;
    }
    let fixed = delay.require("fixedDelay").and_then(|field| at_least_a_millisecond(&field))?;
    affects_nothing_without(field, percentage, "delay");
    Some(FaultDelay { fixed, percentage: percentage.unwrap_or_default() })
}

fn read_abort(field: &Field<'_>) -> Option<FaultAbort> {
    let abort = field.object()?;
    let percentage = abort.get("percentage").and_then(|field| percentage::read(&field));
    if let Some(http2) = abort.get("http2Error") {
        http2.error("HTTP/2 abort fault injection not supported yet");
        return None;
    }
    let kinds = ["httpStatus", "grpcStatus"].iter().filter(|name| abort.has(name)).count();
    if kinds > 1 {
        field.error("httpStatus and grpcStatus exclude each other");
    }
    let (http, grpc) = (abort.get("httpStatus"), abort.get("grpcStatus"));
    let status = match (http, grpc) {
        (Some(http), _) => AbortStatus::Http(read_http_status(&http)?),
        (None, Some(grpc)) => AbortStatus::Grpc(read_grpc_status(&grpc)?),
        (None, None) => {
            field.warning("abort configured, but error type not set: nothing is aborted; set httpStatus");
            return None;
        }
    };
    affects_nothing_without(field, percentage, "abort");
    Some(FaultAbort { status, percentage: percentage.unwrap_or_default() })
}

fn affects_nothing_without(field: &Field<'_>, percentage: Option<Percentage>, what: &str) {
    if percentage.is_none() && !field.is_wrong() {
        field.warning(format!(
            "`percentage` is missing, which means 0: no request meets this {what}; write percentage: {{value: 100}} \
             for all"
        ));
    }
}

fn read_http_status(field: &Field<'_>) -> Option<u16> {
    let status = field.integer(i64::from(i32::MIN)..=i64::from(i32::MAX))?;
    if !(200..=599).contains(&status) {
        field.error(format!("HTTP status {status} is not in range 200-599"));
        return None;
    }
    u16::try_from(status).ok()
}

/// By name, as in gRPC's list of status codes.
fn read_grpc_status(field: &Field<'_>) -> Option<u8> {
    const STATUSES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let text = field.text()?;
    let position = STATUSES.iter().position(|name| **name == *text);
    if position.is_none() {
        field.error(format!(
            "gRPC status {text:?} is not supported: expected a name of gRPC's list, for example 'NOT_FOUND'"
        ));
    }
    position.and_then(|position| u8::try_from(position).ok())
}
