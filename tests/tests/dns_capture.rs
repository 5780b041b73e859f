//! Names learned from the command's own DNS answers: the answers pass unchanged, TCP services on one port are told apart,
//! and a strict policy refuses names that do not fit the address asked for.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};

use interceptor_tests::{Dir, Dns, Finished, Origin, Record, World};

/// Sends queries by hand and prints each answer in hexadecimal: one argument for each, `PROTO SERVER HEX`.
const ASK: &str = "
import socket, struct, sys
for line in sys.argv[1:]:
    proto, server, query = line.split(' ')
    query = bytes.fromhex(query)
    kind = socket.SOCK_DGRAM if proto == 'udp' else socket.SOCK_STREAM
    s = socket.socket(socket.AF_INET6 if ':' in server else socket.AF_INET, kind)
    s.settimeout(2 if proto == 'udp' else 5)
    s.connect((server, 53))
    try:
        if proto == 'udp':
            s.send(query)
            print(s.recvfrom(65535)[0].hex(), s.getpeername()[:2])
        else:
            s.sendall(struct.pack('>H', len(query)) + query)
            f = s.makefile('rb')
            print(f.read(struct.unpack('>H', f.read(2))[0]).hex())
    except OSError as error:
        print(error)
";

/// Connects to each `HOST:PORT` in turn and prints what the server says first.
const GREET: &str = "
import socket, sys
for to in sys.argv[1:]:
    host, port = to.rsplit(':', 1)
    try:
        print(socket.create_connection((host, int(port)), 10).recv(100).decode() or 'closed')
    except OSError as error:
        print(type(error).__name__)
";

/// A query in hexadecimal.
fn query(name: &str, kind: u16, edns: bool) -> String {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or_default());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    if edns {
        bytes.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn greeter(world: &World, port: u16, says: &'static str) -> anyhow::Result<Origin> {
    world.origin(port, move |mut socket| socket.write_all(says.as_bytes()))
}

fn service_entry(name: &str, year: u32, port: u16) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: {name}, creationTimestamp: '{year}-01-01T00:00:00Z'}}\nspec:\n  hosts: [{name}]\n  \
         ports: [{{number: {port}, name: p, protocol: TCP}}]\n  resolution: DNS\n"
    )
}

fn lines(run: &Finished) -> Vec<String> {
    run.text().lines().map(str::to_owned).collect()
}

fn python<'a>(script: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [&["python3", "-c", script], arguments].concat()
}

#[test]
fn answers_pass_unchanged() -> anyhow::Result<()> {
    let world = World::shared()?;
    let server = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 120));
    let server6: IpAddr = "2001:db8::120".parse()?;
    // More than fits into 512 bytes: truncated without EDNS, whole with it and over TCP.
    let mut records: Vec<Record> = (1..=60_u8)
        .map(|last| Record {
            name: "many.test".into(),
            address: Ipv4Addr::new(198, 18, 0, last).into(),
            ttl_s: 7,
        })
        .collect();
    records.push(Record::new("one.test", "198.18.1.1", 60)?);
    records.push(Record::new("one.test", "2001:db8::77", 60)?);
    let _dns = Dns::start(&world.outside, server, &records)?;
    let _dns6 = Dns::start(&world.outside, server6, &records)?;
    let pod = world.pod_with_dns(&[server])?;
    let mut questions = Vec::new();
    for (name, kind, edns) in [
        ("one.test", 1, false),
        ("one.test", 28, true),
        ("one.test", 65, true),
        ("many.test", 1, false),
        ("many.test", 1, true),
        ("absent.test", 1, true),
    ] {
        for to in [format!("udp {server}"), format!("udp {server6}"), format!("tcp {server}")] {
            questions.push(format!("{to} {}", query(name, kind, edns)));
        }
    }
    // No DNS at all, half of it, and a server that is not there.
    questions.push(format!("udp {server} 00"));
    questions.push(format!("udp {server} {}", &query("one.test", 1, false)[..30]));
    questions.push(format!("udp 203.0.113.121 {}", query("one.test", 1, false)));
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let command = python(ASK, &questions);

    let mut plain = pod.command(command[0]);
    let plain = plain.args(&command[1..]).output()?;
    let plain = String::from_utf8(plain.stdout)?;
    let captured = pod.interceptor()?.flag("--capture-dns").stats().run(&command)?;
    captured.expect_code(0)?;
    // A closed port says so at once to who asks it himself; the relay hears of it and is silent.
    let same = |text: &str| text.replace("[Errno 111] Connection refused", "timed out");
    for ((question, with), without) in
        questions.iter().zip(same(&captured.text()).lines()).zip(same(&plain).lines())
    {
        assert_eq!(with, without, "{question}");
    }
    assert_eq!((captured.text().lines().count(), plain.lines().count()), (questions.len(), questions.len()));
    let counters = captured.stats()?;
    assert_eq!(counters["kernel"]["redirected"]["name_server"], 15, "{counters:#}");
    let proxy = &counters["proxy"];
    assert!(proxy["dns_learned"].as_u64() > Some(100), "{counters:#}");
    assert_eq!(proxy["dns_queries"], 15, "{counters:#}");
    Ok(())
}

#[test]
fn tcp_services_on_one_port_are_told_apart() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (older, younger) = (greeter(world, 7001, "older")?, greeter(world, 7001, "younger")?);
    let config = service_entry(&older.name(), 2020, 7001) + &service_entry(&younger.name(), 2021, 7001);
    let pod = world.pod()?;
    let hosts =
        [format!("{}:7001", younger.name()), format!("{}:7001", older.name()), younger.address.to_string()];
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let command = python(GREET, &hosts);

    let with = pod.interceptor()?.config(&config)?.registry_only().flag("--capture-dns").run(&command)?;
    assert_eq!(lines(&with), ["younger", "older", "younger"], "{}", with.stderr);
    let clusters: Vec<String> = with.lines()?.into_iter().map(|line| line.cluster).collect();
    let cluster = |origin: &Origin| format!("outbound|7001||{}", origin.name());
    assert_eq!(clusters, [cluster(&younger), cluster(&older), cluster(&younger)]);
    assert!(with.stderr.contains("are told apart by the names"), "{}", with.stderr);

    // As with Istio: the oldest has the port.
    let without = pod.interceptor()?.config(&config)?.registry_only().run(&command)?;
    assert_eq!(lines(&without), ["older", "older", "older"], "{}", without.stderr);
    assert!(without.stderr.contains("is left out"), "{}", without.stderr);

    // Nobody asked for a name of this address.
    let address = younger.address.to_string();
    let nameless = python(GREET, &[&address]);
    for (flags, expected) in
        [(&["--capture-dns"][..], "older"), (&["--capture-dns", "--strict"], "ConnectionResetError")]
    {
        let run = pod.interceptor()?.config(&config)?.flags(flags).run(&nameless)?;
        assert_eq!(lines(&run), [expected], "{flags:?} {}", run.stderr);
        if flags.contains(&"--strict") {
            let line = run.line()?;
            assert_eq!(
                (line.cluster.as_str(), line.flags.as_str()),
                ("BlackHoleCluster", "UAEX"),
                "{}",
                line.line
            );
            assert!(line.line.contains(" no_learned_name_tells_services_apart "), "{}", line.line);
        }
    }
    Ok(())
}

/// The answer over TCP tells them apart, too.
#[test]
fn names_are_learned_over_tcp() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (older, younger) = (greeter(world, 7002, "older")?, greeter(world, 7002, "younger")?);
    let config = service_entry(&older.name(), 2020, 7002) + &service_entry(&younger.name(), 2021, 7002);
    let pod = world.pod()?;
    let ask = format!("tcp {} {}", world.dns.address, query(&younger.name(), 1, true));
    let script = format!("{ASK}\nsys.argv[1:] = ['{}']\n{GREET}", younger.address);
    let run =
        pod.interceptor()?.config(&config)?.flag("--capture-dns").stats().run(&python(&script, &[&ask]))?;
    assert_eq!(lines(&run).last().map(String::as_str), Some("younger"), "{} {}", run.text(), run.stderr);
    let counters = run.stats()?;
    assert_eq!(
        (&counters["proxy"]["dns_learned"], &counters["proxy"]["dns_queries"]),
        (&1.into(), &0.into())
    );
    Ok(())
}

/// musl asks all servers at once from one socket, and takes the first answer by its sender.
#[test]
fn musl_resolves() -> anyhow::Result<()> {
    let world = World::shared()?;
    let origin = greeter(world, 7003, "hello")?;
    let dir = Dir::new()?;
    let program = dir.join("resolve");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/data/resolve.c");
    let built =
        std::process::Command::new("musl-gcc").args(["-static", "-o"]).arg(&program).arg(source).status();
    assert!(built.is_ok_and(|status| status.success()), "musl-gcc (Debian package musl-tools) does not work");
    // The first never answers, so that it matters whose answer the second's seems to be.
    let silent = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 121));
    let pod = world.pod_with_dns(&[silent, world.dns.address])?;
    let name = origin.name();
    let run = pod.interceptor()?.flag("--capture-dns").stats().run(&[
        program.as_os_str(),
        name.as_ref(),
        "7003".as_ref(),
    ])?;
    run.expect_code(0)?;
    assert_eq!(run.text(), format!("{} hello\n", origin.address.ip()));
    let counters = run.stats()?;
    assert!(counters["proxy"]["dns_learned"].as_u64() >= Some(1), "{counters:#}");
    Ok(())
}

#[test]
fn strict_refuses_a_server_name_that_does_not_fit() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // Where www.google.com is, and where www.apple.com is.
    let forged = ["--resolve", "www.apple.com:443:203.0.113.20", "-k", "https://www.apple.com/"];
    let honest = ["https://www.apple.com/"];
    let wildcard = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: w}\nspec:\n  \
        hosts: ['*.apple.com']\n  ports: [{number: 443, name: tls, protocol: TLS}]\n  resolution: NONE\n";
    for capture in [&["--capture-dns"][..], &[]] {
        for (config, registry_only, cluster) in
            [("", false, "PassthroughCluster"), (wildcard, true, "outbound|443||*.apple.com")]
        {
            let interceptor = || -> anyhow::Result<_> {
                let plain = pod.interceptor()?.config(config)?.stats().flags(capture);
                Ok(if registry_only { plain.registry_only() } else { plain })
            };
            let run = interceptor()?.flag("--strict").curl(&forged)?;
            assert_eq!(run.code(), 35, "{} {}", run.text(), run.stderr);
            let line = run.line()?;
            assert_eq!(
                (line.flags.as_str(), line.termination.as_str()),
                ("UAEX", "name_does_not_match_address")
            );
            assert_eq!((line.sni.as_str(), line.upstream_host.as_str()), ("www.apple.com", "-"));
            assert_eq!(line.cluster, cluster);
            let counters = run.stats()?["proxy"].clone();
            assert_eq!((&counters["names_mismatched"], &counters["names_refused"]), (&1.into(), &1.into()));

            let run = interceptor()?.flag("--strict").curl(&honest)?;
            run.expect_code(0)?;
            assert_eq!(run.line()?.cluster, cluster);
            let counters = run.stats()?["proxy"].clone();
            assert_eq!((&counters["names_matched"], &counters["names_refused"]), (&1.into(), &0.into()));

            // Where the policy is not strict it passes, and is counted if anything is known.
            let run = interceptor()?.curl(&forged)?;
            run.expect_code(0)?;
            let counters = run.stats()?["proxy"].clone();
            assert_eq!(counters["names_refused"], 0);
        }
    }
    Ok(())
}

#[test]
fn strict_refuses_a_host_that_does_not_fit() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: g}\nspec:\n  \
        hosts: [www.google.com]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS\n";
    let forged = ["--resolve", "hbchen.com:80:203.0.113.20", "http://hbchen.com/"];
    let run = pod.interceptor()?.config(config)?.flags(&["--capture-dns", "--strict"]).curl(&forged)?;
    run.expect_code(0)?;
    assert_eq!((run.http()?.status, run.http()?.body.as_str()), (403, ""));
    let line = run.line()?;
    assert_eq!(
        (line.code, line.flags.as_str(), line.details.as_str()),
        (403, "UAEX", "name_does_not_match_address")
    );
    assert_eq!((line.cluster.as_str(), line.upstream_host.as_str()), ("PassthroughCluster", "-"));
    let run = pod
        .interceptor()?
        .config(config)?
        .flags(&["--capture-dns", "--strict"])
        .curl(&["http://hbchen.com/"])?;
    assert_eq!(run.http()?.status, 200);
    // Also on a port that nobody declared.
    let forged = ["--resolve", "hbchen.com:8080:203.0.113.20", "http://hbchen.com:8080/"];
    for (url, status) in [(&forged[..], 403), (&["http://hbchen.com:8080/"], 200)] {
        let run = pod.interceptor()?.config(config)?.flags(&["--strict"]).curl(url)?;
        assert_eq!(run.http()?.status, status, "{url:?}");
        assert_eq!(run.line()?.cluster, "PassthroughCluster");
    }
    // With resolution DNS the proxy goes where it knows the host to be: the wrong address does not matter.
    let forged = ["--resolve", "www.google.com:80:203.0.113.51", "http://www.google.com/"];
    let run = pod.interceptor()?.config(config)?.flags(&["--strict"]).stats().curl(&forged)?;
    assert_eq!(run.http()?.status, 200);
    assert_eq!(run.line()?.upstream_host, "203.0.113.20:80");
    assert_eq!(run.stats()?["proxy"]["names_refused"], 0);
    Ok(())
}

/// A workload can ask a server of its own, which says whatever it likes: under a strict policy that counts for nothing.
#[test]
fn strict_does_not_believe_a_name_server_of_the_workload() -> anyhow::Result<()> {
    let world = World::shared()?;
    let liar = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 122));
    let _dns = Dns::start(&world.outside, liar, &[Record::new("www.apple.com", "203.0.113.20", 60)?])?;
    let pod = world.pod()?;
    let ask = format!("udp {liar} {}", query("www.apple.com", 1, false));
    let connect = "import subprocess; print(subprocess.run(['curl', '-skI', '--resolve', \
        'www.apple.com:443:203.0.113.20', 'https://www.apple.com/'], capture_output=True).returncode)";
    let script = format!("{ASK}\n{connect}");
    let command = python(&script, &[&ask]);
    for (flags, code, matched) in
        [(&["--capture-dns"][..], "0", 1), (&["--capture-dns", "--strict"], "35", 0)]
    {
        let run = pod.interceptor()?.stats().flags(flags).run(&command)?;
        assert_eq!(lines(&run).last().map(String::as_str), Some(code), "{flags:?} {}", run.text());
        assert_eq!(run.stats()?["proxy"]["names_matched"], matched, "{:#}", run.stats()?);
    }
    Ok(())
}

/// Nor does it select a service by what such a server says.
#[test]
fn strict_does_not_select_by_a_name_server_of_the_workload() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (older, evil) = (greeter(world, 7004, "older")?, greeter(world, 7004, "evil")?);
    let wildcard =
        service_entry("'*.younger.test'", 2021, 7004).replace("name: '*.younger.test'", "name: younger");
    let config = service_entry(&older.name(), 2020, 7004) + &wildcard.replace("DNS", "NONE");
    let liar = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 123));
    let record = Record { name: "a.younger.test".into(), address: evil.address.ip(), ttl_s: 60 };
    let _dns = Dns::start(&world.outside, liar, &[record])?;
    let pod = world.pod()?;
    let ask = format!("udp {liar} {}", query("a.younger.test", 1, false));
    let script = format!("{ASK}\nsys.argv[1:] = ['{}']\n{GREET}", evil.address);
    let command = python(&script, &[&ask]);
    for (flags, expected) in
        [(&["--capture-dns"][..], "evil"), (&["--capture-dns", "--strict"], "ConnectionResetError")]
    {
        let run = pod.interceptor()?.config(&config)?.registry_only().flags(flags).run(&command)?;
        assert_eq!(
            lines(&run).last().map(String::as_str),
            Some(expected),
            "{flags:?} {} {}",
            run.text(),
            run.stderr
        );
    }
    Ok(())
}
