//! Real sockets on loopback on both sides of a copy.

mod tls;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet};

use super::{CopyEnd, Transferred, copy_bidirectional_io, splice_bidirectional};

#[derive(Clone, Copy, Debug)]
enum Method {
    Splice,
    Buffer,
}

const METHODS: [Method; 2] = [Method::Splice, Method::Buffer];

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (client, server)
}

/// How a copy ended, and how many bytes it received and sent.
type Copied = (CopyEnd, u64, u64);

/// A client and an origin, and a copy between them.
async fn copying(method: Method, idle_timeout: Duration) -> (TcpStream, TcpStream, JoinHandle<Copied>) {
    let (client, mut downstream) = connected().await;
    let (mut upstream, origin) = connected().await;
    let copy = tokio::task::spawn_local(async move {
        let progress = Transferred::default();
        let end = match method {
            Method::Splice => {
                splice_bidirectional(&mut downstream, &mut upstream, idle_timeout, &progress).await
            }
            Method::Buffer => copy_bidirectional_io(&downstream, upstream, idle_timeout, &progress).await,
        };
        (end, progress.received.get(), progress.sent.get())
    });
    (client, origin, copy)
}

/// So many bytes at once are not taken for few.
const MANY: usize = 40_000;

const NEVER: Duration = Duration::ZERO;

async fn for_each_method<F>(test: impl Fn(Method) -> F)
where
    F: Future<Output = ()>,
{
    for method in METHODS {
        let case = LocalSet::new();
        let deadline = Duration::from_secs(60);
        let ended = tokio::time::timeout(deadline, case.run_until(test(method))).await;
        assert!(ended.is_ok(), "{method:?} hangs");
    }
}

fn is_reset(result: std::io::Result<usize>) -> bool {
    matches!(result, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    for_each_method(async |method| {
        // the client first
        let (mut client, mut origin, copy) = copying(method, NEVER).await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        origin.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        origin.write_all(b"a long answer").await.unwrap();
        origin.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "a long answer");
        let (end, received, sent) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::Closed), "{method:?} {end:?}");
        assert_eq!((received, sent), (8, 13));

        // the origin first
        let (mut client, mut origin, copy) = copying(method, NEVER).await;
        origin.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        client.write_all(b"still here").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = String::new();
        origin.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "still here");
        let (end, received, sent) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::Closed), "{method:?} {end:?}");
        assert_eq!((received, sent), (10, 0));
    })
    .await;
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    for_each_method(async |method| {
        let (mut client, origin, copy) = copying(method, NEVER).await;
        drop_with_reset(origin);
        let (end, ..) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::UpstreamReset), "{method:?} {end:?}");
        assert!(is_reset(client.read(&mut [0; 8]).await), "{method:?}");

        let (client, mut origin, copy) = copying(method, NEVER).await;
        drop_with_reset(client);
        let (end, ..) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::DownstreamReset), "{method:?} {end:?}");
        if let Method::Splice = method {
            assert!(is_reset(origin.read(&mut [0; 8]).await));
        }
    })
    .await;
}

#[tokio::test]
async fn a_reset_after_half_a_close_is_passed_on() {
    for_each_method(async |method| {
        let (mut client, mut origin, copy) = copying(method, NEVER).await;
        client.shutdown().await.unwrap();
        assert_eq!(origin.read(&mut [0; 8]).await.unwrap(), 0);
        drop_with_reset(client);
        let (end, ..) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::DownstreamReset), "{method:?} {end:?}");
        if let Method::Splice = method {
            origin.write_all(b"x").await.unwrap_err();
        }
    })
    .await;
    // the other way round: only a socket can be watched without being read
    LocalSet::new()
        .run_until(async {
            let (mut client, mut origin, copy) = copying(Method::Splice, NEVER).await;
            origin.shutdown().await.unwrap();
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
            drop_with_reset(origin);
            let (end, ..) = copy.await.unwrap();
            assert!(matches!(end, CopyEnd::UpstreamReset), "{end:?}");
        })
        .await;
}

fn drop_with_reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

/// Writes until the connection takes no more for a while.
async fn write_until_blocked(stream: &mut TcpStream) -> usize {
    let chunk = vec![7; 64 << 10];
    let mut written = 0;
    while let Ok(result) = tokio::time::timeout(Duration::from_millis(300), stream.write(&chunk)).await {
        written += result.unwrap();
        assert!(written < 256 << 20, "no backpressure");
    }
    written
}

#[tokio::test]
async fn a_slow_reader_holds_its_sender_back_and_gets_everything() {
    for_each_method(async |method| {
        let (mut client, mut origin, copy) = copying(method, NEVER).await;
        let written = write_until_blocked(&mut client).await;
        // the other direction goes on meanwhile
        origin.write_all(b"hurry").await.unwrap();
        let mut buffer = [0; 5];
        client.read_exact(&mut buffer).await.unwrap();
        let reading = tokio::task::spawn_local(async move {
            let mut total = 0;
            let mut buffer = vec![0; 64 << 10];
            loop {
                match origin.read(&mut buffer).await.unwrap() {
                    0 => return total,
                    read => total += read,
                }
            }
        });
        client.shutdown().await.unwrap();
        assert_eq!(reading.await.unwrap(), written, "{method:?}");
        let (end, received, sent) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::Closed), "{method:?} {end:?}");
        assert_eq!((received, sent), (written as u64, 5));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_resets_while_the_origin_does_not_read() {
    for_each_method(async |method| {
        let (mut client, origin, copy) = copying(method, NEVER).await;
        write_until_blocked(&mut client).await;
        drop_with_reset(client);
        let (end, ..) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::DownstreamReset), "{method:?} {end:?}");
        drop(origin);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_closes_while_the_origin_goes_on_sending() {
    for_each_method(async |method| {
        let (client, mut origin, copy) = copying(method, NEVER).await;
        drop(client);
        assert_eq!(origin.read(&mut [0; 8]).await.unwrap(), 0);
        let chunk = vec![7; 64 << 10];
        if let Method::Splice = method {
            while origin.write_all(&chunk).await.is_ok() {}
        } else {
            origin.write_all(&chunk).await.unwrap();
        }
        let (end, ..) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::DownstreamReset), "{method:?} {end:?}");
    })
    .await;
}

#[tokio::test]
async fn what_moves_nothing_ends_after_the_idle_timeout() {
    for_each_method(async |method| {
        let idle_timeout = Duration::from_secs(1);
        let (mut client, mut origin, copy) = copying(method, idle_timeout).await;
        let started = std::time::Instant::now();
        let mut last = started;
        // one direction alone keeps both open
        let mut buffer = [0; 1];
        while started.elapsed() < 2 * idle_timeout {
            last = std::time::Instant::now();
            origin.write_all(b"x").await.unwrap();
            client.read_exact(&mut buffer).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (end, ..) = copy.await.unwrap();
        assert!(matches!(end, CopyEnd::IdleTimeout), "{method:?} {end:?}");
        assert!(last.elapsed() >= idle_timeout);
        assert_eq!(client.read(&mut buffer).await.unwrap(), 0);
    })
    .await;
}

/// A copy that counts how often it is polled.
async fn counted(method: Method) -> (TcpStream, TcpStream, Rc<Cell<usize>>) {
    let (client, mut downstream) = connected().await;
    let (mut upstream, origin) = connected().await;
    let polls = Rc::new(Cell::new(0));
    let counter = Rc::clone(&polls);
    tokio::task::spawn_local(async move {
        let progress = Transferred::default();
        let mut copy: std::pin::Pin<Box<dyn Future<Output = CopyEnd>>> = match method {
            Method::Splice => {
                Box::pin(splice_bidirectional(&mut downstream, &mut upstream, NEVER, &progress))
            }
            Method::Buffer => Box::pin(copy_bidirectional_io(&downstream, upstream, NEVER, &progress)),
        };
        std::future::poll_fn(|context| {
            counter.set(counter.get() + 1);
            copy.as_mut().poll(context)
        })
        .await
    });
    (client, origin, polls)
}

#[tokio::test]
async fn it_sleeps_while_nothing_can_be_done() {
    let settled = async |polls: &Cell<usize>, state: &str| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = polls.get();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let more = polls.get() - before;
        assert!(more < 5, "polled {more} times while {state}");
    };
    for_each_method(async |method| {
        let (mut client, mut origin, polls) = counted(method).await;
        settled(&polls, "both are silent").await;
        client.write_all(b"x").await.unwrap();
        origin.read_exact(&mut [0]).await.unwrap();
        settled(&polls, "both are silent again").await;
        client.shutdown().await.unwrap();
        settled(&polls, "the client has ended").await;
        write_until_blocked(&mut origin).await;
        settled(&polls, "the client has ended and does not read").await;

        let (mut client, origin, polls) = counted(method).await;
        write_until_blocked(&mut client).await;
        settled(&polls, "the origin does not read").await;
        client.shutdown().await.unwrap();
        settled(&polls, "the origin does not read and the client has ended").await;
        drop(origin);
    })
    .await;
}

/// A client, an origin, and what is to be copied between: all bytes and both ends are there before it begins.
pub(super) async fn all_queued(
    to_origin: usize,
    to_client: usize,
) -> (TcpStream, TcpStream, TcpStream, TcpStream) {
    let roomy = || async {
        let (outer, inner) = connected().await;
        for socket in [&outer, &inner] {
            rustix::net::sockopt::set_socket_send_buffer_size_force(socket, 8 << 20).unwrap();
            rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, 8 << 20).unwrap();
        }
        (outer, inner)
    };
    let ((mut client, downstream), (mut origin, upstream)) = (roomy().await, roomy().await);
    client.write_all(&vec![1; to_origin]).await.unwrap();
    client.shutdown().await.unwrap();
    origin.write_all(&vec![2; to_client]).await.unwrap();
    origin.shutdown().await.unwrap();
    // The runtime has heard of all of it.
    for socket in [&downstream, &upstream] {
        socket.readable().await.unwrap();
    }
    (client, origin, downstream, upstream)
}

#[tokio::test]
async fn the_end_behind_the_last_bytes() {
    const BUFFER: usize = 16 << 10;
    for bytes in [1, BUFFER - 1, BUFFER, BUFFER + 1, MANY] {
        let (mut client, mut origin, mut downstream, mut upstream) = all_queued(bytes, bytes).await;
        let end = splice_bidirectional(&mut downstream, &mut upstream, NEVER, &Transferred::default()).await;
        assert!(matches!(end, CopyEnd::Closed), "{bytes} bytes: {end:?}");
        let (mut question, mut answer) = (Vec::new(), Vec::new());
        origin.read_to_end(&mut question).await.unwrap();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(question == vec![1; bytes] && answer == vec![2; bytes], "{bytes} bytes");
    }
}

#[tokio::test]
async fn a_reset_behind_the_last_bytes() {
    let (mut client, mut downstream) = connected().await;
    let (mut upstream, mut origin) = connected().await;
    origin.write_all(b"x").await.unwrap();
    drop_with_reset(origin);
    // The runtime has heard of both.
    upstream.ready(Interest::ERROR).await.unwrap();
    let end = splice_bidirectional(&mut downstream, &mut upstream, NEVER, &Transferred::default()).await;
    assert!(matches!(end, CopyEnd::UpstreamReset), "{end:?}");
    drop(downstream);
    let mut answer = Vec::new();
    assert!(is_reset(client.read_to_end(&mut answer).await), "{answer:?}");
}

/// Descriptors are limited for a process: this runs itself in another one.
#[tokio::test]
async fn without_descriptors_bytes_take_a_buffer() {
    const IS_LIMITED: &str = "COPY_TEST_IS_LIMITED";
    if std::env::var_os(IS_LIMITED).is_none() {
        let name = "proxy::copy::tests::without_descriptors_bytes_take_a_buffer";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(IS_LIMITED, "1")
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}");
        return;
    }
    LocalSet::new()
        .run_until(async {
            let (mut client, mut origin, copy) = copying(Method::Splice, NEVER).await;
            let mut exchange = async || {
                for _ in 0..100 {
                    client.write_all(&[7; MANY]).await.unwrap();
                    let mut buffer = vec![0; MANY];
                    origin.read_exact(&mut buffer).await.unwrap();
                    assert_eq!(buffer, [7; MANY]);
                }
            };
            let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            let limit = |current| {
                let limits = rustix::process::Rlimit { current, maximum: limits.maximum };
                rustix::process::setrlimit(rustix::process::Resource::Nofile, limits).unwrap();
            };
            let mut queued = Vec::new();
            for _ in 0..20 {
                queued.push(all_queued(1 << 20, 2 << 20).await);
            }
            limit(Some(3));
            std::fs::File::open("/dev/null").unwrap_err();
            exchange().await;
            assert_eq!(super::pipe::pooled(), 0);
            for (mut client, mut origin, mut downstream, mut upstream) in queued {
                let progress = Transferred::default();
                let end = splice_bidirectional(&mut downstream, &mut upstream, NEVER, &progress).await;
                assert!(matches!(end, CopyEnd::Closed), "{end:?}");
                drop((downstream, upstream));
                let (mut received, mut sent) = (Vec::new(), Vec::new());
                origin.read_to_end(&mut received).await.unwrap();
                client.read_to_end(&mut sent).await.unwrap();
                assert!(received == vec![1; 1 << 20] && sent == vec![2; 2 << 20]);
            }
            limit(limits.current);
            exchange().await;
            assert_eq!(super::pipe::pooled(), 1);
            drop((client, origin));
            let (end, received, _) = copy.await.unwrap();
            assert!(matches!(end, CopyEnd::Closed), "{end:?}");
            assert_eq!(received, 200 * MANY as u64);
        })
        .await;
}

/// A sequence of bytes whose every position differs from its neighbours' in any reordering.
fn fill(buffer: &mut [u8], state: &mut u64) {
    for chunk in buffer.chunks_mut(8) {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&(*state ^ *state >> 29).to_le_bytes()[..chunk.len()]);
    }
}

async fn carries_unchanged(method: Method, total: usize) {
    let (client, origin, copy) = copying(method, NEVER).await;
    let half = |stream: TcpStream, seed: u64, expected: u64| async move {
        let (mut reader, mut writer) = stream.into_split();
        let writing = tokio::task::spawn_local(async move {
            let (mut state, mut chunk, mut left) = (seed, vec![0; 128 << 10], total);
            while left > 0 {
                fill(&mut chunk, &mut state);
                let length = left.min(chunk.len());
                writer.write_all(&chunk[..length]).await.unwrap();
                left -= length;
            }
            writer.shutdown().await.unwrap();
        });
        let (mut state, mut chunk, mut wanted) = (expected, vec![0; 128 << 10], vec![0; 128 << 10]);
        let mut left = total;
        while left > 0 {
            fill(&mut wanted, &mut state);
            let length = left.min(chunk.len());
            reader.read_exact(&mut chunk[..length]).await.unwrap();
            assert!(chunk[..length] == wanted[..length], "different with {left} bytes to go");
            left -= length;
        }
        assert_eq!(reader.read(&mut chunk).await.unwrap(), 0);
        writing.await.unwrap();
    };
    tokio::join!(half(client, 1, 2), half(origin, 2, 1));
    let (end, received, sent) = copy.await.unwrap();
    assert!(matches!(end, CopyEnd::Closed), "{method:?} {end:?}");
    assert_eq!((received, sent), (total as u64, total as u64));
}

#[tokio::test]
async fn many_bytes_arrive_unchanged_in_both_directions_at_once() {
    for_each_method(|method| carries_unchanged(method, (64 << 20) + 4321)).await;
}

#[tokio::test]
async fn thousands_of_connections_leave_no_descriptor_behind() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let pooled = || super::pipe::pooled() * 2;
    LocalSet::new()
        .run_until(async {
            let mut most = 0;
            for round in 0..40 {
                let copies: Vec<_> = (0..50)
                    .map(|index| {
                        tokio::task::spawn_local(async move {
                            let (mut client, mut origin, copy) = copying(Method::Splice, NEVER).await;
                            client.write_all(&[1; MANY]).await.unwrap();
                            let mut buffer = [0; MANY];
                            origin.read_exact(&mut buffer).await.unwrap();
                            origin.write_all(&[2; MANY]).await.unwrap();
                            client.read_exact(&mut buffer).await.unwrap();
                            match (round + index) % 4 {
                                0 => drop((client, origin)),
                                1 => drop_with_reset(client),
                                2 => copy.abort(),
                                _ => drop_with_reset(origin),
                            }
                        })
                    })
                    .collect();
                for copy in copies {
                    copy.await.unwrap();
                }
                most = most.max(pooled());
            }
            assert!(most > 0 && pooled() <= 128, "{most}");
        })
        .await;
    // other tests of this process open and close theirs meanwhile
    assert!(open() < 1000, "{} descriptors are open", open());
}
