//! Names: TTLs kept, failures short, a stale answer better than none.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use interceptor_tests::{Dns, Http, Origin, Record, World};

fn echo(world: &World, says: &'static str) -> anyhow::Result<Origin> {
    use std::io::Write;
    world.origin(80, move |mut socket| {
        interceptor_tests::read_head(&mut socket)?;
        write!(socket, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{says}", says.len())
    })
}

fn entry(name: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}]\n  \
         ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: DNS\n"
    )
}

/// The client goes by address and asks nobody: each query that the server sees is ours.
fn ask(name: &str) -> String {
    format!("--connect-to ::203.0.113.99: http://{name}/")
}

fn body(answer: Option<Http>) -> String {
    answer.map(|answer| format!("{} {}", answer.status, answer.body)).unwrap_or_default()
}

#[test]
fn ttls_are_kept_and_changes_seen() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (one, two) = (echo(world, "one")?, echo(world, "two")?);
    let server = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 101));
    let record =
        |origin: &Origin| Record { name: "short.test".into(), address: origin.address.ip(), ttl_s: 1 };
    let dns = Dns::start(
        &world.outside,
        server,
        &[record(&one), Record::new("long.test", &one.address.ip().to_string(), 300)?],
    )?;
    let pod = world.pod_with_dns(&[server])?;
    let config = format!("{}---\n{}", entry("short.test"), entry("long.test"));
    let mut session = pod.interceptor()?.config(&config)?.registry_only().session()?;
    assert_eq!(body(session.curl(&ask("short.test"))?.1), "200 one");
    for _ in 0..5 {
        assert_eq!(body(session.curl(&ask("long.test"))?.1), "200 one");
    }
    // A and AAAA, once each.
    assert!((1..=2).contains(&dns.queries("long.test")), "{} queries", dns.queries("long.test"));
    drop(dns);
    let _dns = Dns::start(&world.outside, server, &[record(&two)])?;
    interceptor_tests::wait_for("the new address", Duration::from_secs(30), || {
        (body(session.curl(&ask("short.test")).ok()?.1) == "200 two").then_some(())
    })?;
    session.finish()?.expect_code(0)?;
    Ok(())
}

#[test]
fn a_stale_answer_is_better_than_none() -> anyhow::Result<()> {
    let world = World::shared()?;
    let one = echo(world, "one")?;
    let server = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 102));
    let records = [Record { name: "stale.test".into(), address: one.address.ip(), ttl_s: 1 }];
    let dns = Dns::start(&world.outside, server, &records)?;
    let pod = world.pod_with_dns(&[server])?;
    let mut session = pod.interceptor()?.config(&entry("stale.test"))?.registry_only().session()?;
    assert_eq!(body(session.curl(&ask("stale.test"))?.1), "200 one");
    drop(dns);
    // Well past the TTL, and every request is answered.
    let started = std::time::Instant::now();
    let mut asked = 0;
    while started.elapsed() < Duration::from_secs(4) {
        assert_eq!(body(session.curl(&ask("stale.test"))?.1), "200 one", "request {asked}");
        asked += 1;
    }
    session.finish()?.expect_code(0)?;
    Ok(())
}

#[test]
fn a_server_that_does_not_answer_is_a_503_and_the_rest_goes_on() -> anyhow::Result<()> {
    let world = World::shared()?;
    let one = echo(world, "one")?;
    // Nobody listens there.
    let pod = world.pod_with_dns(&[IpAddr::V4(Ipv4Addr::new(203, 0, 113, 103))])?;
    let fixed = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s}}\nspec:\n  hosts: [static.test]\n  \
         ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  endpoints: [{{address: {}}}]\n",
        one.address.ip()
    );
    let mut session = pod.interceptor()?.config(&(entry("lost.test") + &fixed))?.registry_only().session()?;
    assert_eq!(body(session.curl(&ask("static.test"))?.1), "200 one");
    assert_eq!(body(session.curl(&ask("lost.test"))?.1), "503 no healthy upstream");
    assert_eq!(body(session.curl(&ask("static.test"))?.1), "200 one");
    let run = session.finish()?;
    run.expect_code(0)?;
    let lost = run.lines()?.into_iter().find(|line| line.authority == "lost.test");
    let lost = lost.ok_or_else(|| anyhow::anyhow!("no line in {}", run.log))?;
    assert_eq!((lost.flags.as_str(), lost.details.as_str()), ("UH", "no_healthy_upstream"));
    Ok(())
}

#[test]
fn a_name_that_does_not_exist_is_a_503_and_not_for_ever() -> anyhow::Result<()> {
    let world = World::shared()?;
    let one = echo(world, "one")?;
    let server = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 104));
    let dns = Dns::start(&world.outside, server, &[])?;
    let pod = world.pod_with_dns(&[server])?;
    let mut session = pod.interceptor()?.config(&entry("late.test"))?.registry_only().session()?;
    for _ in 0..5 {
        assert_eq!(body(session.curl(&ask("late.test"))?.1), "503 no healthy upstream");
    }
    assert!(dns.queries("late.test") <= 4, "{} queries for 5 requests", dns.queries("late.test"));
    drop(dns);
    let _dns = Dns::start(
        &world.outside,
        server,
        &[Record { name: "late.test".into(), address: one.address.ip(), ttl_s: 30 }],
    )?;
    interceptor_tests::wait_for("the name", Duration::from_secs(35), || {
        (body(session.curl(&ask("late.test")).ok()?.1) == "200 one").then_some(())
    })?;
    session.finish()?.expect_code(0)?;
    Ok(())
}

#[test]
fn addresses_of_both_families_and_several_of_one() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (one, two) = (echo(world, "one")?, echo(world, "two")?);
    let server = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 105));
    let records = [
        Record { name: "both.test".into(), address: one.address.ip(), ttl_s: 60 },
        Record { name: "both.test".into(), address: two.address.ip(), ttl_s: 60 },
        Record::new("six.only.test", "2001:db8::4", 60)?,
    ];
    let _dns = Dns::start(&world.outside, server, &records)?;
    let pod = world.pod_with_dns(&[server])?;
    let config = format!("{}---\n{}", entry("both.test"), entry("six.only.test"));
    let mut session = pod.interceptor()?.config(&config)?.registry_only().session()?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        seen.insert(body(session.curl(&ask("both.test"))?.1));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["200 one", "200 two"]);
    let (_, answer) = session.curl(&ask("six.only.test"))?;
    assert_eq!(body(answer), "200 six.test says hello over http\n");
    session.finish()?.expect_code(0)?;
    Ok(())
}
