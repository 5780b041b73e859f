//! Where rows are measured: the outside world in one namespace, and for each way of redirection a place, which is
//! a namespace joined to it by a cable. A row's client and proxy share a place. Places without iptables rules have
//! no connection tracking either, which hooks into every packet once a rule needs it.

use std::fmt::Write;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, ensure};
use interceptor_tests::{Ca, Netns, Origin, Veth};

use crate::web::Web;

/// The only server of the outside world.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Its name, in Host headers, certificates and the registry.
pub(crate) const HOST: &str = "bench.test";
/// What clients ask for in clear and proxies send on as TLS.
pub(crate) const ORIGINATED: u16 = 8080;
pub(crate) const OPAQUE: u16 = 9000;
/// Where peers listen for what iptables redirects.
pub(crate) const PROXY: u16 = 15001;
/// The user and group of the peers, which iptables leaves alone.
pub(crate) const PROXY_ID: u32 = 1337;

/// What iptables does in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    None,
    /// As istio-iptables writes them for a sidecar's outbound side.
    Istio,
    /// The least there is: so many RETURN rules, then REDIRECT.
    Bare {
        excludes: usize,
    },
}

#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) netns: Netns,
    pub(crate) address: Ipv4Addr,
    rules: Rules,
    _cable: Veth,
}

/// The outside world, with its servers.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) outside: Netns,
    pub(crate) ca: Ca,
    pub(crate) web: Web,
    _source: Origin,
    places: AtomicU16,
}

impl Lab {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let outside = Netns::new()?;
        tune(&outside)?;
        // From place to place, too.
        outside.sysctl("net/ipv4/ip_forward", "1")?;
        outside.ip(&format!("route add local {SERVER}/32 dev lo\n"))?;
        let ca = Ca::new("throw-away root")?;
        let web = Web::start(&outside, &ca)?;
        let source = Origin::start(&outside, SocketAddr::from((SERVER, OPAQUE)), send_what_is_asked)?;
        Ok(Self { outside, ca, web, _source: source, places: AtomicU16::new(0) })
    }

    /// A new place.
    pub(crate) fn place(&self, rules: Rules) -> anyhow::Result<Place> {
        let number = self.places.fetch_add(1, Ordering::Relaxed);
        let netns = Netns::new()?;
        tune(&netns)?;
        let cable = Veth::new(&netns, "eth0", &self.outside, &format!("place{number}"))?;
        // Below the ranges that are excluded somewhere: enough for some thousands.
        let [high, low] = number.to_be_bytes();
        let subnet = format!("10.{}.{low}", 66 + high);
        self.outside.ip(&format!("addr add {subnet}.1/24 dev place{number}\n"))?;
        netns.ip(&format!("addr add {subnet}.2/24 dev eth0\nroute add default via {subnet}.1\n"))?;
        if let Some(text) = rules.text() {
            restore(&netns, &text)?;
        }
        let address = Ipv4Addr::new(10, 66 + high, low, 2);
        Ok(Place { netns, address, rules, _cable: cable })
    }
}

impl Place {
    /// Forgets every connection tracked here: one that is remembered is not redirected anew.
    pub(crate) fn flush(&self) -> anyhow::Result<()> {
        if self.rules == Rules::None {
            return Ok(());
        }
        interceptor_tests::run(self.netns.command("conntrack").arg("-F"))
    }

    /// How many connections were accepted in this namespace so far: as clients and proxies are the only programs
    /// here, those that reached the proxy.
    pub(crate) fn accepted(&self) -> anyhow::Result<f64> {
        let text = self.netns.enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
        let text = text.context("cannot read /proc/net/snmp")?;
        let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
        let column =
            tcp.next().and_then(|names| names.split_whitespace().position(|name| name == "PassiveOpens"));
        let value = column.zip(tcp.next()).and_then(|(column, line)| line.split_whitespace().nth(column));
        value.and_then(|text| text.parse().ok()).context("no PassiveOpens in /proc/net/snmp")
    }

    pub(crate) fn answers(&self, address: SocketAddrV4) -> bool {
        self.netns.enter(|| TcpStream::connect(address)).is_ok_and(|socket| socket.is_ok())
    }
}

impl Rules {
    /// For iptables-restore.
    fn text(self) -> Option<String> {
        let mut text = String::from("*nat\n");
        let written = match self {
            Self::None => return None,
            Self::Istio => write!(
                text,
                ":ISTIO_OUTPUT - [0:0]\n:ISTIO_REDIRECT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\n\
                 -A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN\n\
                 -A ISTIO_OUTPUT -o lo -m owner ! --uid-owner {PROXY_ID} -j RETURN\n\
                 -A ISTIO_OUTPUT -m owner --uid-owner {PROXY_ID} -j RETURN\n\
                 -A ISTIO_OUTPUT -o lo -m owner ! --gid-owner {PROXY_ID} -j RETURN\n\
                 -A ISTIO_OUTPUT -m owner --gid-owner {PROXY_ID} -j RETURN\n\
                 -A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN\n-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n\
                 -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {PROXY}\nCOMMIT\n"
            ),
            Self::Bare { excludes } => {
                for range in exclude_ranges(excludes) {
                    text.push_str(&format!("-A OUTPUT -d {range} -j RETURN\n"));
                }
                write!(text, "-A OUTPUT -p tcp -d {SERVER}/32 -j REDIRECT --to-ports {PROXY}\nCOMMIT\n")
            }
        };
        written.is_ok().then_some(text)
    }
}

/// Ranges that nothing measured here is in.
pub(crate) fn exclude_ranges(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("10.{}.{}.0/24", 100 + number / 250, number % 250))
}

fn restore(netns: &Netns, text: &str) -> anyhow::Result<()> {
    let mut child = netns
        .command("iptables-restore")
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run iptables-restore")?;
    let mut stdin = child.stdin.take().context("iptables-restore has no input")?;
    stdin.write_all(text.as_bytes()).context("cannot talk to iptables-restore")?;
    drop(stdin);
    let status = child.wait().context("cannot wait for iptables-restore")?;
    ensure!(status.success(), "iptables-restore: {status} for:\n{text}");
    Ok(())
}

/// Room for ten thousands of connections that were closed, above the ports of the proxies.
fn tune(netns: &Netns) -> anyhow::Result<()> {
    netns.sysctl("net/ipv4/ip_local_port_range", "20000 65535")?;
    netns.sysctl("net/core/somaxconn", "8192")?;
    netns.sysctl("net/ipv4/tcp_max_syn_backlog", "8192")
}

/// Reads a number of eight bytes, sends so many, and closes.
fn send_what_is_asked(mut socket: TcpStream) -> std::io::Result<()> {
    let mut wanted = [0; 8];
    socket.read_exact(&mut wanted)?;
    let mut left = u64::from_be_bytes(wanted);
    let buffer = vec![0x5a; 256 << 10];
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        socket.write_all(buffer.get(..part).unwrap_or_default())?;
        left -= u64::try_from(part).unwrap_or_default();
    }
    Ok(())
}

/// A command that becomes `program` as the user that iptables leaves alone.
pub(crate) fn exempt(place: &Place, program: &str) -> Command {
    let id = PROXY_ID.to_string();
    let mut command = place.netns.command("setpriv");
    // The group is enough for the rules; the user stays, as the program may lie where only root can read.
    command.args(["--regid", &id, "--clear-groups", program]);
    command
}
