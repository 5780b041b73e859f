//! Copies of requests: what they look like, and that nobody notices them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderValue;
use interceptor_user::snapshot::{
    Changes, Cluster, ClusterName, ClusterRef, Discovery, Endpoint, Mirror, RetryOn, Share,
};

use crate::support::{Config, HOST, Upstream, eventually, header, refused};

const ALL: Share = Share(1_000_000);

/// What a mirror got: heads and bodies.
type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A server that remembers requests and answers each with `answer`.
fn remembering(answer: &'static str) -> (Upstream, Seen) {
    let seen = Seen::default();
    let memory = Arc::clone(&seen);
    let upstream = Upstream::start(move |mut client, _| {
        while let Some(request) = client.request() {
            memory.lock().unwrap().push((request.head, request.body));
            client.send(answer);
        }
    });
    (upstream, seen)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nseen";

fn wait(seen: &Seen, count: usize) -> Vec<(String, Vec<u8>)> {
    eventually(&format!("{count} copies"), || seen.lock().unwrap().len() >= count);
    seen.lock().unwrap().clone()
}

/// A server that answers nothing.
fn silent() -> Upstream {
    Upstream::start(|mut client, _| {
        client.request();
        client.read_to_end();
    })
}

/// A configuration with a mirror at each of these addresses.
fn with(upstream: &Upstream, mirrors: &[(SocketAddr, Share)]) -> Config {
    let mut config = Config::new(&[upstream.address]);
    for (address, share) in mirrors {
        mirror(&mut config, Discovery::Static(vec![Endpoint::new(*address)]), *share);
    }
    config
}

/// One mirror more.
fn mirror(config: &mut Config, discovery: Discovery, share: Share) {
    let host = format!("mirror-{}.test", config.forward.mirrors.len());
    let name = ClusterName::outbound(80, "", &host);
    let cluster = Arc::new(Cluster::new(name.clone(), host.as_str().into(), 80, discovery));
    config.snapshot.clusters.insert(name.clone(), Arc::clone(&cluster));
    let cluster = ClusterRef { name, cluster: Some(cluster) };
    config.forward.mirrors.push(Mirror { cluster, share });
}

#[test]
fn a_copy_goes_to_every_mirror() {
    let upstream = Upstream::echo();
    let ((one, seen_one), (two, seen_two)) = (remembering(OK), remembering(OK));
    let proxy = with(&upstream, &[(one.address, ALL), (two.address, ALL)]).start();
    let reply = proxy.get("/path?query");
    assert_eq!(reply.status(), 200);
    assert!(!reply.text().contains("-shadow"), "{reply:?}");
    for seen in [seen_one, seen_two] {
        let (head, body) = wait(&seen, 1).remove(0);
        assert!(head.starts_with("GET /path?query HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "host"), Some(format!("{HOST}-shadow").as_str()));
        assert_eq!(header(&head, "user-agent"), Some("test"));
        // The same request, by its id.
        assert_eq!(header(&head, "x-request-id"), header(&reply.text(), "x-request-id"));
        assert_eq!(header(&head, "x-forwarded-for"), None);
        assert_eq!(body, b"");
    }
    eventually("both counted", || proxy.counters().mirrors_sent == 2);
    // One request, one record.
    assert_eq!(proxy.records.only().end(), (200, "-", "via_upstream"));
}

#[test]
fn the_port_of_the_host_stays_behind_the_shadow() {
    let upstream = Upstream::echo();
    let (mirror, seen) = remembering(OK);
    let proxy = with(&upstream, &[(mirror.address, ALL)]).start();
    assert_eq!(proxy.exchange(&crate::support::get(&format!("{HOST}:80"), "/")).status(), 200);
    assert_eq!(header(&wait(&seen, 1)[0].0, "host"), Some(format!("{HOST}-shadow:80").as_str()));
}

#[test]
fn bodies_are_copied_whole() {
    for framing in [
        "content-length: 12\r\n\r\nsent in full",
        "transfer-encoding: chunked\r\n\r\n7\r\nsent in\r\n5\r\n full\r\n0\r\n\r\n",
        "content-length: 12\r\nexpect: 100-continue\r\n\r\nsent in full",
    ] {
        let upstream = Upstream::echo();
        let (mirror, seen) = remembering(OK);
        let mut config = with(&upstream, &[(mirror.address, ALL)]);
        config.forward.retries = None;
        let proxy = config.start();
        let mut client = proxy.client();
        client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\n{framing}"));
        let (head, body) = wait(&seen, 1).remove(0);
        assert_eq!(String::from_utf8_lossy(&body), "sent in full", "{framing}");
        assert_eq!(header(&head, "expect"), None);
    }
}

#[test]
fn a_body_in_many_pieces_is_copied_whole() {
    let upstream = Upstream::echo();
    let (mirror, seen) = remembering(OK);
    let proxy = with(&upstream, &[(mirror.address, ALL)]).start();
    let pieces: Vec<String> = (0..200).map(|number| format!("piece {number};")).collect();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n"));
    for piece in &pieces {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.reply().status(), 200);
    assert_eq!(String::from_utf8_lossy(&wait(&seen, 1)[0].1), pieces.concat());
}

#[test]
fn a_strict_policy_refuses_copies_whose_name_does_not_fit_their_address() {
    // v4.test is 127.0.0.1 to us, and nobody knows of the other name.
    for (strict, host, copied) in
        [(true, "v4.test", true), (true, HOST, false), (false, "v4.test", true), (false, HOST, true)]
    {
        let upstream = Upstream::echo();
        let ((original, seen), (other, seen_other)) = (remembering(OK), remembering(OK));
        let mut config = with(&upstream, &[(other.address, ALL)]);
        mirror(&mut config, Discovery::OriginalDst { port: None }, ALL);
        config.hosts.push("v4.test");
        config.snapshot.strict = strict;
        // What the route makes of the name is not the client's word.
        config.changes =
            Some(Changes { authority: Some(HeaderValue::from_static("v4.test")), ..Changes::default() });
        let proxy = config.start_for(original.address);
        assert_eq!(proxy.exchange(&crate::support::get(host, "/")).status(), 200, "{strict} {host}");
        let (sent, given_up) = if copied { (2, 0) } else { (1, 1) };
        eventually(&format!("{strict} {host}: both counted"), || {
            let counters = proxy.counters();
            (counters.mirrors_sent, counters.mirrors_given_up) == (sent, given_up)
        });
        assert_eq!(original.connections(), usize::from(copied), "{strict} {host}");
        assert_eq!((seen.lock().unwrap().len(), seen_other.lock().unwrap().len()), (usize::from(copied), 1));
    }
}

#[test]
fn a_mirror_whose_address_is_its_name_is_found_by_the_name_of_the_request() {
    let upstream = Upstream::echo();
    let (found, seen) = remembering(OK);
    let mut config = Config::new(&[upstream.address]);
    mirror(&mut config, Discovery::DynamicDns { port: Some(found.port()) }, ALL);
    config.hosts.push("v4.test");
    let proxy = config.start();
    assert_eq!(proxy.exchange(&crate::support::get("v4.test", "/")).status(), 200);
    assert_eq!(header(&wait(&seen, 1)[0].0, "host"), Some("v4.test-shadow"));
    eventually("it is counted", || proxy.counters().mirrors_sent == 1);
}

#[test]
fn what_is_too_large_is_given_up() {
    let upstream = Upstream::echo();
    let (mirror, seen) = remembering(OK);
    let proxy = with(&upstream, &[(mirror.address, ALL)]).start();
    let length = 200 * 1024;
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\n\r\n"));
    client.send(vec![b'x'; length]);
    assert_eq!(client.reply().status(), 200);
    assert_eq!(proxy.counters().mirrors_given_up, 1);
    client.send(crate::support::get(HOST, "/small"));
    assert_eq!(client.reply().status(), 200);
    let seen = wait(&seen, 1);
    assert_eq!(seen.len(), 1);
    assert!(seen[0].0.starts_with("GET /small"), "{seen:?}");
}

#[test]
fn a_mirror_that_fails_or_hangs_is_not_noticed() {
    let upstream = Upstream::echo();
    let silent = silent();
    let broken = Upstream::start(|mut client, _| drop(client.request()));
    let proxy = with(&upstream, &[(refused(), ALL), (silent.address, ALL), (broken.address, ALL)]).start();
    let mut client = proxy.client();
    for _ in 0..20 {
        client.send(crate::support::get(HOST, "/"));
        assert_eq!(client.reply().status(), 200);
    }
    // None of those that hang has been waited for.
    assert!(proxy.counters().mirrors_failed <= 40);
    eventually("those that failed are counted", || proxy.counters().mirrors_failed >= 40);
    for record in proxy.records.wait(20) {
        assert_eq!(record.end(), (200, "-", "via_upstream"));
    }
}

#[test]
fn copies_on_their_way_are_bounded() {
    let upstream = Upstream::echo();
    let silent = silent();
    let proxy = with(&upstream, &[(silent.address, ALL)]).start();
    let mut client = proxy.client();
    for _ in 0..140 {
        client.send(crate::support::get(HOST, "/"));
        assert_eq!(client.reply().status(), 200);
    }
    assert_eq!(proxy.counters().mirrors_given_up, 12);
}

#[test]
fn the_routes_timeout_ends_a_copy() {
    let upstream = Upstream::echo();
    let silent = silent();
    let proxy = with(&upstream, &[(silent.address, ALL)]).timeout(Duration::from_secs(1)).start();
    assert_eq!(proxy.get("/").status(), 200);
    eventually("it is counted", || proxy.counters().mirrors_failed == 1);
}

#[test]
fn shares_and_missing_clusters() {
    let upstream = Upstream::echo();
    // Copies stay on their way, so that the bound of 128 tells before each answer how many there are.
    let mirror = silent();
    let mut config = with(&upstream, &[(mirror.address, Share(500_000)), (mirror.address, Share(0))]);
    let name = ClusterName::outbound(80, "gone", HOST);
    config.forward.mirrors.push(Mirror { cluster: ClusterRef { name, cluster: None }, share: ALL });
    let proxy = config.start();
    let mut client = proxy.client();
    let mut get = || {
        client.send(crate::support::get(HOST, "/"));
        assert_eq!(client.reply().status(), 200);
    };
    // 80 of these are copied, give or take 6.
    (0..160).for_each(|_| get());
    assert_eq!(proxy.counters().mirrors_given_up, 0);
    // And 100 of these, which is too many.
    (0..200).for_each(|_| get());
    assert!(proxy.counters().mirrors_given_up > 0);
    eventually("the others are copied", || mirror.connections() == 128);
}

#[test]
fn a_request_is_copied_once_however_often_it_is_tried() {
    let answered = AtomicUsize::new(0);
    let upstream = Upstream::start(move |mut client, _| {
        while let Some(request) = client.request() {
            let number = answered.fetch_add(1, Ordering::SeqCst);
            let answer = if number < 2 { "503 Service Unavailable" } else { "200 OK" };
            client.send(format!("HTTP/1.1 {answer}\r\ncontent-length: {}\r\n\r\n", request.body.len()));
            client.send(request.body);
        }
    });
    let (mirror, seen) = remembering(OK);
    let on_503 = RetryOn { status_codes: vec![503], ..RetryOn::default() };
    let proxy = with(&upstream, &[(mirror.address, ALL)]).retries(2, on_503).start();
    let reply = proxy.exchange(&format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 3\r\n\r\nabc"));
    assert_eq!((reply.status(), reply.text().as_str()), (200, "abc"));
    let bodies = |count| wait(&seen, count).into_iter().map(|(_, body)| body).collect::<Vec<_>>();
    assert_eq!(bodies(1), [b"abc"]);
    eventually("the copy is answered", || proxy.counters().mirrors_sent == 1);
    // A copy of a later try would have been sent before this one.
    let second = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 3\r\n\r\ndef");
    assert_eq!(proxy.exchange(&second).text(), "def");
    assert_eq!(bodies(2), [b"abc", b"def"]);
    eventually("both are counted", || proxy.counters().mirrors_sent == 2);
    let counters = proxy.counters();
    assert_eq!((counters.mirrors_failed, counters.mirrors_given_up), (0, 0));
}

#[test]
fn connections_to_mirrors_are_kept() {
    let upstream = Upstream::echo();
    let (mirror, seen) = remembering(OK);
    let proxy = with(&upstream, &[(mirror.address, ALL)]).start();
    let mut client = proxy.client();
    for count in 1..=5 {
        client.send(crate::support::get(HOST, "/"));
        assert_eq!(client.reply().status(), 200);
        wait(&seen, count);
        eventually("answered", || proxy.counters().mirrors_sent == count as u64);
    }
    assert_eq!(mirror.connections(), 1);
}

#[test]
fn a_change_of_protocol_is_not_copied() {
    let upstream = Upstream::start(|mut client, _| {
        client.request();
        client.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello",
        );
        client.read_to_end();
    });
    let (mirror, seen) = remembering(OK);
    let proxy = with(&upstream, &[(mirror.address, ALL)]).start();
    let mut client = proxy.client();
    client
        .send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"));
    client.read_until("hello");
    drop(client);
    assert_eq!(proxy.records.only().number("response_code"), 101);
    assert_eq!((mirror.connections(), seen.lock().unwrap().len()), (0, 0));
}
