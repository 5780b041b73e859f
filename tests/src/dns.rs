//! A DNS server (dnsmasq) in a namespace, with records and TTLs of our choice. Dropping it stops it; one started
//! later at the same address takes over.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::{Daemon, Dir, Netns, unique};

/// A name, its address, and for how many seconds an answer may be kept.
#[derive(Debug, Clone)]
pub struct Record {
    pub name: String,
    pub address: IpAddr,
    pub ttl_s: u32,
}

impl Record {
    pub fn new(name: &str, address: &str, ttl_s: u32) -> anyhow::Result<Self> {
        let address = address.parse().with_context(|| format!("not an address: {address}"))?;
        Ok(Self { name: name.to_owned(), address, ttl_s })
    }
}

#[derive(Debug)]
pub struct Dns {
    daemon: Daemon,
    dir: Dir,
    pub address: IpAddr,
}

impl Dns {
    /// Besides the records, `ip-203-0-113-7.ip.test` means 203.0.113.7, likewise 198.51.100.0/24.
    pub fn start(netns: &Netns, address: IpAddr, records: &[Record]) -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        let mut lines = vec![
            "no-resolv".to_owned(),
            "no-hosts".to_owned(),
            "bind-interfaces".to_owned(),
            format!("listen-address={address}"),
            "user=root".to_owned(),
            format!("pid-file={}", dir.join("pid").display()),
            "log-queries".to_owned(),
            "log-facility=-".to_owned(),
            "local=/#/".to_owned(),
            "local-ttl=30".to_owned(),
            "no-round-robin".to_owned(),
            "synth-domain=ip.test,203.0.113.0/24,ip-".to_owned(),
            "synth-domain=ip.test,198.51.100.0/24,ip-".to_owned(),
            "host-record=ready.ip.test,127.0.0.1".to_owned(),
        ];
        // One host-record for each (name, TTL): a second line for the name would replace the address.
        for record in records {
            lines.push(format!("host-record={},{},{}", record.name, record.address, record.ttl_s));
        }
        let config = dir.write("dnsmasq.conf", lines.join("\n") + "\n")?;
        let mut command = netns.command("dnsmasq");
        command.arg("--keep-in-foreground").arg(format!("--conf-file={}", config.display()));
        let log = dir.join(&unique());
        let daemon = Daemon::spawn(&mut command, &log)?
            .wait_ready("dnsmasq", || netns.enter(|| answers(address)).is_ok_and(|answer| answer.is_ok()))?;
        Ok(Self { daemon, dir, address })
    }

    /// How often this name was asked for, either family.
    pub fn queries(&self, name: &str) -> usize {
        let suffix = format!("] {name} from ");
        self.daemon.said().lines().filter(|line| line.contains("query[") && line.contains(&suffix)).count()
    }

    /// Where it writes its files.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }
}

/// Whether a query for ready.ip.test is answered.
fn answers(server: IpAddr) -> anyhow::Result<()> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).context("cannot make a socket")?;
    socket.set_read_timeout(Some(Duration::from_millis(200))).context("cannot set a timeout")?;
    let mut query = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["ready", "ip", "test"] {
        query.push(u8::try_from(label.len()).context("label too long")?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&query, (server, 53)).context("cannot ask")?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).context("no answer")?;
    ensure!(length > 12 && answer[..2] == query[..2] && answer[7] == 1, "not the answer");
    Ok(())
}
