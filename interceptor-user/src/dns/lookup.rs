//! One name asked for, through the hosts file and hickory-resolver.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, Resolver, TokioResolver};

use super::schedule::Outcome;
use super::{Options, Servers};

/// Of one try; there are two.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a name, with its search list and all tries.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(6);
/// How long IPv4 addresses wait for IPv6 ones (of servers that never answer for AAAA).
const IPV6_GRACE: Duration = Duration::from_millis(500);
/// More are not looked at: they would not be connected to either.
const ADDRESSES_MAX: usize = 128;

/// Whether anybody could be asked for it.
pub(super) fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| !label.is_empty() && label.len() <= 63)
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.')
}

/// The system's configuration at one time.
pub(super) struct Lookups {
    resolver: TokioResolver,
    /// Each server by itself, when there are several: hickory takes one server's SERVFAIL or REFUSED for
    /// the answer of all.
    single: Vec<TokioResolver>,
    servers: Vec<IpAddr>,
    search: Vec<Name>,
    hosts: Hosts,
    /// For error messages.
    asked: String,
}

impl Lookups {
    /// # Errors
    /// Says what of the configuration can't be used.
    pub(super) fn load(options: &Options) -> Result<Self, String> {
        let (config, mut resolver_options) = match &options.servers {
            Servers::Fixed(servers) => {
                let servers = servers.iter().map(|server| name_server(*server)).collect();
                (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
            }
            Servers::ResolvConf(path) => {
                let content = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                parse_resolv_conf(content).map_err(|error| format!("{}: {error}", path.display()))?
            }
        };
        let servers = config.name_servers().to_vec();
        let asked: Vec<_> = servers.iter().map(display).collect();
        let search = config.search().to_vec();

        resolver_options.timeout = resolver_options.timeout.min(TRY_TIMEOUT);
        resolver_options.attempts = 1; // once more
        resolver_options.cache_size = 0; // what is cached is known above
        resolver_options.use_hosts_file = ResolveHosts::Never; // it is asked first, below
        resolver_options.max_active_requests = 1024; // bounded above
        let resolver = build(servers.clone(), resolver_options.clone())?;
        resolver_options.attempts = 0;
        let single = match &servers[..] {
            [_] => Vec::new(),
            several => several
                .iter()
                .map(|server| build(vec![server.clone()], resolver_options.clone()))
                .collect::<Result<_, _>>()?,
        };
        let servers = servers.iter().map(|server| server.ip).collect();
        Ok(Self { resolver, single, servers, search, hosts: hosts(options), asked: asked.join(", ") })
    }

    pub(super) fn servers(&self) -> Vec<IpAddr> {
        self.servers.clone()
    }

    pub(super) async fn resolve(&self, host: &str) -> Outcome {
        match tokio::time::timeout(LOOKUP_TIMEOUT, self.resolve_candidates(host)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Outcome::Failed(format!("no answer in time, asked {}", self.asked).into()),
        }
    }

    async fn resolve_candidates(&self, host: &str) -> Outcome {
        let name = match Name::from_str_relaxed(host) {
            Ok(name) => name,
            Err(error) => return Outcome::Failed(error.to_string().into()),
        };
        let mut nothing = Outcome::Nothing { ttl: None };
        for candidate in self.candidates(name) {
            match self.resolve_name(candidate).await {
                outcome @ (Outcome::Addresses { .. } | Outcome::Failed(_)) => return outcome,
                outcome @ Outcome::Nothing { .. } => nothing = outcome,
            }
        }
        nothing
    }

    /// Names with a dot are tried as they are first, whatever `ndots` says: `ndots:5` of Kubernetes would
    /// have every external name asked for five times.
    fn candidates(&self, mut name: Name) -> Vec<Name> {
        let searched = self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut candidates: Vec<_> = searched.collect();
        name.set_fqdn(true);
        let at = if name.num_labels() > 1 { 0 } else { candidates.len() };
        candidates.insert(at, name);
        candidates
    }

    async fn resolve_name(&self, name: Name) -> Outcome {
        let from_file: Vec<_> = [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)))
            .collect();
        if !from_file.is_empty() {
            return addresses(from_file.iter().flat_map(|lookup| lookup.answers()));
        }
        let mut ipv4 = std::pin::pin!(self.query(name.clone(), RecordType::A));
        let mut ipv6 = std::pin::pin!(self.query(name, RecordType::AAAA));
        tokio::select! {
            first = &mut ipv4 => {
                if let Outcome::Addresses { .. } = first {
                    let second = tokio::time::timeout(IPV6_GRACE, ipv6).await;
                    return merged(first, second.unwrap_or(Outcome::Nothing { ttl: None }));
                }
                merged(first, ipv6.await)
            }
            second = &mut ipv6 => merged(ipv4.await, second),
        }
    }

    async fn query(&self, name: Name, kind: RecordType) -> Outcome {
        let mut answered = self.resolver.lookup(name.clone(), kind).await;
        for server in &self.single {
            if let Err(NetError::Dns(DnsError::ResponseCode(_))) = &answered {
                answered = server.lookup(name.clone(), kind).await;
            }
        }
        match answered {
            Ok(lookup) => addresses(lookup.answers()),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                Outcome::Nothing { ttl: none.negative_ttl.map(|ttl| Duration::from_secs(ttl.into())) }
            }
            Err(error) => Outcome::Failed(format!("{error}, asked {}", self.asked).into()),
        }
    }
}

fn build(servers: Vec<NameServerConfig>, options: ResolverOpts) -> Result<TokioResolver, String> {
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(|error| error.to_string())
}

fn display(server: &NameServerConfig) -> String {
    match server.connections.first().map(|connection| connection.port) {
        Some(port) if port != 53 => SocketAddr::new(server.ip, port).to_string(),
        _ => server.ip.to_string(),
    }
}

/// The addresses among the records, which may have led there by CNAMEs.
fn addresses<'a>(records: impl IntoIterator<Item = &'a Record>) -> Outcome {
    let mut ttl = u32::MAX;
    let mut addresses = Vec::new();
    for record in records {
        ttl = ttl.min(record.ttl);
        if addresses.len() < ADDRESSES_MAX {
            addresses.extend(record.data.ip_addr());
        }
    }
    if addresses.is_empty() {
        return Outcome::Nothing { ttl: None };
    }
    Outcome::Addresses { addresses: addresses.into(), ttl: Duration::from_secs(ttl.into()) }
}

/// Both families' outcomes as one. That one family has nothing says nothing while the other one failed.
fn merged(ipv4: Outcome, ipv6: Outcome) -> Outcome {
    match (ipv4, ipv6) {
        (
            Outcome::Addresses { addresses: ipv4, ttl },
            Outcome::Addresses { addresses: ipv6, ttl: other_ttl },
        ) => {
            let addresses: Vec<IpAddr> = ipv4.iter().chain(&*ipv6).copied().collect();
            Outcome::Addresses { addresses: addresses.into(), ttl: ttl.min(other_ttl) }
        }
        (found @ Outcome::Addresses { .. }, Outcome::Nothing { .. } | Outcome::Failed(_))
        | (Outcome::Nothing { .. } | Outcome::Failed(_), found @ Outcome::Addresses { .. }) => found,
        (failed @ Outcome::Failed(_), Outcome::Nothing { .. } | Outcome::Failed(_))
        | (Outcome::Nothing { .. }, failed @ Outcome::Failed(_)) => failed,
        (Outcome::Nothing { ttl }, Outcome::Nothing { ttl: other_ttl }) => {
            Outcome::Nothing { ttl: ttl.into_iter().chain(other_ttl).min() }
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    server.connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// A hosts file that isn't there or can't be read is an empty one.
fn hosts(options: &Options) -> Hosts {
    let mut hosts = Hosts::default();
    let read = File::open(&options.hosts_file).and_then(|file| hosts.read_hosts_conf(file));
    if let Err(error) = read
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %options.hosts_file.display(), %error, "hosts file: can't be read");
    }
    hosts
}
