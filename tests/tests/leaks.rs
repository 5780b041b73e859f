//! Pods come and go for as long as the agent lives: nothing of them may stay. Alone in its process, because it counts
//! what the process has.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use interceptor_tests::{Netns, Origin, echo_heads, eventually, read_head};
use interceptor_user::dns::Resolver;
use interceptor_user::proxy::{Configured, Intercepted, ProxiedWorkload, Proxy, ProxyOptions, WorkloadId};
use interceptor_user::snapshot::{AccessLogEncoding, Listener, OutboundTrafficPolicy, RouteTable, Snapshot};
use interceptor_user::telemetry::AccessLog;

/// Workloads that there are at one time.
const AT_ONCE: usize = 20;
/// How much more memory may be resident after a thousand workloads than after the first hundred, in KiB.
const GROWTH_MAX_KIB: usize = 1024;
/// What the proxy's two threads may keep for good: their own network namespace, to come back to, and empty pipes to
/// splice through, as many as they needed at one time.
const KEPT_FILES: usize = 2 * (1 + 2 * AT_ONCE);

fn open_files() -> anyhow::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

fn resident_kib() -> anyhow::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

struct Bed {
    netns: Netns,
    proxy: Proxy,
    http: Origin,
    silent: Origin,
}

impl Bed {
    fn new() -> anyhow::Result<Self> {
        let netns = Netns::new()?;
        let http = Origin::start(&netns, "127.0.0.1:80".parse()?, echo_heads)?;
        let silent = Origin::start(&netns, "127.0.0.1:9000".parse()?, |mut stream| {
            stream.read_to_end(&mut Vec::new()).map(drop)
        })?;
        let proxy = Proxy::start(ProxyOptions {
            resolver: Resolver::start(Default::default())?,
            access_log: AccessLog::open(Default::default(), Arc::new(AccessLogEncoding::Text.into()))?,
            threads: 2,
        })?;
        Ok(Self { netns, proxy, http, silent })
    }

    /// A configuration as a reload makes one: with clusters' runtimes of its own.
    fn configured(&self) -> Configured {
        let policy = OutboundTrafficPolicy::AllowAny;
        let mut snapshot = Snapshot::empty(policy);
        let mut listener = Listener::new("0.0.0.0_80".into(), policy);
        listener.http = Some(Arc::new(RouteTable::new("80".into(), policy)));
        snapshot.by_port.insert(80, Arc::new(listener));
        self.proxy.configure(snapshot)
    }

    fn add(
        &self,
        configured: &Configured,
        original_dst: SocketAddr,
    ) -> anyhow::Result<(WorkloadId, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let id = self.proxy.add(ProxiedWorkload {
            listeners: vec![listener],
            intercepted: Arc::new(move |_| Ok(Some(Intercepted { original_dst, source: None }))),
            netns: Some(Arc::new(File::open(self.netns.path())?.into())),
            configured: configured.clone(),
            connections_max: usize::MAX,
            room: Arc::default(),
            shares: None,
            peers: None,
            learned: Some(Arc::default()),
            source: Arc::default(),
        })?;
        Ok((id, address))
    }

    /// Some workloads with a kept connection to a server, and some with bytes on their way, all of them removed.
    fn cycle(&self) -> anyhow::Result<()> {
        let configured = self.configured();
        let mut workloads = Vec::new();
        for number in 0..AT_ONCE {
            let is_http = number % 2 == 0;
            let server = if is_http { self.http.address } else { self.silent.address };
            let (id, address) = self.add(&configured, server)?;
            let mut client = TcpStream::connect(address)?;
            client.set_read_timeout(Some(Duration::from_secs(10)))?;
            if is_http {
                write!(client, "GET / HTTP/1.1\r\nHost: anybody.example.com\r\n\r\n")?;
                assert!(read_head(&mut client)?.starts_with("HTTP/1.1 200 "));
            } else {
                client.write_all(b"some bytes")?;
            }
            workloads.push((id, client));
        }
        for (id, _client) in &workloads {
            assert!(self.proxy.remove(*id, Duration::ZERO));
        }
        for (id, mut client) in workloads {
            // Broken off, whichever way it shows.
            drop(client.read_to_end(&mut Vec::new()));
            eventually("the workload is gone", || self.proxy.counters_of(id).is_none())?;
        }
        Ok(())
    }
}

#[test]
fn nothing_stays_of_a_thousand_workloads() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let files = open_files()? + KEPT_FILES;
    for _ in 0..100 / AT_ONCE {
        bed.cycle()?;
    }
    let resident = resident_kib()?;
    for _ in 0..1000 / AT_ONCE {
        bed.cycle()?;
    }
    eventually(&format!("{files} files open, as before"), || open_files().is_ok_and(|now| now <= files))?;
    let grown = resident_kib()?.saturating_sub(resident);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more are resident than after the first hundred");
    Ok(())
}
