//! The first step: whether the kernel hands the connection to the proxy, and which range or port says so.

use interceptor_common::verdict::{Reason, Verdict};

use super::address::Chosen;
use super::explanation::Step;
use super::{Context, words};
use crate::workload::{Cidr, IncludeIpRanges, RedirectPolicy};

pub(super) fn step(context: Context<'_>, to: &Chosen, verdict: Verdict) -> Step {
    let (what, reason) = match verdict {
        Verdict::Redirect(reason) => ("redirected to the proxy", reason),
        Verdict::Bypass(reason) => ("left alone", reason),
        Verdict::Deny(reason) => ("refused", reason),
    };
    let redirect = &context.question.redirect;
    let cause = cause(redirect, to, context.question.target.port, reason);
    let mut step = Step::new("kernel", format!("{what}: {}{cause}", reason.sentence()));
    step.by.clone_from(&context.question.redirect_by);
    step.notes.extend(where_the_route_matters(redirect, verdict));
    if !to.is_known {
        step.notes.extend(where_the_address_matters(redirect, reason));
    }
    step
}

/// ` (10.0.0.0/8)`: what the reason means here.
fn cause(redirect: &RedirectPolicy, to: &Chosen, port: u16, reason: Reason) -> String {
    let narrowest = |ranges: &[Cidr]| {
        let holding = ranges.iter().filter(|range| range.contains(to.address));
        holding.max_by_key(|range| range.prefix_len()).map(ToString::to_string)
    };
    let cause = match reason {
        Reason::ExcludedInterface => {
            redirect.interface_ranges.holding(to.address).map(|(range, _)| format!("route to {range}"))
        }
        Reason::ExcludedRange => narrowest(&redirect.exclude_ip_ranges),
        Reason::IncludedRange => match &redirect.include_ip_ranges {
            IncludeIpRanges::All => Some("*".into()),
            IncludeIpRanges::List(ranges) => narrowest(ranges),
        },
        Reason::ExcludedPort | Reason::IncludedPort => Some(port.to_string()),
        Reason::Loopback
        | Reason::Unspecified
        | Reason::Multicast
        | Reason::LinkLocal
        | Reason::OwnAddress
        | Reason::OwnNameServer => Some(to.address.to_string()),
        Reason::NotIncluded
        | Reason::UnknownWorkload
        | Reason::NoRoute
        | Reason::NoListener
        | Reason::HandoverFull
        | Reason::OutOfMemory
        | Reason::BoundToDevice
        | Reason::ListenerPort
        | Reason::PolicyMissing
        | Reason::UndecidedRefused
        | Reason::UndecidedAllowed
        | Reason::AgentDown
        | Reason::NameServersFull
        | Reason::NameServerBoundToDevice
        | Reason::NameServer
        | Reason::Enforced
        | Reason::EnforcedProtocol
        | Reason::EnforcedDatagram
        | Reason::EnforcedQuic
        | Reason::EnforcedNameServer
        | Reason::EnforcedPacket
        | Reason::AstrayPacket
        | Reason::EventDropped => None,
    };
    cause.map(|cause| format!(" ({cause})")).unwrap_or_default()
}

/// With an address that is not known: the ranges that would change the verdict.
fn where_the_address_matters(redirect: &RedirectPolicy, reason: Reason) -> Option<String> {
    let list = |ranges: &[Cidr]| words::few(ranges.iter().map(ToString::to_string));
    let by_route = |leaves: bool| {
        let ranges = redirect.interface_ranges.iter();
        ranges.filter(move |(_, leave)| *leave == leaves).map(|(range, _)| range)
    };
    let excluded: Vec<Cidr> = redirect.exclude_ip_ranges.iter().copied().chain(by_route(true)).collect();
    let kept: Vec<Cidr> = by_route(false).collect();
    match (reason, &redirect.include_ip_ranges) {
        (Reason::ExcludedInterface, _) if kept.is_empty() => None,
        (Reason::ExcludedInterface, _) => {
            Some(format!("for an address in {} a route leads elsewhere", list(&kept)))
        }
        (Reason::ExcludedPort | Reason::Enforced, _) => None,
        (Reason::NotIncluded, IncludeIpRanges::List(included)) if !included.is_empty() => {
            Some(format!("an address in {} would be redirected", list(included)))
        }
        _ if !excluded.is_empty() => Some(format!("an address in {} would be left alone", list(&excluded))),
        _ => None,
    }
}

/// Without the workload's routes at hand: the interfaces that would change the verdict.
fn where_the_route_matters(redirect: &RedirectPolicy, verdict: Verdict) -> Option<String> {
    let is_open = redirect.asks_routes() && redirect.interface_ranges.is_empty();
    (is_open && matches!(verdict, Verdict::Redirect(_))).then(|| {
        let names = words::few(redirect.exclude_interfaces.iter().map(ToString::to_string));
        format!(
            "what leaves by {names} would be left alone (excludeInterfaces); no route by it is known here"
        )
    })
}
