//! The client's part of a node: connections from within pods, and requests on all of them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Requests under way at the same time.
const AT_A_TIME: usize = 32;
/// Longer than any head and body together.
const RESPONSE_MAX: usize = 4096;

/// The process goes into a cgroup and a network namespace; sockets that it has stay where they are.
pub(crate) fn enter(netns: &Path, cgroup: &Path) -> anyhow::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot enter {}", cgroup.display()))?;
    let file = fs::File::open(netns).with_context(|| format!("cannot open {}", netns.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {}", netns.display()))
}

/// Each of some threads has its share of the connections, and goes round them with one request at a time. How long
/// each request took, in microseconds.
pub(crate) fn requests(held: &mut [TcpStream], host: &str, seconds: u32) -> anyhow::Result<Vec<f64>> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let until = Instant::now() + Duration::from_secs(seconds.into());
    let share = held.len().div_ceil(AT_A_TIME).max(1);
    std::thread::scope(|scope| {
        let shares = held.chunks_mut(share).map(|share| scope.spawn(|| go_round(share, &request, until)));
        let threads: Vec<_> = shares.collect();
        let mut samples_us = Vec::new();
        for thread in threads {
            samples_us.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(samples_us)
    })
}

fn go_round(share: &mut [TcpStream], request: &str, until: Instant) -> anyhow::Result<Vec<f64>> {
    let mut samples_us = Vec::new();
    let mut buffer = [0; RESPONSE_MAX];
    loop {
        for socket in &mut *share {
            if Instant::now() >= until {
                return Ok(samples_us);
            }
            let started = Instant::now();
            socket.write_all(request.as_bytes()).context("cannot send a request")?;
            read_response(socket, &mut buffer)?;
            samples_us.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
}

fn read_response(socket: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    while !is_whole(buffer.get(..filled).unwrap_or_default())? {
        let read = socket.read(buffer.get_mut(filled..).unwrap_or_default()).context("no response")?;
        ensure!(read > 0, "the connection ended");
        filled += read;
    }
    Ok(())
}

/// Whether a response is there with all of its body.
fn is_whole(response: &[u8]) -> anyhow::Result<bool> {
    let text = std::str::from_utf8(response).context("a response that is not text")?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(false) };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let is_whole = body.len() >= length.context("a response without content-length")?;
    ensure!(!is_whole || head.starts_with("HTTP/1.1 200"), "not the response that was expected: {text:?}");
    Ok(is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_whole_with_its_body() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        let is_whole = |text: &str| is_whole(text.as_bytes()).map_err(drop);
        assert_eq!(is_whole(&head[..20]), Ok(false));
        assert_eq!(is_whole(&format!("{head}a")), Ok(false));
        assert_eq!(is_whole(&format!("{head}ab")), Ok(true));
        assert_eq!(is_whole("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), Err(()));
    }
}
