//! One proxy, many workloads: each has its own configuration and its own connections, and goes without a trace.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use interceptor_user::proxy::{ProxiedWorkload, Proxy, ProxyOptions, Shares, WorkloadId};
use interceptor_user::snapshot::{AccessLogEncoding, OutboundTrafficPolicy, Snapshot};
use interceptor_user::telemetry::AccessLog;

use crate::stopwatch::Stopwatch;
use crate::support::{Client, Config, HOST, PATIENCE, Upstream, eventually, get, resolver, workload};

const ORIGINAL_DST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 80);

fn proxy(threads: usize) -> Proxy {
    let (resolver, _no_names_are_used) = resolver();
    let access_log = AccessLog::open(Default::default(), Arc::new(AccessLogEncoding::Text.into())).unwrap();
    Proxy::start(ProxyOptions { resolver, access_log, threads }).unwrap()
}

/// What becomes of a request to the declared host.
fn status(workload: SocketAddr) -> u16 {
    let mut client = Client::connect(workload);
    client.send(get(HOST, "/"));
    client.reply().status()
}

fn is_refused(workload: SocketAddr) -> bool {
    TcpStream::connect(workload).is_err()
}

fn is_gone(proxy: &Proxy, id: WorkloadId) -> bool {
    proxy.counters_of(id).is_none()
}

/// A workload whose bytes go to `server` as they are.
fn opaque(proxy: &Proxy, server: SocketAddr) -> (SocketAddr, ProxiedWorkload) {
    workload(&proxy.configure(Snapshot::empty(OutboundTrafficPolicy::AllowAny)), server)
}

#[test]
fn workloads_have_the_configuration_of_their_client() {
    let upstream = Upstream::echo();
    let proxy = proxy(2);
    let allowed = proxy.configure(Config::new(&[upstream.address]).build(80));
    let denied = proxy.configure(Snapshot::empty(OutboundTrafficPolicy::RegistryOnly));
    let (one, of_one) = workload(&allowed, ORIGINAL_DST);
    let (two, of_two) = workload(&denied, ORIGINAL_DST);
    let (first, _second) = (proxy.add(of_one).unwrap(), proxy.add(of_two).unwrap());
    let is_let_through = |address: SocketAddr| {
        let mut client = Client::connect(address);
        client.send(get(HOST, "/"));
        !client.read_to_end_of_head().is_empty()
    };
    assert_eq!((is_let_through(one), is_let_through(two)), (true, false));

    assert!(proxy.reconfigure(first, &denied));
    assert_eq!((is_let_through(one), is_let_through(two)), (false, false));

    denied.publish(Config::new(&[upstream.address]).build(80));
    assert_eq!((status(one), status(two)), (200, 200));
}

#[test]
fn no_upstream_connection_is_shared_by_two_workloads() {
    let upstream = Upstream::echo();
    let proxy = proxy(1);
    let configured = proxy.configure(Config::new(&[upstream.address]).build(80));
    let (one, of_one) = workload(&configured, ORIGINAL_DST);
    let (two, of_two) = workload(&configured, ORIGINAL_DST);
    for workload in [of_one, of_two] {
        proxy.add(workload).unwrap();
    }
    for _ in 0..3 {
        assert_eq!((status(one), status(two)), (200, 200));
    }
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn bounds_are_each_workloads_own() {
    let (answer, held) = channel::<()>();
    let held = std::sync::Mutex::new(held);
    // The first connection is answered when the test says so.
    let upstream = Upstream::start(move |mut client, number| {
        while client.request().is_some() {
            if number == 1 {
                held.lock().unwrap().recv().unwrap();
            }
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let mut config = Config::new(&[upstream.address]);
    config.cluster.bounds.connections = Some(1);
    config.cluster.bounds.requests = Some(1);
    config.cluster.bounds.pending_requests = Some(1);
    let proxy = proxy(1);
    let configured = proxy.configure(config.build(80));
    let (one, of_one) = workload(&configured, ORIGINAL_DST);
    let (two, of_two) = workload(&configured, ORIGINAL_DST);
    for workload in [of_one, of_two] {
        proxy.add(workload).unwrap();
    }
    let mut busy = Client::connect(one);
    busy.send(get(HOST, "/"));
    eventually("its request is there", || upstream.connections() == 1);
    assert_eq!(status(two), 200);

    // Its own it does use up: one waits, and the next is refused.
    let mut waiting = Client::connect(one);
    waiting.send(get(HOST, "/"));
    eventually("one more is too many", || status(one) == 503);
    for _ in 0..2 {
        answer.send(()).unwrap();
    }
    assert_eq!((busy.reply().status(), waiting.reply().status()), (200, 200));
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_removed_workload_ends_at_once_when_nothing_is_open() {
    let upstream = Upstream::echo();
    let proxy = proxy(2);
    let configured = proxy.configure(Config::new(&[upstream.address]).build(80));
    let (address, workload) = workload(&configured, ORIGINAL_DST);
    let (kept, of_kept) = self::workload(&configured, ORIGINAL_DST);
    let id = proxy.add(workload).unwrap();
    proxy.add(of_kept).unwrap();
    // The connection that is kept alive has no request under way.
    let mut idle = Client::connect(address);
    idle.send(get(HOST, "/"));
    assert_eq!(idle.reply().status(), 200);

    assert!(proxy.remove(id, Duration::from_secs(3600)));
    assert!(idle.is_closed());
    eventually("it is gone", || is_gone(&proxy, id));
    assert!(is_refused(address));
    assert!(!proxy.remove(id, PATIENCE) && !proxy.reconfigure(id, &configured));

    assert_eq!(status(kept), 200);
    let counters = proxy.counters();
    assert_eq!(counters.connections_accepted, 2, "those of a workload that is gone count still");
}

#[test]
fn a_removed_workloads_connections_may_end_in_time() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = proxy(2);
    let (address, workload) = opaque(&proxy, server.local_addr().unwrap());
    let id = proxy.add(workload).unwrap();
    let mut client = Client::connect(address);
    client.send("before ");
    let mut upstream = Client::over(server.accept().unwrap().0);
    assert_eq!(upstream.read_until(" "), "before ");

    assert!(proxy.remove(id, Duration::from_secs(3600)));
    eventually("nobody listens any more", || TcpListener::bind(address).is_ok());
    client.send("after");
    client.half_close();
    assert_eq!(upstream.read_to_end(), b"after");
    upstream.send("answer");
    assert!(!is_gone(&proxy, id));
    drop(upstream);
    assert_eq!(client.read_to_end(), b"answer");
    eventually("it is gone", || is_gone(&proxy, id));
}

#[test]
fn a_removed_workloads_connections_are_broken_off_after_their_time() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = proxy(2);
    let (address, workload) = opaque(&proxy, server.local_addr().unwrap());
    let id = proxy.add(workload).unwrap();
    // More than one thread has a part of it.
    let clients: Vec<_> = (0..4).map(|_| Client::connect(address)).collect();
    let upstreams: Vec<_> = (0..4).map(|_| Client::over(server.accept().unwrap().0)).collect();

    let started = Stopwatch::start();
    assert!(proxy.remove(id, Duration::from_secs(3600)));
    assert!(started.elapsed() < Duration::from_secs(1), "it does not wait");
    // The end can be brought forward.
    assert!(proxy.remove(id, Duration::from_millis(20)));
    // Not in good order: nobody is to take for all what came.
    for mut end in clients.into_iter().chain(upstreams) {
        let error = end.stream.read_exact(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    eventually("it is gone", || is_gone(&proxy, id));
    assert_eq!(proxy.counters().connections_open, 0);
}

#[test]
fn a_workload_with_too_many_connections_hurts_nobody_else() {
    let upstream = Upstream::echo();
    let proxy = proxy(2);
    let configured = proxy.configure(Config::new(&[upstream.address]).build(80));
    let (greedy, mut of_greedy) = workload(&configured, ORIGINAL_DST);
    of_greedy.connections_max = 3;
    let (other, of_other) = workload(&configured, ORIGINAL_DST);
    let greedy_id = proxy.add(of_greedy).unwrap();
    proxy.add(of_other).unwrap();
    let mut kept: Vec<_> = (0..3).map(|_| Client::connect(greedy)).collect();
    let open = || proxy.counters_of(greedy_id).unwrap().connections_open;
    eventually("they are open", || open() == 3);

    let mut surplus = Client::connect(greedy);
    let error = surplus.stream.read_exact(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(proxy.counters().connections_surplus, 1);
    assert_eq!(status(other), 200);
    for client in &mut kept {
        client.send(get(HOST, "/"));
        assert_eq!(client.reply().status(), 200);
    }
    kept.clear();
    eventually("they are closed", || open() == 0);
    assert_eq!(status(greedy), 200);
}

#[test]
fn what_waits_to_be_accepted_is_carried_when_its_workload_is_removed() {
    let upstream = Upstream::echo();
    let proxy = proxy(2);
    let configured = proxy.configure(Config::new(&[upstream.address]).build(80));
    for _ in 0..20 {
        let (address, workload) = workload(&configured, ORIGINAL_DST);
        let mut waiting: Vec<_> = (0..10).map(|_| Client::connect(address)).collect();
        let id = proxy.add(workload).unwrap();
        assert!(proxy.remove(id, PATIENCE));
        for client in &mut waiting {
            client.send(get(HOST, "/"));
        }
        for client in &mut waiting {
            assert_eq!(client.reply().status(), 200);
        }
    }
}

#[test]
fn a_listening_socket_that_fails_is_told_and_hurts_nobody_else() {
    let upstream = Upstream::echo();
    let proxy = proxy(2);
    let configured = proxy.configure(Config::new(&[upstream.address]).build(80));
    let (_, broken) = workload(&configured, ORIGINAL_DST);
    let (kept, of_kept) = workload(&configured, ORIGINAL_DST);
    let socket: OwnedFd = broken.listeners[0].try_clone().unwrap().into();
    let (broken, of_kept) = (proxy.add(broken).unwrap(), proxy.add(of_kept).unwrap());
    assert_eq!((proxy.failure(broken), proxy.failure(of_kept)), (None, None));

    // accept(2) has nothing to say on it any more.
    TcpStream::from(socket).shutdown(Shutdown::Both).unwrap();
    eventually("it is told", || proxy.failure(broken).is_some());
    assert_eq!(proxy.failure(of_kept), None);
    assert!(!proxy.failed());
    assert_eq!(status(kept), 200);
}

#[test]
fn workloads_come_and_go_under_load() {
    let upstream = Upstream::echo();
    let proxy = Arc::new(proxy(2));
    let configured = proxy.configure(Config::new(&[upstream.address]).build(80));
    let (steady, of_steady) = workload(&configured, ORIGINAL_DST);
    proxy.add(of_steady).unwrap();
    let stop = AtomicBool::new(false);
    let (requests, served) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                requests.send(status(steady)).unwrap();
            }
        });
        for _ in 0..100 {
            let (address, workload) = workload(&configured, ORIGINAL_DST);
            let id = proxy.add(workload).unwrap();
            assert_eq!(status(address), 200);
            assert!(proxy.remove(id, Duration::ZERO));
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(served.try_iter().all(|status| status == 200));
}

#[test]
fn clients_of_a_gateway_share_what_there_is() {
    let upstream = Upstream::echo();
    let proxy = proxy(2);
    let configured = proxy.configure(Config::new(&[upstream.address]).build(80));
    let shares = Arc::new(Shares::new(6));
    let [one, two] = [(); 2].map(|()| {
        let (address, mut port) = workload(&configured, ORIGINAL_DST);
        port.shares = Some(Arc::clone(&shares));
        proxy.add(port).unwrap();
        address
    });
    let connect = |client: u8, port: SocketAddr| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, client], 0)).into()).unwrap();
        socket.connect(&port.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client::over(stream)
    };
    let is_served = |client: &mut Client<TcpStream>| {
        client.send(get(HOST, "/"));
        client.reply().status() == 200
    };
    let is_reset = |mut client: Client<TcpStream>| {
        let error = client.stream.read_exact(&mut [0]).unwrap_err();
        error.kind() == ErrorKind::ConnectionReset
    };
    let mut greedy: Vec<_> = [one, two, one].map(|port| connect(2, port)).into();
    assert!(greedy.iter_mut().all(is_served));
    assert!(is_reset(connect(2, one)) && is_reset(connect(2, two)));
    let mut other = connect(3, two);
    assert!(is_served(&mut other));
    assert_eq!(proxy.counters().connections_surplus, 2);

    greedy.clear();
    eventually("they are closed", || proxy.counters().connections_open == 1);
    assert!(is_served(&mut connect(2, two)));
}

/// An HTTP/2 client's first words, and so many requests for the declared host, each on a stream of its own.
fn http2_requests(count: u32) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    // HPACK's static table: `:method: GET`, `:path: /`, `:scheme: http`; `:authority` with a value of its own.
    let head = [&[0x82, 0x84, 0x86, 0x01, u8::try_from(HOST.len()).unwrap()], HOST.as_bytes()].concat();
    let requests = (0..count).flat_map(|number| frame(1, 5, 2 * number + 1, &head));
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().copied().chain(frame(4, 0, 0, &[])).chain(requests).collect()
}

#[test]
fn requests_on_one_http2_connection_count_as_connections() {
    // Who asks it waits, as long as it is there.
    let upstream = Upstream::start(|mut client, _| {
        client.request();
        client.read_to_end();
    });
    let proxy = proxy(1);
    let configured = proxy.configure(Config::new(&[upstream.address]).build(80));
    let (greedy, mut of_greedy) = workload(&configured, ORIGINAL_DST);
    of_greedy.connections_max = 8;
    let greedy_id = proxy.add(of_greedy).unwrap();
    let surplus = || proxy.counters_of(greedy_id).unwrap().connections_surplus;

    let mut client = Client::connect(greedy);
    client.send(http2_requests(50));
    eventually("the others are refused", || surplus() == 42);
    eventually("each of the rest has its own connection", || upstream.connections() == 8);
    assert!(Client::connect(greedy).stream.read_exact(&mut [0]).is_err());
    assert_eq!(surplus(), 43);

    drop(client);
    eventually("they are over", || proxy.counters_of(greedy_id).unwrap().connections_open == 0);
    let mut client = Client::connect(greedy);
    client.send(http2_requests(8));
    eventually("what was taken has been given back", || upstream.connections() == 16);
    assert_eq!(surplus(), 43);
}

#[test]
fn requests_on_one_http2_connection_take_their_clients_share() {
    let upstream = Upstream::start(|mut client, _| {
        client.request();
        client.read_to_end();
    });
    let proxy = proxy(1);
    let configured = proxy.configure(Config::new(&[upstream.address]).build(80));
    let (address, mut port) = workload(&configured, ORIGINAL_DST);
    port.shares = Some(Arc::new(Shares::new(12)));
    proxy.add(port).unwrap();
    let mut client = Client::connect(address);
    client.send(http2_requests(50));
    eventually("the others are refused", || proxy.counters().connections_surplus == 44);
    eventually("each of the rest has its own connection", || upstream.connections() == 6);
}
