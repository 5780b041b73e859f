//! The workloads: their names, what a round of each is, and which figures it gives.

use crate::carry::{self, Keep};
use crate::connect::Ways;
use crate::job::Job;
use crate::lab::Lab;
use crate::node;
use crate::report::Figures;
use crate::row::{Places, Row, Running};
use crate::scale;
use crate::window::Seen;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Workload {
    /// connect() to a server in the same namespace, redirected or not
    Connect,
    /// HTTP/1.1 on 32 connections that stay open
    Keepalive,
    /// Connections that stay open, and each request written to the access log
    Log,
    /// HTTP/1.1, a connection for each request
    Close,
    /// HTTP/1.1 from the client, TLS to the server
    Originate,
    /// The same with a full TLS handshake for each request
    HandshakeFull,
    /// The same with a resumed one
    HandshakeResumed,
    /// HTTP/1.1 from the client, HTTP/2 over TLS to the server
    OriginateH2,
    /// The same to an egress gateway, which ends the TLS: two proxies
    Gateway,
    /// HTTP/1.1, a thousand requests a second on one connection
    Paced,
    /// Opaque TCP connections of 64 bytes, one after the other
    Exchange,
    /// One opaque TCP stream from the server
    Download,
    /// Memory of the proxy, at rest and with idle connections
    Memory,
    /// One agent: ten thousand connections of five pods, and of two hundred
    Pods,
    /// Ten services, and ten thousand
    Scale,
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

impl Workload {
    pub(crate) const ALL: [Self; 15] = [
        Self::Connect,
        Self::Keepalive,
        Self::Log,
        Self::Close,
        Self::Originate,
        Self::HandshakeFull,
        Self::HandshakeResumed,
        Self::OriginateH2,
        Self::Gateway,
        Self::Paced,
        Self::Exchange,
        Self::Download,
        Self::Memory,
        Self::Pods,
        Self::Scale,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Keepalive => "keepalive",
            Self::Log => "log",
            Self::Close => "close",
            Self::Originate => "originate",
            Self::HandshakeFull => "handshake-full",
            Self::HandshakeResumed => "handshake-resumed",
            Self::OriginateH2 => "originate-h2",
            Self::Gateway => "gateway",
            Self::Paced => "paced",
            Self::Exchange => "exchange",
            Self::Download => "download",
            Self::Memory => "memory",
            Self::Pods => "pods",
            Self::Scale => "scale",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Connect => "connect() to a server in the same namespace",
            Self::Keepalive => "HTTP/1.1, 32 connections kept open",
            Self::Log => "HTTP/1.1, 32 connections kept open, with the access log in a file",
            Self::Close => "HTTP/1.1, a connection for each request (32 at a time)",
            Self::Originate => {
                "TLS origination: HTTP/1.1 in, HTTP/1.1 over TLS out, 32 connections kept open"
            }
            Self::HandshakeFull => "TLS origination, the server closes after each response: full handshakes",
            Self::HandshakeResumed => {
                "TLS origination, the server closes after each response: resumed sessions"
            }
            Self::OriginateH2 => {
                "TLS origination: HTTP/1.1 in, HTTP/2 over TLS out, 32 connections kept open"
            }
            Self::Gateway => {
                "Two hops: HTTP/1.1 in, HTTP/2 in mutual TLS to an egress gateway, HTTP/1.1 out, 32 connections kept open"
            }
            Self::Paced => "HTTP/1.1, 1,000 requests a second on one connection",
            Self::Exchange => "Opaque TCP: connect, 64 bytes from the server, close; one after the other",
            Self::Download => "Opaque TCP, one stream from the server",
            Self::Memory => "Memory of the proxy, and for each of 1,000 idle HTTP connections",
            Self::Pods => "HTTP/1.1 through one agent, 10,000 connections kept open",
            Self::Scale => {
                "Many services, each with a ServiceEntry, a VirtualService and a DestinationRule; HTTP/1.1 as above"
            }
        }
    }

    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            Self::Connect => &[
                ("connect_p50_us", "connect() p50 µs", 2),
                ("added_us", "added µs", 2),
                ("connect_p99_us", "p99 µs", 1),
            ],
            Self::Keepalive | Self::Log | Self::Close | Self::Originate | Self::OriginateH2 => &[
                ("requests_per_s", "requests/s", 0),
                ("p50_us", "p50 µs", 0),
                ("p99_us", "p99 µs", 0),
                ("cpu_us", "proxy CPU µs/request", 1),
                ("cpu_user_us", "user", 1),
                ("cpu_system_us", "system", 1),
                RATIO,
                ("redirected", "redirected", 0),
            ],
            Self::Gateway => &[
                ("requests_per_s", "requests/s", 0),
                ("p50_us", "p50 µs", 0),
                ("p99_us", "p99 µs", 0),
                ("cpu_us", "both proxies' CPU µs/request", 1),
                ("gateway_cpu_us", "the gateway's", 1),
                ("cpu_user_us", "user", 1),
                ("cpu_system_us", "system", 1),
                RATIO,
                ("redirected", "redirected", 0),
            ],
            Self::HandshakeFull | Self::HandshakeResumed => &[
                ("requests_per_s", "requests/s", 0),
                ("p50_us", "p50 µs", 0),
                ("p99_us", "p99 µs", 0),
                ("cpu_us", "proxy CPU µs/request", 1),
                ("cpu_user_us", "user", 1),
                ("cpu_system_us", "system", 1),
                RATIO,
                ("resumed_percent", "resumed %", 1),
                ("redirected", "redirected", 0),
            ],
            Self::Paced | Self::Exchange => &[
                ("p50_us", "p50 µs", 0),
                ("p99_us", "p99 µs", 0),
                ("cpu_us", "proxy CPU µs each", 1),
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
            Self::Pods => &[
                ("requests_per_s", "requests/s", 0),
                ("p50_us", "p50 µs", 0),
                ("p99_us", "p99 µs", 0),
                ("cpu_us", "agent CPU µs/request", 1),
                ("cpu_user_us", "user", 1),
                ("cpu_system_us", "system", 1),
                ("of_few", "÷ few pods", 2),
                ("redirected", "redirected", 0),
            ],
            Self::Scale => &[
                ("start_ms", "start ms", 0),
                ("rss_mib", "RSS MiB", 1),
                ("pss_mib", "PSS MiB", 1),
                ("change_ms", "a changed route in effect after ms", 0),
                ("change_cpu_ms", "CPU ms/change", 0),
                ("added_ms", "an added service in effect after ms", 0),
                ("added_cpu_ms", "CPU ms/addition", 0),
                ("ruled_ms", "a changed DestinationRule in effect after ms", 0),
                ("ruled_cpu_ms", "CPU ms/DestinationRule", 0),
                ("requests_per_s", "requests/s", 0),
                ("cpu_us", "CPU µs/request", 1),
                ("cpu_user_us", "user", 1),
            ],
        }
    }

    /// The figure that says what a row costs its proxy.
    pub(crate) fn cost(self) -> Option<&'static str> {
        match self {
            Self::Connect | Self::Memory | Self::Scale => None,
            Self::Keepalive
            | Self::Log
            | Self::Close
            | Self::Originate
            | Self::HandshakeFull
            | Self::HandshakeResumed
            | Self::OriginateH2
            | Self::Gateway
            | Self::Paced
            | Self::Exchange
            | Self::Pods => Some("cpu_us"),
            Self::Download => Some("cpu_s_per_gib"),
        }
    }

    /// Whether a row has a part in it.
    fn includes(self, row: Row) -> bool {
        match self {
            // wrk speaks no HTTP/2, and nginx none to servers.
            Self::OriginateH2 => row != Row::Direct && row != Row::Nginx,
            Self::Gateway => matches!(row, Row::Interceptor | Row::OneWorker | Row::Envoy),
            // Without a proxy there is nothing to tell.
            Self::HandshakeFull => row != Row::Direct,
            Self::Memory | Self::Log | Self::HandshakeResumed => row != Row::Direct && row != Row::OneWorker,
            // One connection keeps one thread busy.
            Self::Paced => row != Row::OneWorker,
            Self::Connect
            | Self::Keepalive
            | Self::Close
            | Self::Originate
            | Self::Exchange
            | Self::Download
            | Self::Pods
            | Self::Scale => true,
        }
    }

    /// One round: every row once, each started afresh, and what came of it.
    pub(crate) fn round(
        self,
        stage: &Stage,
        against: &[Row],
        effort: Effort,
    ) -> Vec<(String, anyhow::Result<Measured>)> {
        let direct = [Row::Direct].into_iter().filter(|row| against.contains(row));
        let peers = against.iter().copied().filter(|row| *row != Row::Direct);
        let rows =
            direct.chain([Row::Interceptor, Row::OneWorker]).chain(peers).filter(|row| self.includes(*row));
        let each = |measure: &dyn Fn(Row) -> anyhow::Result<Measured>| {
            rows.map(|row| (row.to_string(), measure(row))).collect()
        };
        let start = |row, job| Running::carrying(&stage.lab, &stage.places, row, job);
        let requests = |row, job, keep| carry::requests(start(row, job)?, row, job, keep, effort);
        match self {
            Self::Connect => stage.ways.round(&stage.lab, effort.connects),
            Self::Keepalive => each(&|row| requests(row, Job::Plain, Keep::Open)),
            Self::Log => each(&|row| requests(row, Job::Logged, Keep::Open)),
            Self::Close => each(&|row| requests(row, Job::Plain, Keep::Close)),
            Self::Originate => each(&|row| requests(row, Job::Originate, Keep::Open)),
            Self::HandshakeFull => each(&|row| requests(row, Job::HandshakeFull, Keep::Open)),
            Self::HandshakeResumed => each(&|row| requests(row, Job::HandshakeResumed, Keep::Open)),
            Self::OriginateH2 => each(&|row| requests(row, Job::Http2, Keep::Open)),
            Self::Gateway => each(&|row| requests(row, Job::Gateway, Keep::Open)),
            Self::Paced => each(&|row| carry::paced(start(row, Job::Plain)?, row, effort)),
            Self::Exchange => each(&|row| carry::exchanges(start(row, Job::Opaque)?, row, effort)),
            Self::Download => each(&|row| carry::download(start(row, Job::Opaque)?, row, effort)),
            Self::Memory => each(&|row| carry::memory(start(row, Job::Plain)?, row)),
            Self::Pods => node::round(&stage.lab, &stage.places, effort),
            Self::Scale => scale::SERVICES
                .iter()
                .map(|count| {
                    let measured = scale::measure(&stage.lab, &stage.places, *count, effort);
                    (format!("{count} services"), measured)
                })
                .collect(),
        }
    }
}

/// Everything that rows need and that outlives them.
#[derive(Debug)]
pub(crate) struct Stage {
    lab: Lab,
    places: Places,
    ways: Ways,
}

impl Stage {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        Ok(Self { places: Places::new(&lab)?, ways: Ways::new(&lab)?, lab })
    }
}

/// One row of one round.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) seen: Seen,
    pub(crate) figures: Figures,
}
