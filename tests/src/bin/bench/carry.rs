//! What is asked of a row that carries traffic, and the figures that gives.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::client::{Answer, Order, WRK_SCRIPT};
use crate::cpu::{self, Memory};
use crate::job::Job;
use crate::lab::HOST;
use crate::report::Figures;
use crate::row::{ACCESS_LOG, Row, Running};
use crate::window::{Seen, Window};
use crate::workload::{Effort, Measured};

/// Connections that wrk keeps busy, but for [`Job::HandshakeResumed`].
const CONNECTIONS: usize = 32;
/// Connections held idle while memory is read.
const IDLE: usize = 1000;

/// Memory that has not shrunk for so long is what idle connections take.
const SETTLED: Duration = Duration::from_secs(8);
/// Longer is not waited for it.
const SETTLING_MAX: Duration = Duration::from_secs(24);

/// What the client does with a connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Open,
    Close,
}

/// HTTP requests by wrk.
pub(crate) fn requests(
    mut running: Running<'_>,
    row: Row,
    job: Job,
    keep: Keep,
    effort: Effort,
) -> anyhow::Result<Measured> {
    let dir = interceptor_tests::Dir::new()?;
    let script = dir.write("report.lua", WRK_SCRIPT)?;
    // By default Envoy keeps a single session, and uses it once: of connections at the same time, one is resumed.
    let connections = if job == Job::HandshakeResumed { 1 } else { CONNECTIONS };
    let mut arguments = vec!["-t1".to_owned(), format!("-c{connections}"), format!("-d{}s", effort.seconds)];
    arguments.extend(["-H".to_owned(), format!("Host: {HOST}")]);
    if keep == Keep::Close {
        arguments.extend(["-H".to_owned(), "Connection: close".to_owned()]);
    }
    arguments.extend(["-s".to_owned(), script.display().to_string(), job.url(row)]);
    warm_up(&mut running, row, job)?;
    let watch = job.is_seen().then(|| running.lab.web.watch(job.server_port())).transpose()?;

    let window = Window::begin([&running])?;
    let answer = running.client.order(&Order::Wrk { arguments })?;
    let seen = window.end([&running])?;
    let Answer::Loaded(load) = answer else { bail!("the client answered {answer:?}") };
    ensure!(load.errors == 0.0, "{} of {} requests failed", load.errors, load.requests);
    ensure!(load.requests > 0.0, "no request was answered");
    if keep == Keep::Close && row != Row::Direct {
        ensure!(
            seen.redirected >= load.requests,
            "only {} of {} connections were redirected",
            seen.redirected,
            load.requests
        );
    }
    check_redirected(row, &seen, connections)?;
    ensure!((job == Job::Gateway) == (seen.gateway.total_us() > 0.0), "the requests went another way");
    if keep == Keep::Open {
        // wrk makes one more, to try.
        check_kept(&seen, connections + 1)?;
    }
    let mut figures = Figures::from([
        ("requests_per_s", load.requests / load.duration_us * 1e6),
        ("p50_us", load.p50_us),
        ("p99_us", load.p99_us),
        ("redirected", seen.redirected),
    ]);
    seen.cpu_per(load.requests, &mut figures);
    if job == Job::Logged {
        check_logged(&running, row, load.requests)?;
    }
    if let Some(watch) = watch {
        job.check(&watch.saw(load.requests)?, &mut figures)?;
    }
    Ok(Measured { seen, figures })
}

/// The first requests of a fresh process resolve, connect and allocate: they are not measured.
fn warm_up(running: &mut Running<'_>, row: Row, job: Job) -> anyhow::Result<()> {
    let job = if row == Row::Direct { Job::Plain } else { job };
    let order = Order::Hold { address: job.address(row), host: HOST.to_owned(), count: CONNECTIONS };
    running.client.order(&order).map(drop)
}

/// Connections of opaque bytes one after the other: few bytes each.
pub(crate) fn exchanges(mut running: Running<'_>, row: Row, effort: Effort) -> anyhow::Result<Measured> {
    let address = Job::Opaque.address(row);
    let order = |count| Order::Exchange { address, count, bytes: 64 };
    timed(&mut running, row, &order(CONNECTIONS), &order(effort.connects), effort.connects)
}

/// Few requests, as most workloads send them.
pub(crate) fn paced(mut running: Running<'_>, row: Row, effort: Effort) -> anyhow::Result<Measured> {
    let order = |seconds| Order::Paced {
        address: Job::Plain.address(row),
        host: HOST.to_owned(),
        per_second: 1000,
        seconds,
    };
    timed(&mut running, row, &order(1), &order(effort.seconds), 1)
}

fn timed(
    running: &mut Running<'_>,
    row: Row,
    warm_up: &Order,
    order: &Order,
    connections: usize,
) -> anyhow::Result<Measured> {
    running.client.order(warm_up)?;
    let window = Window::begin([&*running])?;
    let answer = running.client.order(order)?;
    let seen = window.end([&*running])?;
    let Answer::Timed { count, p50_us, p99_us } = answer else { bail!("the client answered {answer:?}") };
    check_redirected(row, &seen, connections)?;
    let mut figures =
        Figures::from([("p50_us", p50_us), ("p99_us", p99_us), ("redirected", seen.redirected)]);
    seen.cpu_per(count, &mut figures);
    Ok(Measured { seen, figures })
}

/// One stream from the server.
pub(crate) fn download(mut running: Running<'_>, row: Row, effort: Effort) -> anyhow::Result<Measured> {
    let order = |bytes| Order::Download { address: Job::Opaque.address(row), bytes };
    running.client.order(&order(effort.download_bytes / 16))?;
    let window = Window::begin([&running])?;
    let answer = running.client.order(&order(effort.download_bytes))?;
    let seen = window.end([&running])?;
    let Answer::Downloaded { seconds } = answer else { bail!("the client answered {answer:?}") };
    check_redirected(row, &seen, 1)?;
    #[expect(clippy::cast_precision_loss, reason = "a few gibibytes")]
    let gib = effort.download_bytes as f64 / f64::from(1 << 30);
    let mut figures = Figures::from([("mib_per_s", gib * 1024.0 / seconds), ("redirected", seen.redirected)]);
    if row != Row::Direct {
        figures.insert("cpu_s_per_gib", seen.proxy.total_us() / 1e6 / gib);
        figures.insert("user_s_per_gib", seen.proxy.user_us / 1e6 / gib);
        figures.insert("system_s_per_gib", seen.proxy.system_us / 1e6 / gib);
    }
    Ok(Measured { seen, figures })
}

/// Memory once it has not shrunk for a while: connections may give back what they need only while they are busy.
fn settled(proxy: &[u32]) -> anyhow::Result<Memory> {
    let began = Instant::now();
    let mut memory = cpu::memory(proxy)?;
    let (mut least_kib, mut shrunk) = (memory.rss_kib, began);
    while shrunk.elapsed() < SETTLED && began.elapsed() < SETTLING_MAX {
        std::thread::sleep(Duration::from_millis(100));
        memory = cpu::memory(proxy)?;
        if memory.rss_kib < least_kib {
            (least_kib, shrunk) = (memory.rss_kib, Instant::now());
        }
    }
    Ok(memory)
}

/// The proxy just started, and with idle connections.
pub(crate) fn memory(mut running: Running<'_>, row: Row) -> anyhow::Result<Measured> {
    let window = Window::begin([&running])?;
    let rest = cpu::memory(&running.proxy)?;
    let order = |count| Order::Hold { address: Job::Plain.address(row), host: HOST.to_owned(), count };
    // What the first requests bring in once (code pages, pools) belongs to no connection.
    running.client.order(&order(CONNECTIONS))?;
    let warm = settled(&running.proxy)?;
    running.client.order(&order(IDLE))?;
    let idle = settled(&running.proxy)?;
    let seen = window.end([&running])?;
    check_redirected(row, &seen, IDLE)?;
    let each = |full: f64, empty: f64| (full - empty) / 1000.0;
    let figures = Figures::from([
        ("rss_mib", rest.rss_kib / 1024.0),
        ("pss_mib", rest.pss_kib / 1024.0),
        ("idle_rss_kib", each(idle.rss_kib, warm.rss_kib)),
        ("idle_pss_kib", each(idle.pss_kib, warm.pss_kib)),
        ("redirected", seen.redirected),
    ]);
    Ok(Measured { seen, figures })
}

/// A line that was lost cost nothing to write.
fn check_logged(running: &Running<'_>, row: Row, requests: f64) -> anyhow::Result<()> {
    let log = running.dir.join(if row == Row::Haproxy { "log" } else { ACCESS_LOG });
    let what = format!("{requests} lines in the access log");
    interceptor_tests::wait_for(&what, Duration::from_secs(10), || {
        #[expect(clippy::cast_precision_loss, reason = "some ten thousands")]
        let lines = std::fs::read_to_string(&log).ok()?.matches("\"GET / HTTP/1.1\"").count() as f64;
        (lines >= requests).then_some(())
    })
}

/// Connections that a proxy closes after each request, and that the client makes anew, are another workload. wrk makes one or
/// two anew itself.
fn check_kept(seen: &Seen, at_most: usize) -> anyhow::Result<()> {
    let at_most = at_most + CONNECTIONS / 8;
    #[expect(clippy::cast_precision_loss, reason = "some dozens")]
    let at_most = at_most as f64;
    ensure!(
        seen.redirected <= at_most,
        "{} connections were redirected instead of {at_most} that stay open",
        seen.redirected
    );
    Ok(())
}

/// A connection that went past the proxy would flatter it.
fn check_redirected(row: Row, seen: &Seen, at_least: usize) -> anyhow::Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let at_least = at_least as f64;
    ensure!(
        row == Row::Direct || seen.redirected >= at_least,
        "{} connections were redirected, not {at_least}",
        seen.redirected
    );
    Ok(())
}
