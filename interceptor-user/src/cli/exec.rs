//! `interceptor exec`: its flags, turned into settings.

use std::ffi::OsString;
use std::path::PathBuf;

use super::client::{ClientFlags, SpiffeFlags};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::settings::{ExecSettings, ExternalProxy, UserRequest, parse_user};
use crate::snapshot::{AccessLogEncoding, OutboundTrafficPolicy};
use crate::telemetry::AccessLogTarget;
use crate::workload::{
    Cidr, IncludeIpRanges, ParseError, RedirectPolicy, parse_exclude_ip_ranges, parse_include_ip_ranges,
    parse_ports,
};

const REDIRECTION: &str = "What is redirected";
const OUTPUT: &str = "Output";
const PROCESS: &str = "The command";
const EXTERNAL: &str = "A proxy of your own";

/// Run one command with its outbound TCP connections intercepted
///
/// CMD runs in a cgroup of its own. Every TCP connection that it, its threads and its children open is taken over
/// in the kernel and handed to a proxy inside this process, which applies the resources given with -c. Loopback,
/// the host's own addresses and what the exclude flags name are left alone. Other processes are not touched.
///
/// CMD runs as the user who called sudo (or as --user says), keeps its terminal, receives the signals sent to
/// interceptor, and its exit code is ours. Files named by -c are watched: a change takes effect within a second,
/// for new connections and requests.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Exit codes:\n  \
        CMD's own; 128+N when signal N ended it; 127 when CMD is not found, 126 when it can't be executed\n  \
        1 when interception could not be set up: CMD was not started, stderr says what is missing\n  \
        2 when the command line is wrong\n\n\
        What CMD leaves running:\n  \
        Nothing: processes that outlive CMD are killed when it exits, because they would go on without interception. \
        If interceptor itself is killed, even with SIGKILL, connections are refused from then on, CMD and all its \
        descendants are killed, and the cgroup is removed.\n\n\
        Needs root, or the capabilities BPF, NET_ADMIN, PERFMON and a cgroup2 directory to write to.\n\n\
        Examples:\n  \
        # One request by the rules of a registry, with the access log on the terminal\n  \
        sudo interceptor exec -c registry.yaml --access-log - -- curl -sS http://httpbin.org/get\n\n  \
        # A shell that may reach registered hosts only\n  \
        sudo interceptor exec -c config/ --outbound-traffic-policy REGISTRY_ONLY -- bash\n\n  \
        # Two address ranges and a port stay direct\n  \
        sudo interceptor exec -c registry.yaml --exclude-ip-ranges 10.0.0.0/8,192.168.0.0/16 \\\n    \
            --exclude-ports 5432 -- ./app\n\n  \
        # Through Istio's egress gateway (TLS mode ISTIO_MUTUAL), with an identity of the mesh from files\n  \
        sudo interceptor exec -c config/ --identity-dir /etc/certs -- ./app\n  \
        sudo interceptor exec -c config/ --spiffe-socket unix:///run/spire/agent.sock -- ./app\n\n  \
        # Resources from standard input, counters to a file\n  \
        kubectl get serviceentries -o yaml | sudo interceptor exec -c - --stats stats.json -- ./app\n\n  \
        # Connections handed to a proxy of your own that reads SO_ORIGINAL_DST, instead of to ours\n  \
        sudo interceptor exec --external-proxy 15001 --external-proxy-cgroup /sys/fs/cgroup/envoy -- ./app")]
pub(super) struct Arguments {
    /// Resources to apply: a YAML file, a directory of them, or - for standard input; may be repeated
    ///
    /// Kinds that are not ours are skipped with a note. A mistake is reported with file, line and column, and
    /// leaves everything else working. Without -c the registry is empty.
    #[arg(short, long, value_name = "FILE-OR-DIR|-", value_hint = clap::ValueHint::AnyPath)]
    config: Vec<PathBuf>,

    /// Istio's mesh configuration (MeshConfig), as a YAML file
    #[arg(long, value_name = "FILE")]
    mesh_config: Option<PathBuf>,

    /// What becomes of hosts that no ServiceEntry names; overrides the mesh configuration
    #[arg(long, value_name = "POLICY", value_parser = policies())]
    outbound_traffic_policy: Option<OutboundTrafficPolicy>,

    #[command(flatten)]
    client: ClientFlags,

    #[command(flatten)]
    spiffe: SpiffeFlags,

    /// Destinations left alone: CIDRs separated by commas, IPv4 and IPv6
    #[arg(long, value_name = "CIDR,…", value_parser = parse_ranges, help_heading = REDIRECTION)]
    exclude_ip_ranges: Option<Ranges>,

    /// Destinations taken over: * for all, or CIDRs separated by commas; excludes win [default: *]
    #[arg(long, value_name = "*|CIDR,…", value_parser = parse_include_ip_ranges, help_heading = REDIRECTION)]
    include_ip_ranges: Option<IncludeIpRanges>,

    /// Destination ports left alone, separated by commas; wins over everything else
    #[arg(long, value_name = "PORT,…", value_parser = parse_port_list, help_heading = REDIRECTION)]
    exclude_ports: Option<Ports>,

    /// Destination ports taken over whatever --include-ip-ranges says; excludes win
    #[arg(long, value_name = "PORT,…", value_parser = parse_port_list, help_heading = REDIRECTION)]
    include_ports: Option<Ports>,

    /// Learn names from the command's own DNS answers (port 53, UDP and TCP), which pass unchanged
    ///
    /// TCP services that share a port are then told apart by name, and names that do not fit their address are counted.
    #[arg(long, help_heading = REDIRECTION)]
    capture_dns: bool,

    /// Refuse SNI and Host that do not fit the address asked for, where that address is used (resolution NONE, unknown
    /// hosts), and TCP connections that can't be told apart
    ///
    /// The same as the annotation egress.interceptor.io/policy=strict.
    #[arg(long)]
    strict: bool,

    /// Threads that carry connections [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256).map(usize::from))]
    workers: Option<usize>,

    /// Where the access log goes: a file (appended to), or - for standard output
    ///
    /// Off unless given here or by the mesh configuration's accessLogFile.
    #[arg(long, value_name = "FILE|-", help_heading = OUTPUT)]
    access_log: Option<String>,

    /// How access log lines are written; overrides the mesh configuration's accessLogEncoding
    #[arg(long, value_name = "FORMAT", value_parser = formats(), help_heading = OUTPUT)]
    access_log_format: Option<AccessLogEncoding>,

    /// Write counters as JSON on exit: what was redirected, bypassed (by which reason) and refused; - is stdout
    #[arg(long, value_name = "FILE|-", help_heading = OUTPUT)]
    stats: Option<PathBuf>,

    /// Who runs CMD, if not the user who called sudo: a name or id, with the groups of that user or the one given
    #[arg(long, value_name = "NAME|UID[:GID]", value_parser = parse_user, help_heading = PROCESS)]
    user: Option<UserRequest>,

    /// Hand connections to an unmodified proxy on this port of 127.0.0.1 and [::1], which asks for SO_ORIGINAL_DST
    ///
    /// Our own proxy is not started; -c and the access log flags do nothing then. The proxy must be listening
    /// already, and must have opened its listener while in the cgroup given by --external-proxy-cgroup.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..),
        requires = "external_proxy_cgroup",
        conflicts_with_all = ["config", "mesh_config", "outbound_traffic_policy", "access_log",
            "access_log_format", "capture_dns", "strict"],
        help_heading = EXTERNAL)]
    external_proxy: Option<u16>,

    /// The cgroup2 directory of that proxy, for example /sys/fs/cgroup/envoy
    #[arg(long, value_name = "DIR", requires = "external_proxy", help_heading = EXTERNAL)]
    external_proxy_cgroup: Option<PathBuf>,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// A whole list as one value: clap would take a bare `Vec` for a flag that may be repeated.
#[derive(Debug, Clone)]
struct Ranges(Vec<Cidr>);

#[derive(Debug, Clone)]
struct Ports(Vec<u16>);

fn parse_ranges(text: &str) -> Result<Ranges, ParseError> {
    parse_exclude_ip_ranges(text).map(Ranges)
}

fn parse_port_list(text: &str) -> Result<Ports, ParseError> {
    parse_ports(text).map(Ports)
}

pub(super) fn policies() -> impl TypedValueParser<Value = OutboundTrafficPolicy> {
    PossibleValuesParser::new([
        PossibleValue::new("ALLOW_ANY")
            .help("Hosts that no ServiceEntry names pass through (Istio's default)"),
        PossibleValue::new("REGISTRY_ONLY").help("Hosts that no ServiceEntry names are blocked"),
        PossibleValue::new("ALLOW_ANY_DYNAMIC_DNS")
            .help("As ALLOW_ANY, but plain HTTP goes where its Host leads, whatever the address"),
    ])
    .map(|name| match name.as_str() {
        "REGISTRY_ONLY" => OutboundTrafficPolicy::RegistryOnly,
        "ALLOW_ANY_DYNAMIC_DNS" => OutboundTrafficPolicy::AllowAnyDynamicDns,
        _ => OutboundTrafficPolicy::AllowAny,
    })
}

pub(super) fn formats() -> impl TypedValueParser<Value = AccessLogEncoding> {
    PossibleValuesParser::new([
        PossibleValue::new("text").help("Istio's default line"),
        PossibleValue::new("json").help("One JSON object a line, with Istio's keys"),
    ])
    .map(|name| match name.as_str() {
        "json" => AccessLogEncoding::Json,
        _ => AccessLogEncoding::Text,
    })
}

impl Arguments {
    pub(super) fn tell_misnamed(&self) {
        self.client.tell_misnamed();
    }

    /// Annotations say what is redirected where no flag does.
    pub(super) fn into_settings(self) -> ExecSettings {
        // A value that can't be read was refused with the flag.
        let annotated = self.client.redirect_policy().unwrap_or_default();
        let mut client = self.client.client();
        client.policy.strict |= self.strict;
        client.learned_names |= self.capture_dns;
        ExecSettings {
            client,
            spiffe_socket: self.spiffe.spiffe_socket,
            config: self.config,
            mesh_config: self.mesh_config,
            outbound_traffic_policy: self.outbound_traffic_policy,
            redirect: RedirectPolicy {
                include_ip_ranges: self.include_ip_ranges.unwrap_or(annotated.include_ip_ranges),
                exclude_ip_ranges: self.exclude_ip_ranges.map_or(annotated.exclude_ip_ranges, |list| list.0),
                include_ports: self.include_ports.map_or(annotated.include_ports, |list| list.0),
                exclude_ports: self.exclude_ports.map_or(annotated.exclude_ports, |list| list.0),
                ..annotated
            },
            access_log: self.access_log.as_deref().map(AccessLogTarget::new),
            access_log_format: self.access_log_format,
            user: self.user,
            external_proxy: self
                .external_proxy
                .zip(self.external_proxy_cgroup)
                .map(|(port, cgroup)| ExternalProxy { port, cgroup }),
            stats: self.stats,
            workers: self.workers,
            command: self.command,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Client;
    use crate::resource::ClientPolicy;
    use crate::workload::parse_interfaces;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn settings(line: &str) -> Result<ExecSettings, String> {
        let words = ["exec"].into_iter().chain(line.split(' '));
        Line::try_parse_from(words)
            .map(|line| line.arguments.into_settings())
            .map_err(|error| error.render().to_string())
    }

    #[test]
    fn every_flag_arrives_in_the_settings() {
        let given = settings(
            "-c a.yaml --config - --mesh-config m.yaml --outbound-traffic-policy REGISTRY_ONLY \
             --exclude-ip-ranges 10.0.0.0/8,::/0 --include-ip-ranges 1.0.0.0/8 --exclude-ports 1,2 --include-ports 3 \
             --namespace shop --labels app=a --annotations traffic.sidecar.istio.io/excludeOutboundPorts=9 \
             --annotations egress.interceptor.io/policy=strict --spiffe-socket unix:///run/agent.sock \
             --capture-dns --access-log - --access-log-format json --user me:5 --stats s.json --workers 2 -- curl -c --user x",
        );
        let expected = ExecSettings {
            config: vec!["a.yaml".into(), "-".into()],
            mesh_config: Some("m.yaml".into()),
            client: Client {
                labels: [("app".into(), "a".into())].into(),
                policy: ClientPolicy { strict: true, ..ClientPolicy::default() },
                learned_names: true,
                ..Client::in_namespace("shop")
            },
            spiffe_socket: Some("/run/agent.sock".into()),
            outbound_traffic_policy: Some(OutboundTrafficPolicy::RegistryOnly),
            redirect: RedirectPolicy {
                exclude_ip_ranges: parse_exclude_ip_ranges("10.0.0.0/8,::/0").unwrap(),
                include_ip_ranges: parse_include_ip_ranges("1.0.0.0/8").unwrap(),
                exclude_ports: vec![1, 2],
                include_ports: vec![3],
                ..RedirectPolicy::default()
            },
            access_log: Some(AccessLogTarget::Stdout),
            access_log_format: Some(AccessLogEncoding::Json),
            user: Some(parse_user("me:5").unwrap()),
            external_proxy: None,
            stats: Some("s.json".into()),
            workers: Some(2),
            command: ["curl", "-c", "--user", "x"].map(OsString::from).to_vec(),
        };
        assert_eq!(given, Ok(expected));
    }

    #[test]
    fn without_flags_everything_is_redirected_and_nothing_configured() {
        let given = settings("-- true").unwrap();
        assert_eq!(given.redirect, RedirectPolicy::default());
        assert_eq!((given.config.len(), given.access_log, given.user), (0, None, None));
    }

    #[test]
    fn annotations_say_what_no_flag_says() {
        let given = settings(
            "--annotations traffic.sidecar.istio.io/excludeOutboundPorts=9 \
             --annotations traffic.sidecar.istio.io/includeOutboundIPRanges=10.0.0.0/8 \
             --annotations traffic.sidecar.istio.io/excludeOutboundIPRanges=10.1.0.0/16 \
             --annotations traffic.sidecar.istio.io/excludeInterfaces=net1 \
             --exclude-ip-ranges 10.2.0.0/16 -- true",
        );
        let expected = RedirectPolicy {
            include_ip_ranges: parse_include_ip_ranges("10.0.0.0/8").unwrap(),
            exclude_ip_ranges: parse_exclude_ip_ranges("10.2.0.0/16").unwrap(),
            include_ports: vec![],
            exclude_ports: vec![9],
            exclude_interfaces: parse_interfaces("net1").unwrap(),
            ..RedirectPolicy::default()
        };
        assert_eq!(given.unwrap().redirect, expected);
    }

    #[test]
    fn a_proxy_of_ones_own_comes_with_its_cgroup_and_alone() {
        let given = settings("--external-proxy 15001 --external-proxy-cgroup /c -- true").unwrap();
        assert_eq!(given.external_proxy, Some(ExternalProxy { port: 15001, cgroup: "/c".into() }));
        for (line, expected) in [
            ("--external-proxy 15001 -- true", "--external-proxy-cgroup"),
            ("--external-proxy-cgroup /c -- true", "--external-proxy"),
            ("--external-proxy 0 --external-proxy-cgroup /c -- true", "0 is not in 1..=65535"),
            ("--external-proxy 1 --external-proxy-cgroup /c -c x -- true", "cannot be used with"),
        ] {
            let error = settings(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn mistakes_say_what_was_expected() {
        for (line, expected) in [
            ("-c x", "<CMD>"),
            ("true", "--"),
            ("--outbound-traffic-policy allow -- true", "ALLOW_ANY"),
            ("--access-log-format xml -- true", "json"),
            ("--exclude-ip-ranges 10.0.0.1 -- true", "10.0.0.1/32"),
            ("--exclude-ports http -- true", "decimal number"),
            ("--user a:b -- true", "group id"),
            ("--spiffe-socket /run/agent.sock -- true", "unix:///run/spire/agent.sock"),
            ("--spiffe-socket unix:///s --identity-dir d -- true", "--identity-dir"),
        ] {
            let error = settings(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
