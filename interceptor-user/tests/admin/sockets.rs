//! The sockets themselves: modes, taking over from an agent before, an address that is taken.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use interceptor_user::admin::Listener;
use interceptor_user::agent::view::View;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Agent, curl};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn root_alone_may_ask() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("interceptor/agent.sock");
    let _listener = Listener::unix(&socket).unwrap();
    assert_eq!((mode(socket.parent().unwrap()), mode(&socket)), (0o700, 0o600));
    let there: Vec<_> = fs::read_dir(socket.parent().unwrap()).unwrap().collect();
    assert_eq!(there.len(), 1, "nothing else is left: {there:?}");
}

#[tokio::test]
async fn a_directory_that_is_there_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let _listener = Listener::unix(&directory.path().join("agent.sock")).unwrap();
    assert_eq!(mode(directory.path()), 0o755);
}

/// Somebody connects all the time while agent after agent takes the name over: nobody is ever refused.
#[tokio::test]
async fn a_successor_takes_the_name_over_in_one_step() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    fs::write(&socket, "left by somebody").unwrap();
    let mut listeners = vec![Listener::unix(&socket).unwrap()];
    let path = socket.clone();
    // They are queued: every listener stays open until the end.
    let connecting =
        std::thread::spawn(move || (0..100).for_each(|_| drop(UnixStream::connect(&path).unwrap())));
    while !connecting.is_finished() {
        listeners.push(Listener::unix(&socket).unwrap());
    }
    connecting.join().unwrap();
}

#[test]
fn who_is_connected_stays_with_the_agent_before() {
    let before = Agent::start(View::default());
    let socket = before.socket();
    let mut connected = UnixStream::connect(&socket).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let entered = runtime.enter();
    let after = Listener::unix(&socket).unwrap();
    drop(entered);
    write!(connected, "GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut told = String::new();
    connected.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 200 OK"), "{told}");
    let Listener::Unix(after) = after else { panic!("{after:?}") };
    let asked = std::thread::spawn(move || curl(&socket, "/healthz", &[]).status);
    runtime.block_on(async {
        let (mut stream, _) = after.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    });
    assert_eq!(asked.join().unwrap(), 204, "who comes later is the successor's");
}

#[tokio::test]
async fn an_address_that_is_taken_is_no_error_and_one_that_is_not_ours_is() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    assert!(matches!(Listener::tcp(address).await, Ok(Listener::Taken(taken)) if taken == address));
    let error = Listener::tcp("192.0.2.1:1".parse().unwrap()).await.unwrap_err().to_string();
    assert_eq!(error, "can't listen on 192.0.2.1:1, the admin address");
    let long = std::path::Path::new("/tmp").join("x".repeat(120));
    let error = Listener::unix(&long).unwrap_err().to_string();
    assert!(error.starts_with("can't listen on the agent's socket /tmp/xxx"), "{error}");
}
