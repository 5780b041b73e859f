//! Connects again and again, and tells what came of it: the load under which agents are killed and replaced.
//!
//!   connector ADDRESS THREADS     until standard input ends; then one line of JSON with the counts
//!
//! Each connection asks for a path of its own, at an origin that echoes the request's head. A request that the proxy
//! carried has its x-request-id.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct Counts {
    carried: AtomicU64,
    /// Reached the origin without the proxy.
    unintercepted: AtomicU64,
    /// The answer is another request's.
    wrong: AtomicU64,
    refused: AtomicU64,
    forbidden: AtomicU64,
    /// Accepted, and then broken off.
    broken: AtomicU64,
    others: Mutex<Vec<String>>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().and_then(|text| text.parse::<SocketAddr>().ok());
    let threads = arguments.next().and_then(|text| text.parse::<u32>().ok());
    let (Some(address), Some(threads)) = (address, threads) else {
        eprintln!("usage: connector ADDRESS THREADS");
        std::process::exit(2);
    };
    let counts = Arc::new(Counts::default());
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let path = format!("/{}-{thread}-{number}-", std::process::id());
                    match ask(address, &path) {
                        Ok(answer) => judge(&counts, &path, &answer),
                        Err(error) => {
                            fail(&counts, &error);
                            // Not to have the machine for itself while nobody answers.
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                }
            })
        })
        .collect();
    let _ended = io::stdin().read_to_end(&mut Vec::new());
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        drop(worker.join());
    }
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{}",
        serde_json::json!({
            "carried": number(&counts.carried),
            "unintercepted": number(&counts.unintercepted),
            "wrong": number(&counts.wrong),
            "refused": number(&counts.refused),
            "forbidden": number(&counts.forbidden),
            "broken": number(&counts.broken),
            "others": *counts.others.lock().unwrap_or_else(PoisonError::into_inner),
        })
    );
}

fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: origin.test\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn judge(counts: &Counts, path: &str, answer: &str) {
    let counter = if !answer.starts_with("HTTP/1.1 200") {
        if !answer.is_empty() {
            return other(counts, answer.lines().next().unwrap_or_default());
        }
        &counts.broken
    } else if !is_whole(answer) {
        &counts.broken
    } else if !answer.contains(path) {
        &counts.wrong
    } else if answer.to_ascii_lowercase().contains("x-request-id") {
        &counts.carried
    } else {
        &counts.unintercepted
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Whether the body is as long as its head says.
fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    length == Some(body.len())
}

fn fail(counts: &Counts, error: &io::Error) {
    const BROKEN: [io::ErrorKind; 3] =
        [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe, io::ErrorKind::UnexpectedEof];
    let counter = if error.kind() == io::ErrorKind::ConnectionRefused {
        &counts.refused
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        &counts.forbidden
    } else if BROKEN.contains(&error.kind()) {
        &counts.broken
    } else {
        return other(counts, &error.to_string());
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn other(counts: &Counts, what: &str) {
    let mut others = counts.others.lock().unwrap_or_else(PoisonError::into_inner);
    if others.len() < 10 {
        others.push(what.to_owned());
    }
}
