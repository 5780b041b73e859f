//! `interceptor dump`, run while no agent does: what it shows of pods, policies, connections and counters.

use std::{
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, bail};
use interceptor_common::{pod::PodState, policy::SCHEMA};
use interceptor_tests::{BpfFs, binary, eventually};
use interceptor_user::{
    datapath::{CgroupId, Datapath, PodRecord},
    workload::{IncludeIpRanges, RedirectPolicy},
};
use serde_json::{Value, json};

use crate::bed::{Bed, OWN_V4, OWN_V6};

/// The bed, described as a pod, with its agent dead.
struct Dead {
    bed: Bed,
    pins: PathBuf,
    cgroup: CgroupId,
}

impl Dead {
    fn new(policy: &RedirectPolicy) -> anyhow::Result<Self> {
        let mut bed = Bed::pinned(policy)?;
        let pins = bed.pins.as_ref().context("a pinned bed")?.pins();
        let cgroup = CgroupId::of(bed.workload_cgroup.open()?)?;
        let record = PodRecord {
            uid: "0d6f7a3c".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            netns_cookie: bed.cookie,
            state: PodState::Enrolled,
            note: String::new(),
        };
        bed.datapath.describe(cgroup, &record)?;
        let host_network = PodRecord {
            name: "exporter".to_owned(),
            netns_cookie: 0,
            state: PodState::HostNetwork,
            note: "it says so itself".to_owned(),
            ..record
        };
        bed.datapath.describe(CgroupId(1), &host_network)?;
        bed.datapath = Datapath::load()?;
        Ok(Self { bed, pins, cgroup })
    }
}

fn interceptor(arguments: &[&str], pins: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(arguments).arg("--pins").arg(pins);
    Ok(command)
}

fn dump(what: &str, pins: &Path) -> anyhow::Result<Value> {
    let output = interceptor_tests::output(&mut interceptor(&["dump", what, "-o", "json"], pins)?)?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn error(arguments: &[&str], pins: &Path) -> anyhow::Result<String> {
    let output = interceptor(arguments, pins)?.stdin(Stdio::null()).output()?;
    assert!(!output.status.success() && output.stdout.is_empty());
    Ok(String::from_utf8(output.stderr)?)
}

#[test]
fn pods_with_policy_listener_and_state() -> anyhow::Result<()> {
    let dead = Dead::new(&RedirectPolicy::default())?;
    let listener = dead.bed.listener;
    let expected = json!([
        {
            "pod": "shop/exporter", "uid": "0d6f7a3c", "state": "host_network", "note": "it says so itself",
            "hooks": false, "guard": false, "policy": null, "listener": null, "netnsCookie": null, "cgroupId": 1
        },
        {
            "pod": "shop/web", "uid": "0d6f7a3c", "state": "enrolled", "note": null,
            "hooks": true, "guard": false, "policy": dead.bed.policy,
            "listener": {
                "port": listener.port, "ipv4Addresses": listener.spread_v4, "ipv6Ports": listener.ports_v6,
                "dnsPort": null
            },
            "netnsCookie": dead.bed.cookie, "cgroupId": dead.cgroup.0
        },
    ]);
    assert_eq!(dump("pods", &dead.pins)?, expected);
    Ok(())
}

#[test]
fn policies_with_ranges_and_ports() -> anyhow::Result<()> {
    let policy = RedirectPolicy {
        exclude_ip_ranges: vec!["192.0.2.0/24".parse()?, "2001:db8::/32".parse()?],
        include_ip_ranges: IncludeIpRanges::List(vec!["0.0.0.0/0".parse()?]),
        exclude_ports: vec![22],
        include_ports: vec![8443, 443],
        interface_ranges: [("198.51.100.0/24".parse()?, true), ("198.51.100.64/26".parse()?, false)]
            .into_iter()
            .collect(),
        ..RedirectPolicy::default()
    };
    let dead = Dead::new(&policy)?;
    let expected = json!([{
        "policy": dead.bed.policy, "pods": ["shop/web"],
        "includeIpRanges": ["0.0.0.0/0"], "excludeIpRanges": ["192.0.2.0/24", "2001:db8::/32"],
        "excludeInterfaceRanges": ["198.51.100.0/24", "!198.51.100.64/26"],
        "includePorts": [443, 8443], "excludePorts": [22],
        "enforced": false, "nameServers": [], "ownAddresses": [OWN_V4, OWN_V6]
    }]);
    assert_eq!(dump("policies", &dead.pins)?, expected);
    Ok(())
}

/// Both ends as the process sees them, in both families, also from an IPv6 socket to an IPv4 destination.
#[test]
fn redirects_with_source_and_original_destination() -> anyhow::Result<()> {
    let dead = Dead::new(&RedirectPolicy::default())?;
    assert_eq!(dump("redirects", &dead.pins)?, json!([]));
    let asked = ["192.0.2.9:80", "[::ffff:198.51.100.7]:443", "[2001:db8::7]:443"];
    let mut clients = Vec::new();
    for to in asked {
        clients.push(dead.bed.connect(to)?);
    }
    let mut expected: Vec<Value> = Vec::new();
    for (client, destination) in clients.iter().zip(["192.0.2.9:80", "198.51.100.7:443", "[2001:db8::7]:443"])
    {
        let source = client.local_addr()?.as_socket().context("an address")?;
        let source = std::net::SocketAddr::new(source.ip().to_canonical(), source.port());
        expected.push(json!({
            "pod": "shop/web", "source": source.to_string(), "destination": destination, "state": "ESTABLISHED",
            "policy": dead.bed.policy, "netnsCookie": dead.bed.cookie
        }));
    }
    assert!(expected.iter().all(|row| !row["source"].to_string().contains("127.0.0.1")), "{expected:?}");
    assert_eq!(dump("redirects", &dead.pins)?, json!(expected));

    drop(clients);
    for _ in asked {
        dead.bed.accept()?;
    }
    eventually("closed connections to be gone", || {
        dump("redirects", &dead.pins).is_ok_and(|rows| rows == json!([]))
    })
}

#[test]
fn stats_with_verdict_and_reason() -> anyhow::Result<()> {
    let policy = RedirectPolicy { exclude_ports: vec![22], ..Default::default() };
    let dead = Dead::new(&policy)?;
    for to in ["192.0.2.9:80", "192.0.2.9:80", "192.0.2.9:22"] {
        dead.bed.start_connect(to)?;
    }
    let row = |verdict, reason, count| {
        json!({
            "pod": "shop/web", "verdict": verdict, "reason": reason, "count": count, "netnsCookie": dead.bed.cookie
        })
    };
    let expected = json!([row("bypassed", "excluded_port", 1), row("redirected", "included_range", 2)]);
    assert_eq!(dump("stats", &dead.pins)?, expected);
    Ok(())
}

struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    fn new(what: &str, pins: &Path) -> anyhow::Result<Self> {
        let mut command = interceptor(&["dump", what, "--watch"], pins)?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("a pipe")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    /// The next line that has `part`.
    fn expect(&mut self, part: &str) -> anyhow::Result<()> {
        for line in self.lines.by_ref() {
            if line?.contains(part) {
                return Ok(());
            }
        }
        bail!("no line with {part:?}")
    }
}

/// Ends by itself when its reader does, though nothing changes any more.
#[test]
fn watched_it_shows_what_changes_until_nobody_reads() -> anyhow::Result<()> {
    let dead = Dead::new(&RedirectPolicy::default())?;
    let mut watching = Watching::new("stats", &dead.pins)?;
    watching.expect("VERDICT")?;
    dead.bed.connect("192.0.2.9:80")?;
    watching.expect("included_range   1")?;
    dead.bed.connect("192.0.2.9:80")?;
    watching.expect("included_range   2")?;
    let Watching { mut child, lines } = watching;
    drop(lines);
    let mut status = None;
    let ended = eventually("dump to end", || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    child.kill()?;
    child.wait()?;
    ended?;
    assert!(status.context("a status")?.success());
    Ok(())
}

#[test]
fn the_table_for_people() -> anyhow::Result<()> {
    let dead = Dead::new(&RedirectPolicy::default())?;
    let output = interceptor_tests::output(&mut interceptor(&["dump", "pods"], &dead.pins)?)?;
    let text = String::from_utf8(output.stdout)?;
    let expected = format!("shop/web        enrolled       yes     no      {}        ", dead.bed.policy);
    assert!(text.starts_with("POD             STATE          HOOKS   GUARD   POLICY   LISTENER"), "{text}");
    assert!(text.contains(&expected), "{text}");
    Ok(())
}

#[test]
fn where_nothing_is_pinned_it_says_so() -> anyhow::Result<()> {
    let file_system = BpfFs::new()?;
    let pins = file_system.pins();
    for what in ["pods", "policies", "redirects", "stats"] {
        let error = error(&["dump", what], &pins)?;
        assert!(error.contains(&format!("nothing is pinned in {}", pins.display())), "{error}");
        assert!(error.contains("--pins"), "{error}");
    }
    std::fs::create_dir_all(pins.join("v999"))?;
    let error = error(&["dump", "pods"], &pins)?;
    assert!(error.contains(&format!("is of schema v999, and this version reads v{SCHEMA}")), "{error}");
    Ok(())
}
