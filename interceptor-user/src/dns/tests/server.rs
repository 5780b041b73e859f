//! A DNS server on loopback, UDP and TCP, that answers from a table with hand-made packets.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;

/// What is said of a name.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Addresses with their time to live; the family not asked for is left out.
    Addresses(Vec<IpAddr>, u32),
    /// An alias, then the addresses of the last name.
    Aliases(Vec<String>, Vec<IpAddr>, u32),
    /// NXDOMAIN, with a SOA record of this negative time to live.
    Nothing(Option<u32>),
    /// Another response code.
    Code(u8),
    /// The truncation bit over UDP, this over TCP.
    OverTcp(Box<Reply>),
    /// Not DNS.
    Garbage(Vec<u8>),
    Silence,
    /// Addresses for A; AAAA is never answered.
    NoIpv6Answer(IpAddr),
}

pub(super) fn addresses(addresses: &[&str], ttl: u32) -> Reply {
    Reply::Addresses(addresses.iter().map(|address| address.parse().unwrap()).collect(), ttl)
}

/// One question as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) kind: u16,
    pub(super) is_tcp: bool,
}

#[derive(Default)]
struct Table {
    replies: HashMap<String, Reply>,
    default: Option<Reply>,
    asked: Vec<Asked>,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    table: Arc<Mutex<Table>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start() -> Self {
        for _ in 0..100 {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(server) = Self::start_with(tcp).await {
                return server;
            }
        }
        panic!("no port is free for both UDP and TCP");
    }

    pub(super) async fn start_at(address: SocketAddr) -> Self {
        Self::start_with(TcpListener::bind(address).await.unwrap()).await.unwrap()
    }

    async fn start_with(tcp: TcpListener) -> std::io::Result<Self> {
        let address = tcp.local_addr()?;
        let udp = Arc::new(UdpSocket::bind(address).await?);
        let table = Arc::new(Mutex::new(Table::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&table)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&table)));
        Ok(Self { address, table, _tasks: tasks })
    }

    pub(super) fn set(&self, name: &str, reply: Reply) {
        self.table.lock().unwrap().replies.insert(name.to_owned(), reply);
    }

    /// For all names not set.
    pub(super) fn set_default(&self, reply: Reply) {
        self.table.lock().unwrap().default = Some(reply);
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.table.lock().unwrap().asked.clone()
    }

    /// How often a name was asked for its IPv4 addresses.
    pub(super) fn times(&self, name: &str) -> usize {
        self.asked().iter().filter(|asked| asked.name == name && asked.kind == A).count()
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, table: Arc<Mutex<Table>>) {
    let mut buffer = [0; 4096];
    loop {
        // A client that is gone makes the next receive fail.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(reply) = reply_to(&buffer[..length], &table, false) {
            socket.send_to(&reply, from).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, table: Arc<Mutex<Table>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(serve_connection(stream, Arc::clone(&table)));
    }
}

async fn serve_connection(mut stream: TcpStream, table: Arc<Mutex<Table>>) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await.unwrap();
        if let Some(reply) = reply_to(&query, &table, true) {
            stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    }
}

fn reply_to(query: &[u8], table: &Mutex<Table>, is_tcp: bool) -> Option<Vec<u8>> {
    let (name, kind, question_end) = question(query);
    let reply = {
        let mut table = table.lock().unwrap();
        table.asked.push(Asked { name: name.clone(), kind, is_tcp });
        table.replies.get(&name).or(table.default.as_ref()).cloned().unwrap_or(Reply::Nothing(None))
    };
    let reply =
        if let (Reply::OverTcp(over_tcp), true) = (&reply, is_tcp) { (**over_tcp).clone() } else { reply };
    let question = &query[12..question_end];
    let answer = |code: u8, is_truncated: bool, answers: &[Vec<u8>], authorities: &[Vec<u8>]| {
        let mut packet = query[..2].to_vec();
        packet.extend([0x81 | if is_truncated { 2 } else { 0 }, 0x80 | code, 0, 1]);
        packet.extend(u16::try_from(answers.len()).unwrap().to_be_bytes());
        packet.extend(u16::try_from(authorities.len()).unwrap().to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(question);
        packet.extend(answers.concat());
        packet.extend(authorities.concat());
        Some(packet)
    };
    match reply {
        Reply::Addresses(addresses, ttl) => {
            answer(0, false, &address_records(&name, kind, &addresses, ttl), &[])
        }
        Reply::Aliases(aliases, addresses, ttl) => {
            let mut records = Vec::new();
            let mut owner = name;
            for alias in aliases {
                records.push(record(&owner, CNAME, ttl, &encoded(&alias)));
                owner = alias;
            }
            records.extend(address_records(&owner, kind, &addresses, ttl));
            answer(0, false, &records, &[])
        }
        Reply::Nothing(ttl) => {
            let soa = ttl.map(|ttl| {
                let numbers: Vec<u8> =
                    [1, 2, 3, 4, ttl].iter().flat_map(|number: &u32| number.to_be_bytes()).collect();
                record(
                    "example",
                    SOA,
                    ttl,
                    &[encoded("ns.example"), encoded("root.example"), numbers].concat(),
                )
            });
            answer(3, false, &[], &soa.into_iter().collect::<Vec<_>>())
        }
        Reply::Code(code) => answer(code, false, &[], &[]),
        Reply::OverTcp(_) => answer(0, true, &[], &[]),
        Reply::Garbage(bytes) => Some([&query[..2], &bytes].concat()),
        Reply::Silence => None,
        Reply::NoIpv6Answer(_) if kind == AAAA => None,
        Reply::NoIpv6Answer(address) => answer(0, false, &address_records(&name, kind, &[address], 60), &[]),
    }
}

fn address_records(owner: &str, kind: u16, addresses: &[IpAddr], ttl: u32) -> Vec<Vec<u8>> {
    let of_family = |address: &IpAddr| match (address, kind) {
        (IpAddr::V4(address), A) => Some(record(owner, A, ttl, &address.octets())),
        (IpAddr::V6(address), AAAA) => Some(record(owner, AAAA, ttl, &address.octets())),
        _ => None,
    };
    addresses.iter().filter_map(of_family).collect()
}

fn record(owner: &str, kind: u16, ttl: u32, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&encoded(owner)[..], &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &length, content].concat()
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// The first question's name and type, and where it ends.
fn question(query: &[u8]) -> (String, u16, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]), at + 5)
}

/// Waits for a state that must come.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
