//! A resolver's thread against real servers on loopback.

mod server;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use server::{Reply, Server, addresses, until};

use super::{AnswerState, Asker, DnsError, Options, Resolver, Servers};

fn options(servers: Servers) -> Options {
    Options { servers, hosts_file: "/nowhere/hosts".into(), ..Options::default() }
}

fn resolver(server: &Server) -> Resolver {
    Resolver::start(options(Servers::Fixed(vec![server.address]))).unwrap()
}

fn ips(addresses: &[&str]) -> Arc<[IpAddr]> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

/// An address for a DNS server that is this process's own, several test runs at a time.
fn own_address(index: u32) -> SocketAddr {
    let [_, a, b, c] = (std::process::id() << 2 | index).to_be_bytes();
    SocketAddr::from(([127, a, b, c], 53))
}

#[tokio::test]
async fn both_families_are_answered_ipv4_first_in_the_servers_order() {
    let server = Server::start().await;
    server.set("a.example", addresses(&["2001:db8::2", "192.0.2.9", "2001:db8::1", "192.0.2.1"], 60));
    let resolver = resolver(&server);
    let answer = resolver.resolve("A.Example.", Asker::default()).await.unwrap();
    assert_eq!(answer.addresses, ips(&["192.0.2.9", "192.0.2.1", "2001:db8::2", "2001:db8::1"]));
    assert_eq!(answer.state, AnswerState::Fresh);

    let watch = resolver.watch("a.example");
    watch.ready().await;
    assert_eq!(watch.current().addresses, answer.addresses);
}

#[tokio::test]
async fn literals_and_bad_names_are_not_asked_for() {
    let server = Server::start().await;
    let resolver = resolver(&server);
    for literal in ["192.0.2.1", "2001:db8::1"] {
        assert_eq!(resolver.resolve(literal, Asker::default()).await.unwrap().addresses, ips(&[literal]));
        assert_eq!(resolver.watch(literal).current().addresses, ips(&[literal]));
    }
    let long = "a.".repeat(127) + "a";
    for bad in ["", ".", "a..b", "a b", "a\0b", "*.example", "a/b", &"a".repeat(64), &long] {
        let error = resolver.resolve(bad, Asker::default()).await.unwrap_err();
        assert!(matches!(error, DnsError::InvalidName { .. }), "{bad}: {error}");
        assert!(matches!(resolver.watch(bad).current().state, AnswerState::Failed(_)), "{bad}");
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_watched_name_is_refreshed_before_it_expires_and_no_oftener() {
    let server = Server::start().await;
    server.set("a.example", addresses(&["192.0.2.1"], 1));
    server.set("b.example", addresses(&["192.0.2.2"], 60));
    let started = Instant::now();
    let resolver = resolver(&server);
    let (first, second) = (resolver.watch("a.example"), resolver.watch("b.example"));
    first.ready().await;
    second.ready().await;
    server.set("a.example", addresses(&["192.0.2.3"], 1));
    until("a.example is not refreshed", || first.current().addresses == ips(&["192.0.2.3"])).await;
    until("a.example is not refreshed again", || server.times("a.example") >= 4).await;
    let took = started.elapsed().as_secs_f64();
    assert!(took > 3.0 * 0.85, "{took} s");
    assert_eq!(server.times("b.example"), 1);
}

#[tokio::test]
async fn all_watches_of_a_name_share_one_refresher_which_ends_with_the_last() {
    let server = Server::start().await;
    server.set("a.example", addresses(&["192.0.2.1"], 0));
    let resolver = resolver(&server);
    let watches: Vec<_> = (0..100).map(|_| resolver.watch("a.example")).collect();
    for watch in &watches {
        watch.ready().await;
    }
    assert_eq!(server.times("a.example"), 1);
    let last = watches[0].clone();
    drop(watches);
    until("a.example is not refreshed", || server.times("a.example") >= 2).await;
    drop(last);
    assert!(resolver.0.watched.lock().unwrap().is_empty());
    let asked = server.times("a.example");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(server.times("a.example") <= asked + 1, "still refreshed");
    // watched anew
    let again = resolver.watch("a.example");
    again.ready().await;
    assert_eq!(again.current().addresses, ips(&["192.0.2.1"]));
}

#[tokio::test]
async fn a_server_that_fails_leaves_the_last_answer_standing() {
    let server = Server::start().await;
    let resolver = resolver(&server);
    let survives = async |host: &str, failure: Reply| {
        server.set(host, addresses(&["192.0.2.1"], 1));
        let watch = resolver.watch(host);
        watch.ready().await;
        server.set(host, failure.clone());
        until(&format!("{host} is not stale: {failure:?}"), || {
            assert_eq!(watch.current().addresses, ips(&["192.0.2.1"]));
            watch.current().state == AnswerState::Stale
        })
        .await;
        server.set(host, addresses(&["192.0.2.2"], 60));
        until(&format!("{host} does not recover"), || watch.current().addresses == ips(&["192.0.2.2"])).await;
        assert_eq!(watch.current().state, AnswerState::Fresh);
    };
    tokio::join!(
        survives("a.example", Reply::Code(2)),
        survives("b.example", Reply::Code(5)),
        survives("c.example", Reply::Garbage(vec![0; 3])),
        survives("d.example", Reply::Silence),
    );
}

#[tokio::test]
async fn a_name_that_is_gone_has_no_address_at_once() {
    let server = Server::start().await;
    server.set("a.example", addresses(&["192.0.2.1"], 1));
    let resolver = resolver(&server);
    let watch = resolver.watch("a.example");
    watch.ready().await;
    server.set("a.example", Reply::Nothing(Some(1)));
    until("a.example still has addresses", || watch.current().addresses.is_empty()).await;
    assert_eq!(watch.current().state, AnswerState::Fresh);
    server.set("a.example", addresses(&["192.0.2.2"], 60));
    until("a.example is not asked for again", || watch.current().addresses == ips(&["192.0.2.2"])).await;

    server.set("nothing.example", Reply::Nothing(Some(60)));
    server.set("empty.example", addresses(&[], 60));
    for host in ["nothing.example", "empty.example"] {
        for _ in 0..3 {
            let answer = resolver.resolve(host, Asker::default()).await.unwrap();
            assert_eq!((&*answer.addresses, &answer.state), (&[][..], &AnswerState::Fresh));
        }
        assert_eq!(server.times(host), 1, "{host} is asked for again");
    }
}

#[tokio::test]
async fn aliases_are_followed() {
    let server = Server::start().await;
    let alias = |names: &[&str], address: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Reply::Aliases(names, ips(address).to_vec(), 60)
    };
    server.set("whole.example", alias(&["b.example", "c.example"], &["192.0.2.1", "2001:db8::1"]));
    server.set("half.example", alias(&["d.example"], &[]));
    server.set("d.example", addresses(&["192.0.2.2"], 60));
    server.set("round.example", alias(&["round.example"], &[]));
    server.set("nowhere.example", alias(&["x.example"], &[]));
    let resolver = resolver(&server);
    let resolved = async |host| {
        resolver.resolve(host, Asker::default()).await.map(|answer| Arc::clone(&answer.addresses))
    };
    assert_eq!(resolved("whole.example").await.unwrap(), ips(&["192.0.2.1", "2001:db8::1"]));
    assert_eq!(resolved("half.example").await.unwrap(), ips(&["192.0.2.2"]));
    assert_eq!(resolved("nowhere.example").await.unwrap(), ips(&[]));
    // whatever it is called: no address, and no endless questions
    assert!(
        resolved("round.example").await.is_ok_and(|found| found.is_empty())
            || resolved("round.example").await.is_err()
    );
    assert!(server.asked().len() < 60, "{} questions", server.asked().len());
}

#[tokio::test]
async fn truncated_answers_are_asked_for_over_tcp() {
    let server = Server::start().await;
    let many: Vec<IpAddr> = (0..100).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    server.set("a.example", Reply::OverTcp(Box::new(Reply::Addresses(many.clone(), 60))));
    let answer = resolver(&server).resolve("a.example", Asker::default()).await.unwrap();
    assert_eq!(*answer.addresses, many);
    assert!(server.asked().iter().any(|asked| asked.is_tcp));
}

#[tokio::test]
async fn huge_answers_are_cut() {
    let server = Server::start().await;
    let many = (0..2000u16)
        .map(|last| IpAddr::from([10, 0, last.to_be_bytes()[0], last.to_be_bytes()[1]]))
        .collect();
    server.set("a.example", Reply::OverTcp(Box::new(Reply::Addresses(many, 60))));
    let answer = resolver(&server).resolve("a.example", Asker::default()).await.unwrap();
    assert_eq!(answer.addresses.len(), 128);
}

#[tokio::test]
async fn garbage_is_a_failure() {
    let server = Server::start().await;
    let resolver = resolver(&server);
    let garbage: [&[u8]; 5] = [
        &[],
        &[0; 3],
        &[0xff; 200],
        // an answer that points at itself
        &[
            0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4,
            1, 2, 3, 4,
        ],
        &[0x81, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ];
    let hosts: Vec<_> = (0..garbage.len()).map(|index| format!("{index}.example")).collect();
    for (host, bytes) in hosts.iter().zip(garbage) {
        server.set(host, Reply::Garbage(bytes.to_vec()));
    }
    let started = Instant::now();
    // all are asked for at the same time
    let watches: Vec<_> = hosts.iter().map(|host| resolver.watch(host)).collect();
    for watch in watches {
        watch.ready().await;
        assert!(matches!(watch.current().state, AnswerState::Failed(_)), "{watch:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn a_server_that_is_down_is_told_and_recovers_by_itself() {
    let address = own_address(0);
    let resolver = Resolver::start(options(Servers::Fixed(vec![address]))).unwrap();
    let started = Instant::now();
    let watch = resolver.watch("a.example");
    let ((), resolved) = tokio::join!(watch.ready(), resolver.resolve("a.example", Asker::default()));
    let AnswerState::Failed(reason) = watch.current().state.clone() else { panic!("{watch:?}") };
    assert!(reason.contains(&address.ip().to_string()), "{reason}");
    let error = resolved.unwrap_err();
    assert!(error.to_string().starts_with("a.example could not be resolved: "), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());

    let server = Server::start_at(address).await;
    server.set("a.example", addresses(&["192.0.2.1"], 60));
    until("a.example does not recover", || watch.current().state == AnswerState::Fresh).await;
    assert_eq!(watch.current().addresses, ips(&["192.0.2.1"]));
}

#[tokio::test]
async fn a_silent_server_fails_within_seconds_and_failures_are_remembered() {
    let server = Server::start().await;
    server.set("a.example", Reply::Silence);
    let resolver = resolver(&server);
    let started = Instant::now();
    assert!(matches!(resolver.resolve("a.example", Asker::default()).await, Err(DnsError::Failed { .. })));
    let took = started.elapsed().as_secs_f64();
    assert!((1.9..10.0).contains(&took), "after {took} s");
    let again = Instant::now();
    assert!(matches!(resolver.resolve("a.example", Asker::default()).await, Err(DnsError::Failed { .. })));
    assert!(again.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_server_that_refuses_does_not_hide_one_that_answers() {
    let (refusing, answering) = (Server::start().await, Server::start().await);
    answering.set_default(addresses(&["192.0.2.1"], 60));
    for code in [2, 4, 5] {
        refusing.set_default(Reply::Code(code));
        for servers in [[&refusing, &answering], [&answering, &refusing]] {
            let servers = Servers::Fixed(servers.map(|server| server.address).to_vec());
            let resolver = Resolver::start(options(servers)).unwrap();
            for index in 0..10 {
                let answer = resolver.resolve(&format!("{index}.example"), Asker::default()).await.unwrap();
                assert_eq!(answer.addresses, ips(&["192.0.2.1"]), "code {code}");
            }
        }
    }
}

#[tokio::test]
async fn ipv4_does_not_wait_for_ipv6() {
    let server = Server::start().await;
    server.set("a.example", Reply::NoIpv6Answer("192.0.2.1".parse().unwrap()));
    let started = Instant::now();
    let answer = resolver(&server).resolve("a.example", Asker::default()).await.unwrap();
    assert_eq!(answer.addresses, ips(&["192.0.2.1"]));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn identical_questions_are_asked_once_and_answers_are_kept() {
    let server = Server::start().await;
    server.set("a.example", addresses(&["192.0.2.1"], 60));
    let resolver = resolver(&server);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let resolver = resolver.clone();
        asking.spawn(async move { resolver.resolve("a.example", Asker::default()).await });
    }
    while let Some(answer) = asking.join_next().await {
        assert_eq!(answer.unwrap().unwrap().addresses, ips(&["192.0.2.1"]));
    }
    resolver.resolve("a.example", Asker::default()).await.unwrap();
    assert_eq!(server.times("a.example"), 1);
}

#[tokio::test]
async fn an_expired_answer_serves_while_the_server_is_down() {
    let server = Server::start().await;
    server.set("a.example", addresses(&["192.0.2.1"], 1));
    let resolver = resolver(&server);
    assert_eq!(resolver.resolve("a.example", Asker::default()).await.unwrap().state, AnswerState::Fresh);
    server.set("a.example", Reply::Code(2));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let answer = resolver.resolve("a.example", Asker::default()).await.unwrap();
    assert_eq!((answer.addresses.clone(), &answer.state), (ips(&["192.0.2.1"]), &AnswerState::Stale));
}

#[tokio::test]
async fn a_thousand_names() {
    let server = Server::start().await;
    server.set_default(addresses(&["192.0.2.1", "2001:db8::1"], 300));
    let resolver = resolver(&server);
    let started = Instant::now();
    let watches: Vec<_> = (0..1000).map(|index| resolver.watch(&format!("{index}.example"))).collect();
    for watch in &watches {
        watch.ready().await;
        assert_eq!(watch.current().addresses, ips(&["192.0.2.1", "2001:db8::1"]), "{watch:?}");
    }
    assert_eq!(server.asked().len(), 2000, "questions in {:?}", started.elapsed());
}

#[tokio::test]
async fn the_cache_of_names_is_bounded() {
    let server = Server::start().await;
    server.set_default(addresses(&["192.0.2.1"], 300));
    let servers = Servers::Fixed(vec![server.address]);
    let resolver = Resolver::start(Options { cache_names_max: 10, ..options(servers) }).unwrap();
    for index in 0..30 {
        resolver.resolve(&format!("{index}.example"), Asker::default()).await.unwrap();
        resolver.resolve("0.example", Asker::default()).await.unwrap();
    }
    assert_eq!(server.times("0.example"), 1, "what is used is kept");
    resolver.resolve("1.example", Asker::default()).await.unwrap();
    assert_eq!(server.times("1.example"), 2, "what is not is forgotten");
}

fn write(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn the_systems_files_are_used_and_read_again() {
    // resolv.conf knows no ports
    let (first, second) = (Server::start_at(own_address(1)).await, Server::start_at(own_address(2)).await);
    first.set("a.example", addresses(&["192.0.2.1"], 300));
    first.set("short.search.example", addresses(&["192.0.2.5"], 300));
    second.set("a.example", addresses(&["192.0.2.2"], 300));
    let folder = tempfile::tempdir().unwrap();
    let (resolv_conf, hosts_file) = (folder.path().join("resolv.conf"), folder.path().join("hosts"));
    let servers = Servers::ResolvConf(resolv_conf.clone());
    let resolver = Resolver::start(Options { hosts_file: hosts_file.clone(), ..options(servers) }).unwrap();

    let watch = resolver.watch("a.example");
    watch.ready().await;
    let AnswerState::Failed(reason) = watch.current().state.clone() else { panic!("{watch:?}") };
    assert!(reason.contains("resolv.conf: "), "{reason}");

    let resolv = |server: &Server, rest: &str| format!("nameserver {}\n{rest}", server.address.ip());
    write(&resolv_conf, &resolv(&first, "search search.example\noptions ndots:5\n"));
    until("the first server is not asked", || watch.current().addresses == ips(&["192.0.2.1"])).await;
    assert_eq!(first.asked().iter().filter(|asked| asked.name.ends_with("search.example")).count(), 0);
    assert_eq!(resolver.resolve("short", Asker::default()).await.unwrap().addresses, ips(&["192.0.2.5"]));

    write(&resolv_conf, &resolv(&second, ""));
    until("the second server is not asked", || watch.current().addresses == ips(&["192.0.2.2"])).await;

    write(&hosts_file, "192.0.2.7 other a.example\n");
    until("the hosts file is not read", || watch.current().addresses == ips(&["192.0.2.7"])).await;

    // half written
    write(&resolv_conf, "");
    write(&hosts_file, "192.0.2.8 b.example\n");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(watch.current().addresses, ips(&["192.0.2.7"]));
}

#[tokio::test]
async fn its_thread_ends_with_the_last_handle() {
    let server = Server::start().await;
    server.set("a.example", addresses(&["192.0.2.1"], 0));
    let resolver = resolver(&server);
    let watch = resolver.watch("a.example");
    drop(resolver);
    // a watch keeps it going
    until("a.example is not refreshed", || server.times("a.example") >= 2).await;
    let shared = Arc::downgrade(&watch.resolver().0);
    let cache = Arc::downgrade(&watch.resolver().0.cache);
    drop(watch);
    until("something keeps it", || shared.upgrade().is_none() && cache.upgrade().is_none()).await;
}

/// Who is asked answers nothing of what one asker wants to know, and all that another does.
#[tokio::test]
async fn a_thousand_names_of_one_asker_hold_up_nobody_else() {
    let server = Server::start().await;
    server.set_default(Reply::Silence);
    server.set("good.example", addresses(&["192.0.2.1"], 60));
    let resolver = resolver(&server);
    let [greedy, other] = [1, 2].map(|workload| Asker { workload, client: None });
    let mut names = tokio::task::JoinSet::new();
    for number in 0..1500 {
        let resolver = resolver.clone();
        names.spawn(async move { resolver.resolve(&format!("{number}.silent.example"), greedy).await });
    }
    // Its last one: it is behind all others of its own.
    let (of_greedy, of_other) = (resolver.clone(), resolver.clone());
    until("some are being asked for", || server.asked().len() >= 32).await;
    let refused = names.join_next().await.unwrap().unwrap();
    assert_eq!(refused, Err(DnsError::Busy), "no asker has room for all of them");
    names.spawn(async move { of_greedy.resolve("good.example", greedy).await });
    let answer = of_other.resolve("good.example", other).await.unwrap();
    assert_eq!(answer.addresses, ips(&["192.0.2.1"]));
    assert_eq!(server.times("0.silent.example"), 1, "the first ones were not even asked again");
}
