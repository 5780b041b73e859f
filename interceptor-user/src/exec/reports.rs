//! Tells people of connections that policy left alone and of calls that were refused, as the kernel reports them.

use std::collections::BTreeSet;
use std::thread;

use anyhow::Context;
use interceptor_common::verdict::Reason;

use crate::datapath::{ConnectEvent, Events};

/// Reads reports for the life of the process, on a thread of its own: unread ones would fill the kernel's buffer.
pub(super) fn follow(datapath: &mut crate::datapath::Datapath) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let events = datapath.events()?.context("the kernel's reports are read already")?;
    drop(entered);
    thread::Builder::new().name("reports".into()).spawn(move || runtime.block_on(read(events)))?;
    Ok(())
}

async fn read(mut events: Events) {
    let mut told = BTreeSet::new();
    loop {
        match events.next().await {
            Ok(event) => tell(&event, told.insert(event.reason)),
            Err(error) => {
                tracing::warn!("the kernel's reports can't be read any more: {error}");
                return;
            }
        }
    }
}

/// Every one for those who debug; the first of a kind that people must mend for everybody.
fn tell(event: &ConnectEvent, first: bool) {
    let ConnectEvent { reason, destination, pid, comm, .. } = event;
    let sentence = reason.sentence();
    if first && is_surprising(*reason) {
        tracing::warn!("refused {destination} for {comm} (process {pid}): {sentence}; said once");
    } else {
        tracing::debug!("{} {destination} for {comm} (process {pid}): {sentence}", reason.name());
    }
}

/// Excludes were asked for, and programs try families without a route as a matter of course.
fn is_surprising(reason: Reason) -> bool {
    match reason {
        Reason::UnknownWorkload
        | Reason::NoListener
        | Reason::HandoverFull
        | Reason::OutOfMemory
        | Reason::BoundToDevice
        | Reason::ListenerPort
        | Reason::PolicyMissing
        | Reason::UndecidedRefused
        | Reason::EnforcedProtocol
        | Reason::EnforcedDatagram
        | Reason::EnforcedQuic
        | Reason::EnforcedNameServer
        | Reason::EnforcedPacket
        | Reason::AstrayPacket => true,
        Reason::ExcludedPort
        | Reason::Loopback
        | Reason::Unspecified
        | Reason::Multicast
        | Reason::LinkLocal
        | Reason::OwnAddress
        | Reason::ExcludedRange
        | Reason::ExcludedInterface
        | Reason::NotIncluded
        | Reason::IncludedPort
        | Reason::IncludedRange
        | Reason::NameServer
        | Reason::NameServersFull
        | Reason::NameServerBoundToDevice
        | Reason::AgentDown
        | Reason::UndecidedAllowed
        | Reason::NoRoute
        | Reason::OwnNameServer
        | Reason::Enforced
        | Reason::EventDropped => false,
    }
}
