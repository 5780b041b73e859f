//! The internet of the tests: one namespace with the DNS server, httpbin and the web sites, shared by the tests
//! of a binary. Pods are joined to it one by one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use anyhow::{Context, anyhow};

use crate::{Ca, Dns, Httpbin, Netns, Nginx, Origin, Pod, Record};

/// What a site shows on port 443.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    Right,
    Expired,
    WrongName,
    /// Right, and it asks for the client's certificate.
    ClientCertificate,
}

/// A web site: its names, where it listens, and how it answers.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) names: &'static [&'static str],
    pub(crate) addresses: Vec<IpAddr>,
    /// Plain HTTP ports; one that redirects answers 301 to https.
    pub(crate) plain: Option<&'static [u16]>,
    pub(crate) redirects: bool,
    pub(crate) tls: Tls,
    pub(crate) forwards_to: Option<SocketAddr>,
}

const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));
const HTTPBIN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Name, plain port behaviour (301 or not), TLS, addresses.
const SITES: &[(&[&str], bool, Tls, &[&str])] = &[
    (&["www.google.com", "google.com"], false, Tls::Right, &["203.0.113.20", "2001:db8::20"]),
    (&["edition.cnn.com"], true, Tls::Right, &["203.0.113.30"]),
    (&["www.apple.com", "apple.com"], true, Tls::Right, &["203.0.113.40"]),
    (&["www.aliyun.com"], true, Tls::Right, &["203.0.113.50"]),
    (&["hbchen.com"], false, Tls::Right, &["203.0.113.51"]),
    (&["six.test"], false, Tls::Right, &["2001:db8::4"]),
    (&["neighbour-six.test"], false, Tls::Right, &["2001:db8::5"]),
    (&["ilb.test"], false, Tls::Right, &["10.10.0.4"]),
    (&["neighbour.test"], false, Tls::Right, &["10.10.0.5"]),
    (&["expired.test"], false, Tls::Expired, &["203.0.113.60"]),
    (&["wrong-name.test"], false, Tls::WrongName, &["203.0.113.61"]),
    (&["mutual.test"], false, Tls::ClientCertificate, &["203.0.113.62"]),
];

#[derive(Debug)]
pub struct World {
    pub outside: Netns,
    pub ca: Ca,
    pub dns: Dns,
    pub nginx: Nginx,
    pub httpbin: Httpbin,
    pods: AtomicU16,
    origins: AtomicU8,
}

impl World {
    /// The world of this test binary, made by whoever asks first.
    pub fn shared() -> anyhow::Result<&'static Self> {
        static WORLD: OnceLock<Result<World, String>> = OnceLock::new();
        WORLD
            .get_or_init(|| World::new().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("the world could not be made: {error}"))
    }

    pub fn new() -> anyhow::Result<Self> {
        let outside = Netns::new()?;
        // Any address of these prefixes is this machine's: servers may listen on whatever they like.
        outside.ip("route add local 203.0.113.0/24 dev lo\n\
                    route add local 198.51.100.0/24 dev lo\n\
                    route add local 10.10.0.0/24 dev lo\n\
                    route add local 2001:db8::/64 dev lo\n")?;
        outside.sysctl("net/ipv6/ip_nonlocal_bind", "1")?;
        // Closed connections by the ten thousand must not eat the ports of the next test.
        outside.sysctl("net/ipv4/tcp_max_syn_backlog", "8192")?;
        outside.sysctl("net/core/somaxconn", "8192")?;

        let mut sites = Vec::new();
        let mut records = vec![Record::new("httpbin.org", &HTTPBIN.to_string(), 30)?];
        for (names, redirects, tls, addresses) in SITES {
            let addresses = addresses
                .iter()
                .map(|address| address.parse().with_context(|| format!("not an address: {address}")))
                .collect::<anyhow::Result<Vec<IpAddr>>>()?;
            for name in *names {
                for address in &addresses {
                    records.push(Record { name: (*name).to_owned(), address: *address, ttl_s: 30 });
                }
            }
            let plain: Option<&[u16]> = Some(&[80, 8080]);
            sites.push(Site { names, addresses, plain, redirects: *redirects, tls: *tls, forwards_to: None });
        }
        let httpbin_address = SocketAddr::from((HTTPBIN, 80));
        sites.push(Site {
            names: &["httpbin.org"],
            addresses: vec![HTTPBIN.into()],
            plain: None,
            redirects: false,
            tls: Tls::Right,
            forwards_to: Some(httpbin_address),
        });

        let ca = Ca::new("throw-away root")?;
        let dns = Dns::start(&outside, DNS, &records)?;
        let httpbin = Httpbin::start(&outside, httpbin_address)?;
        let nginx = Nginx::start(&outside, &sites, &ca)?;
        Ok(Self { outside, ca, dns, nginx, httpbin, pods: AtomicU16::new(1), origins: AtomicU8::new(1) })
    }

    /// A new pod, with the world's DNS server in its resolv.conf.
    pub fn pod(&self) -> anyhow::Result<Pod> {
        self.pod_with_dns(&[self.dns.address])
    }

    /// A new pod that reaches the others that are joined, over IPv4.
    pub fn joined_pod(&self) -> anyhow::Result<Pod> {
        self.joined_pod_with_dns(&[self.dns.address])
    }

    pub fn joined_pod_with_dns(&self, servers: &[IpAddr]) -> anyhow::Result<Pod> {
        let pod = self.pod_with_dns(servers)?;
        pod.join(&self.outside)?;
        Ok(pod)
    }

    pub fn pod_with_dns(&self, servers: &[IpAddr]) -> anyhow::Result<Pod> {
        Pod::new(&self.outside, self.pods.fetch_add(1, Ordering::Relaxed), servers, self.ca.root())
    }

    /// An address that nobody else has, with the name `ip-198-51-100-N.ip.test`.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.origins.fetch_add(1, Ordering::Relaxed))
    }

    /// A TCP server of our own at a new address: `serve` gets each connection, on a thread of its own.
    pub fn origin(
        &self,
        port: u16,
        serve: impl Fn(std::net::TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> anyhow::Result<Origin> {
        Origin::start(&self.outside, SocketAddr::from((self.address(), port)), serve)
    }
}
