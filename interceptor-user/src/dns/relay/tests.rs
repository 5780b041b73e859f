//! The relay on loopback, between clients and a name server that says what it is told to.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::{Relay, RelayOptions};
use crate::dns::{DnsCounters, LearnedNames, Options, Resolver, Servers};

const PATIENCE: Duration = Duration::from_secs(5);
const FLOWS_MAX: usize = 30;
const ADDRESS: &str = "192.0.2.1";

struct Bed {
    relay: Relay,
    at: SocketAddr,
    server: UdpSocket,
    learned: Arc<LearnedNames>,
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

impl Bed {
    /// `is_known`: a name server stands behind the socket.
    fn start(is_known: bool) -> Self {
        let server = socket();
        let server_address = server.local_addr().unwrap();
        let taking = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = taking.local_addr().unwrap();
        taking.set_nonblocking(true).unwrap();
        let servers = Servers::Fixed(vec![server_address]);
        let resolver = Resolver::start(Options { servers, ..Options::default() }).unwrap();
        let started = Instant::now();
        while !resolver.asks(server_address.ip()) {
            assert!(started.elapsed() < PATIENCE, "the resolver does not say whom it asks");
            std::thread::yield_now();
        }
        let learned = Arc::new(LearnedNames::default());
        let relay = Relay::start(RelayOptions {
            sockets: vec![taking],
            server_of: Arc::new(move |index| (is_known && index == 0).then_some(server_address)),
            resolver,
            learned: Arc::clone(&learned),
            netns: None,
            flows_max: FLOWS_MAX,
        })
        .unwrap();
        Self { relay, at, server, learned }
    }

    fn client(&self) -> UdpSocket {
        let client = socket();
        client.connect(self.at).unwrap();
        client
    }

    /// What the server received, and from whom.
    fn asked(&self) -> (Vec<u8>, SocketAddr) {
        received(&self.server)
    }

    fn is_learned(&self, name: &str) -> bool {
        let address: IpAddr = ADDRESS.parse().unwrap();
        self.learned.names(address).is_some_and(|names| self.learned.has(&names, name, true))
    }

    fn counted(&self, what: &str, is_so: impl Fn(&DnsCounters) -> bool) {
        let started = Instant::now();
        while !is_so(&self.learned.counters()) {
            assert!(started.elapsed() < PATIENCE, "{what}: {:?}", self.learned.counters());
            std::thread::yield_now();
        }
    }
}

fn received(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_535];
    let (length, from) = loop {
        match socket.recv_from(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received.unwrap(),
        }
    };
    buffer.truncate(length);
    (buffer, from)
}

fn message(kind: MessageType, id: u16, name: &str) -> Message {
    let name = Name::from_ascii(name).unwrap();
    let mut message = Message::new(id, kind, OpCode::Query);
    message.add_query(Query::query(name.clone(), RecordType::A));
    if kind == MessageType::Response {
        message.add_answer(Record::from_rdata(name, 60, RData::A(A(ADDRESS.parse().unwrap()))));
    }
    message
}

fn query(id: u16, name: &str) -> Vec<u8> {
    message(MessageType::Query, id, name).to_vec().unwrap()
}

fn answer(id: u16, name: &str) -> Vec<u8> {
    message(MessageType::Response, id, name).to_vec().unwrap()
}

#[test]
fn every_answer_passes_but_only_the_one_that_was_asked_for_is_learned() {
    let bed = Bed::start(true);
    let client = bed.client();
    client.send(&query(7, "a.test.")).unwrap();
    let (asked, relay) = bed.asked();
    assert_eq!(asked, query(7, "a.test."));
    let mut expected = DnsCounters { dns_queries: 1, ..DnsCounters::default() };
    for (bytes, is_malformed) in [
        (answer(8, "a.test."), false),
        (answer(7, "b.test."), false),
        (b"\x00\x07nonsense".to_vec(), true),
        (answer(7, "a.test.")[..30].to_vec(), true),
        (Vec::new(), true),
    ] {
        bed.server.send_to(&bytes, relay).unwrap();
        assert_eq!(received(&client), (bytes, bed.at));
        expected.dns_answers += 1;
        expected.dns_malformed += u64::from(is_malformed);
        expected.dns_unasked += u64::from(!is_malformed);
        assert_eq!(bed.learned.counters(), expected);
    }
    assert!(!bed.is_learned("a.test") && !bed.is_learned("b.test"));

    bed.server.send_to(&answer(7, "a.test."), relay).unwrap();
    assert_eq!(received(&client).0, answer(7, "a.test."));
    assert!(bed.is_learned("a.test"), "when the answer is there, its names are");
    // A second answer to one question is somebody else's word.
    bed.server.send_to(&answer(7, "a.test."), relay).unwrap();
    assert_eq!(received(&client).0, answer(7, "a.test."));
    assert_eq!(bed.learned.counters().dns_unasked, 3);
    assert!(!bed.relay.failed());
}

#[test]
fn nobody_but_the_server_can_answer() {
    let bed = Bed::start(true);
    let client = bed.client();
    client.send(&query(7, "a.test.")).unwrap();
    let (_, relay) = bed.asked();
    let stranger = socket();
    stranger.send_to(&answer(7, "a.test."), SocketAddr::new(bed.at.ip(), relay.port())).unwrap();
    bed.server.send_to(&answer(9, "a.test."), relay).unwrap();
    assert_eq!(received(&client).0, answer(9, "a.test."));
    assert!(!bed.is_learned("a.test"));
}

#[test]
fn each_client_socket_is_a_socket_to_the_server() {
    let bed = Bed::start(true);
    let (one, two) = (bed.client(), bed.client());
    one.send(&query(1, "a.test.")).unwrap();
    let (_, first) = bed.asked();
    one.send(&query(2, "b.test.")).unwrap();
    let (_, again) = bed.asked();
    two.send(&query(1, "a.test.")).unwrap();
    let (_, other) = bed.asked();
    assert_eq!(first, again);
    assert_ne!(first, other);
    // In whatever order they are answered.
    for (to, id, name, client) in
        [(other, 1, "a.test.", &two), (first, 2, "b.test.", &one), (first, 1, "a.test.", &one)]
    {
        bed.server.send_to(&answer(id, name), to).unwrap();
        assert_eq!(received(client).0, answer(id, name));
    }
    assert_eq!(bed.learned.counters().dns_learned, 3);
}

/// What is no DNS passes both ways, too, however often.
#[test]
fn other_protocols_pass() {
    let bed = Bed::start(true);
    let client = bed.client();
    for round in 0..3_u8 {
        let datagram = vec![round; 1200];
        client.send(&datagram).unwrap();
        let (got, relay) = bed.asked();
        assert_eq!(got, datagram);
        for part in 0..2 {
            bed.server.send_to(&[round, part], relay).unwrap();
            assert_eq!(received(&client).0, [round, part]);
        }
    }
}

#[test]
fn what_nobody_stands_behind_is_lost() {
    let bed = Bed::start(false);
    bed.client().send(&query(7, "a.test.")).unwrap();
    bed.counted("dropped", |counters| counters.dns_dropped == 1 && counters.dns_queries == 0);
    assert!(!bed.relay.failed());
}

#[test]
fn sockets_to_servers_are_bounded() {
    let bed = Bed::start(true);
    let clients: Vec<UdpSocket> = (0..FLOWS_MAX + 20).map(|_| bed.client()).collect();
    for (client, sent) in clients.iter().zip(1..) {
        client.send(&query(7, "a.test.")).unwrap();
        bed.counted("taken", |counters| counters.dns_queries + counters.dns_dropped == sent);
    }
    assert_eq!(bed.learned.counters().dns_dropped, 20);
}
