//! A workload that goes: nothing of it stays in the maps, and nothing of it is let through.

use interceptor_common::verdict::Reason;
use interceptor_user::{datapath::Counter, workload::RedirectPolicy};

use crate::bed::{Bed, own_addresses};

#[test]
fn connections_are_refused_and_counted_for_nobody() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    let client = bed.connect("192.0.2.9:80")?;
    bed.expect_redirected(&client, "192.0.2.9:80")?;
    let waiting = bed.start_connect("192.0.2.9:80")?;
    bed.datapath.unenroll(bed.cookie)?;
    assert_eq!(bed.datapath.counters()?, []);
    assert_eq!(bed.datapath.handovers_waiting()?, 0);
    assert!(bed.datapath.handovers_open(bed.cookie).is_err());
    assert!(bed.datapath.enrolled().is_empty());

    assert_eq!(bed.connect_error("192.0.2.9:80")?.raw_os_error(), Some(libc::EPERM));
    let refused = Counter { cookie: 0, reason: Reason::UnknownWorkload, count: 1 };
    assert_eq!(bed.datapath.counters()?, [refused]);
    drop(waiting);
    Ok(())
}

#[test]
fn twice_is_as_good_as_once_and_it_can_come_back() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    bed.datapath.unenroll(bed.cookie)?;
    bed.datapath.unenroll(bed.cookie)?;
    let policy = RedirectPolicy::default();
    bed.policy = bed.datapath.enroll(bed.cookie, &policy, &own_addresses(), bed.listener)?;
    let client = bed.connect("192.0.2.9:80")?;
    bed.expect_redirected(&client, "192.0.2.9:80")?;
    assert_eq!(bed.count(Reason::IncludedRange)?, 1);
    Ok(())
}
