//! From verdict to return code, counter and event.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
};
use interceptor_common::{
    event::Event,
    policy::{CounterKey, NO_POLICY, NOT_ENROLLED, OriginalDestination},
    verdict::{Reason, Verdict},
};

use crate::maps::{COUNTERS, EVENTS};

/// The kernel goes on.
pub const PROCEED: i32 = 1;
/// The call fails with EPERM.
pub const REFUSE: i32 = 0;

/// Counts and reports a verdict that has been carried out.
pub fn finish(ctx: &impl EbpfContext, verdict: Verdict, subject: &OriginalDestination) -> i32 {
    let (reason, code) = match verdict {
        Verdict::Bypass(reason) | Verdict::Redirect(reason) => (reason, PROCEED),
        // The destination was made unreachable, so that the application sees the errno it would see without us.
        Verdict::Deny(Reason::NoRoute) => (Reason::NoRoute, PROCEED),
        Verdict::Deny(reason) => (reason, REFUSE),
    };
    count(counted_for(subject), reason);
    log(ctx, reason, subject);
    if reason.is_reported() {
        report(reason, subject);
    }
    code
}

/// Namespaces that are not enrolled share one counter: anybody can make any number of them.
fn counted_for(subject: &OriginalDestination) -> u64 {
    if subject.policy == NO_POLICY { NOT_ENROLLED } else { subject.netns_cookie }
}

/// One more connection, socket or packet that ended for `reason`.
pub fn count(netns_cookie: u64, reason: Reason) {
    let key = CounterKey { netns_cookie, reason: reason.code(), unused: 0 };
    if let Some(counter) = COUNTERS.get_ptr_mut(&key) {
        // SAFETY: the value is this CPU's own, and programs of one cgroup hook are not interrupted by themselves
        // on the same CPU except by softirq, which never counts the same key.
        unsafe { *counter += 1 };
        return;
    }
    // A full map loses the count, never the connection's verdict.
    let _full = COUNTERS.insert(&key, &1, 0);
}

fn report(reason: Reason, subject: &OriginalDestination) {
    let Some(mut slot) = EVENTS.reserve::<Event>(0) else {
        count(counted_for(subject), Reason::EventDropped);
        return;
    };
    slot.write(Event {
        netns_cookie: subject.netns_cookie,
        destination: subject.address,
        comm: bpf_get_current_comm().unwrap_or_default(),
        policy: subject.policy,
        reason: reason.code(),
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        port: subject.port,
        unused: 0,
    });
    slot.submit(0);
}

/// For whoever debugs the programs: every decision, loopback included.
#[cfg(feature = "log")]
fn log(ctx: &impl EbpfContext, reason: Reason, subject: &OriginalDestination) {
    let (address, port) = (subject.address.octets(), subject.port.0);
    aya_log_ebpf::info!(ctx, "[{:i}]:{} policy {}: {}", address, port, subject.policy, reason.name());
}

#[cfg(not(feature = "log"))]
fn log(_ctx: &impl EbpfContext, _reason: Reason, _subject: &OriginalDestination) {}
