//! The workloads: what is asked of each row, and which figures it gives.

use anyhow::{bail, ensure};

use crate::client::{Answer, Order, WRK_SCRIPT};
use crate::cpu;
use crate::lab::{HOST, Lab};
use crate::peers::Job;
use crate::report::Figures;
use crate::row::{self, Places, Row, Running};
use crate::window::{Seen, Window};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Workload {
    /// connect() to a server in the same namespace, redirected or not
    Connect,
    /// HTTP/1.1 on 32 connections that stay open
    Keepalive,
    /// HTTP/1.1, a connection for each request
    Close,
    /// HTTP/1.1 from the client, TLS to the server
    Originate,
    /// One opaque TCP stream from the server
    Download,
    /// Memory of the proxy, at rest and with idle connections
    Memory,
}

/// How much is done in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) seconds: u32,
    pub(crate) connects: usize,
    pub(crate) download_bytes: u64,
}

/// A figure's name, its column's title, decimals.
pub(crate) type Column = (&'static str, &'static str, usize);

/// What the interceptor costs, in parts of what the row costs.
const RATIO: Column = ("ratio", "interceptor ÷ row", 2);

/// Connections that wrk keeps busy.
const CONNECTIONS: usize = 32;
/// Connections held idle while memory is read.
const IDLE: usize = 1000;

impl Workload {
    pub(crate) const ALL: [Self; 6] =
        [Self::Connect, Self::Keepalive, Self::Close, Self::Originate, Self::Download, Self::Memory];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Keepalive => "keepalive",
            Self::Close => "close",
            Self::Originate => "originate",
            Self::Download => "download",
            Self::Memory => "memory",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Connect => "connect() to a server in the same namespace",
            Self::Keepalive => "HTTP/1.1, 32 connections kept open",
            Self::Close => "HTTP/1.1, a connection for each request (32 at a time)",
            Self::Originate => {
                "TLS origination: HTTP/1.1 in, HTTP/1.1 over TLS out, 32 connections kept open"
            }
            Self::Download => "Opaque TCP, one stream from the server",
            Self::Memory => "Memory of the proxy, and for each of 1,000 idle HTTP connections",
        }
    }

    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            Self::Connect => &[
                ("connect_p50_us", "connect() p50 µs", 2),
                ("added_us", "added µs", 2),
                ("connect_p99_us", "p99 µs", 1),
            ],
            Self::Keepalive | Self::Close | Self::Originate => &[
                ("requests_per_s", "requests/s", 0),
                ("p50_us", "p50 µs", 0),
                ("p99_us", "p99 µs", 0),
                ("cpu_us", "proxy CPU µs/request", 1),
                ("cpu_user_us", "user", 1),
                ("cpu_system_us", "system", 1),
                RATIO,
                ("redirected", "redirected", 0),
            ],
            Self::Download => &[
                ("mib_per_s", "MiB/s", 0),
                ("cpu_s_per_gib", "proxy CPU s/GiB", 3),
                ("user_s_per_gib", "user", 3),
                ("system_s_per_gib", "system", 3),
                RATIO,
                ("redirected", "redirected", 0),
            ],
            Self::Memory => &[
                ("rss_mib", "RSS at rest MiB", 1),
                ("pss_mib", "PSS at rest MiB", 1),
                ("idle_rss_kib", "RSS KiB/connection", 2),
                ("idle_pss_kib", "PSS KiB/connection", 2),
                ("redirected", "redirected", 0),
            ],
        }
    }

    /// The figure that says what a row costs its proxy.
    pub(crate) fn cost(self) -> Option<&'static str> {
        match self {
            Self::Connect | Self::Memory => None,
            Self::Keepalive | Self::Close | Self::Originate => Some("cpu_us"),
            Self::Download => Some("cpu_s_per_gib"),
        }
    }

    /// The rows of this workload, in the order of a round.
    pub(crate) fn rows(self, against: &[Row]) -> Vec<Row> {
        let direct = [Row::Direct].into_iter().filter(|row| against.contains(row));
        let peers = against.iter().copied().filter(|row| *row != Row::Direct);
        match self {
            Self::Connect => Vec::new(),
            Self::Keepalive | Self::Close | Self::Originate | Self::Download => {
                direct.chain([Row::Interceptor]).chain(peers).collect()
            }
            Self::Memory => [Row::Interceptor].into_iter().chain(peers).collect(),
        }
    }

    /// Starts the row afresh and measures it once.
    pub(crate) fn measure(
        self,
        lab: &Lab,
        places: &Places,
        row: Row,
        effort: Effort,
    ) -> anyhow::Result<Measured> {
        match self {
            Self::Connect => bail!("its rows take turns: see Ways::round"),
            Self::Keepalive => {
                requests(Running::carrying(lab, places, row, Job::Plain)?, row, Job::Plain, false, effort)
            }
            Self::Close => {
                requests(Running::carrying(lab, places, row, Job::Plain)?, row, Job::Plain, true, effort)
            }
            Self::Originate => requests(
                Running::carrying(lab, places, row, Job::Originate)?,
                row,
                Job::Originate,
                false,
                effort,
            ),
            Self::Download => download(Running::carrying(lab, places, row, Job::Opaque)?, row, effort),
            Self::Memory => memory(Running::carrying(lab, places, row, Job::Plain)?, row),
        }
    }
}

/// One row of one round.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) seen: Seen,
    pub(crate) figures: Figures,
}

fn requests(
    mut running: Running<'_>,
    row: Row,
    job: Job,
    close: bool,
    effort: Effort,
) -> anyhow::Result<Measured> {
    let dir = interceptor_tests::Dir::new()?;
    let script = dir.write("report.lua", WRK_SCRIPT)?;
    let mut arguments = vec!["-t1".to_owned(), format!("-c{CONNECTIONS}"), format!("-d{}s", effort.seconds)];
    arguments.extend(["-H".to_owned(), format!("Host: {HOST}")]);
    if close {
        arguments.extend(["-H".to_owned(), "Connection: close".to_owned()]);
    }
    arguments.extend(["-s".to_owned(), script.display().to_string(), row::url(row, job)]);
    warm_up(&mut running, row, job)?;

    let window = Window::begin([&running])?;
    let answer = running.client.order(&Order::Wrk { arguments })?;
    let seen = window.end([&running])?;
    let Answer::Loaded(load) = answer else { bail!("the client answered {answer:?}") };
    ensure!(load.errors == 0.0, "{} of {} requests failed", load.errors, load.requests);
    ensure!(load.requests > 0.0, "no request was answered");
    if close && row != Row::Direct {
        ensure!(
            seen.redirected >= load.requests,
            "only {} of {} connections were redirected",
            seen.redirected,
            load.requests
        );
    }
    check_redirected(row, &seen, CONNECTIONS)?;
    let mut figures = Figures::from([
        ("requests_per_s", load.requests / load.duration_us * 1e6),
        ("p50_us", load.p50_us),
        ("p99_us", load.p99_us),
        ("redirected", seen.redirected),
    ]);
    seen.cpu_per(load.requests, &mut figures);
    Ok(Measured { seen, figures })
}

/// The first requests of a fresh process resolve, connect and allocate: they are not measured.
fn warm_up(running: &mut Running<'_>, row: Row, job: Job) -> anyhow::Result<()> {
    let job = if row == Row::Direct { Job::Plain } else { job };
    let order = Order::Hold { address: row::address(row, job), host: HOST.to_owned(), count: CONNECTIONS };
    running.client.order(&order).map(drop)
}

fn download(mut running: Running<'_>, row: Row, effort: Effort) -> anyhow::Result<Measured> {
    let order = |bytes| Order::Download { address: row::address(row, Job::Opaque), bytes };
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

fn memory(mut running: Running<'_>, row: Row) -> anyhow::Result<Measured> {
    let window = Window::begin([&running])?;
    let rest = cpu::memory(&running.proxy)?;
    let order = |count| Order::Hold { address: row::address(row, Job::Plain), host: HOST.to_owned(), count };
    // What the first requests bring in once (code pages, pools) belongs to no connection.
    running.client.order(&order(CONNECTIONS))?;
    let warm = cpu::memory(&running.proxy)?;
    running.client.order(&order(IDLE))?;
    let idle = cpu::memory(&running.proxy)?;
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
