//! Real files, a real thread, and destinations that take nothing.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{AccessLog, AccessLogTarget, BYTES_MAX, LINES_MAX};
use crate::proxy::outcome::ResponseFlags;
use crate::snapshot::AccessLogEncoding;
use crate::telemetry::record::{AccessRecord, HttpRecord};

fn record(path: &str) -> AccessRecord {
    AccessRecord {
        source: std::rc::Rc::default(),
        client: None,
        start_time: SystemTime::now(),
        http: Some(HttpRecord { method: "GET".into(), path: path.into(), ..HttpRecord::default() }),
        response_code: 200,
        response_flags: ResponseFlags::NONE,
        response_code_details: None,
        connection_termination_details: None,
        upstream_transport_failure_reason: None,
        downstream_transport_failure_reason: None,
        client_tls: None,
        bytes_received: 0,
        bytes_sent: 0,
        duration: Duration::ZERO,
        upstream_host: None,
        upstream_cluster: None,
        upstream_local_address: None,
        downstream_local_address: "192.0.2.1:80".parse().unwrap(),
        downstream_remote_address: "192.0.2.2:1024".parse().unwrap(),
        requested_server_name: None,
        route_name: None,
    }
}

fn open(path: &Path) -> AccessLog {
    AccessLog::open(AccessLogTarget::File(path.into()), Arc::new(AccessLogEncoding::Text.into())).unwrap()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn targets() {
    assert_eq!(AccessLogTarget::new(""), AccessLogTarget::Off);
    assert_eq!(AccessLogTarget::new("-"), AccessLogTarget::Stdout);
    assert_eq!(AccessLogTarget::new("a/b"), AccessLogTarget::File("a/b".into()));
}

#[test]
fn off_writes_nothing() {
    let log = AccessLog::open(AccessLogTarget::Off, Arc::new(AccessLogEncoding::Json.into())).unwrap();
    assert!(!log.enabled());
    log.write(&record("/"));
    log.close();
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_path_that_cannot_be_written_is_named() {
    let target = AccessLogTarget::File("/nowhere/at/all.log".into());
    let error = AccessLog::open(target, Arc::new(AccessLogEncoding::Text.into())).unwrap_err();
    assert_eq!(error.to_string(), "access log /nowhere/at/all.log: can't be opened for appending");
}

#[test]
fn lines_of_all_threads_arrive_whole_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    std::fs::write(&path, "what was there before\n").unwrap();
    let log = open(&path);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let log = log.clone();
            std::thread::spawn(move || {
                for index in 0..1000 {
                    log.write(&record(&format!("/{thread}/{index}/{}", "x".repeat(index % 300))));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    log.close();
    let text = read(&path);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("what was there before"));
    let mut next = [0; 4];
    for line in lines {
        assert!(line.starts_with('[') && line.ends_with(" - -"), "{line}");
        let mut parts = line.split('/').skip(1);
        let thread: usize = parts.next().unwrap().parse().unwrap();
        let index: usize = parts.next().unwrap().parse().unwrap();
        assert_eq!(index, next[thread]);
        next[thread] += 1;
    }
    assert_eq!((next, log.dropped()), ([1000; 4], 0));
}

#[test]
fn a_line_is_written_without_anything_else_happening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = open(&path);
    for count in 1..5 {
        log.write(&record("/"));
        wait_until("the line is not written", || read(&path).lines().count() == count);
    }
}

#[test]
fn dropping_the_last_handle_closes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = open(&path);
    log.write(&record("/"));
    let other = log.clone();
    drop(log);
    other.write(&record("/"));
    drop(other);
    assert_eq!(read(&path).lines().count(), 2);
}

#[test]
fn what_is_written_after_closing_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = open(&path);
    log.write(&record("/"));
    log.close();
    log.close();
    log.write(&record("/"));
    assert_eq!((read(&path).lines().count(), log.dropped()), (1, 1));
}

#[test]
fn a_rotated_file_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let log = open(&path);
    log.write(&record("/before"));
    wait_until("the line is not written", || read(&path).contains("/before"));
    std::fs::rename(&path, &rotated).unwrap();
    log.write(&record("/between"));
    wait_until("the line is not written", || read(&rotated).contains("/between"));
    log.reopen();
    wait_until("the file is not opened", || path.exists());
    log.write(&record("/after"));
    log.close();
    assert!(read(&path).contains("/after") && !read(&rotated).contains("/after"));
}

fn make_pipe(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// Opening one for writing alone waits for a reader, who may never come.
#[test]
fn a_pipe_that_nobody_reads_yet_is_opened_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    make_pipe(&path);
    let log = open(&path);
    log.write(&record("/before"));
    let next = |expected: &str| {
        let mut reader = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.contains(expected), "{line}");
    };
    next("/before");
    // The first reader is gone.
    log.write(&record("/after"));
    next("/after");
    log.close();
    assert_eq!(log.dropped(), 0);
}

/// A FIFO that nobody reads blocks its writer when it is full.
#[test]
fn a_destination_that_takes_nothing_costs_lines_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    make_pipe(&path);
    // open for both, so that opening does not wait for the other side
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let log = open(&path);
    let long = record(&"x".repeat(8000));
    let started = Instant::now();
    for _ in 0..LINES_MAX {
        log.write(&long);
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    let dropped = log.dropped();
    assert!(dropped > (LINES_MAX - 2 * BYTES_MAX / 8000) as u64, "{dropped} dropped");
    // read on: it recovers, and nothing but the dropped lines is missing
    let closing = std::thread::spawn({
        let log = log.clone();
        move || log.close()
    });
    let mut lines = 0;
    let mut buffer = vec![0; 64 << 10];
    while lines < LINES_MAX as u64 - dropped {
        let read = reader.read(&mut buffer).unwrap();
        lines += buffer[..read].iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    closing.join().unwrap();
    assert_eq!((lines, log.dropped()), (LINES_MAX as u64 - dropped, dropped));
}

#[test]
fn a_full_disk_is_counted() {
    let log = open(Path::new("/dev/full"));
    for _ in 0..10 {
        log.write(&record("/"));
    }
    log.close();
    assert_eq!(log.dropped(), 10);
}

/// Standard output is shared with the command that we run: this runs itself in another process.
#[test]
fn lines_on_standard_output_are_written_whole() {
    const IS_CHILD: &str = "ACCESS_LOG_TEST_IS_CHILD";
    const LINES: usize = 3000;
    if std::env::var_os(IS_CHILD).is_some() {
        let log = AccessLog::open(AccessLogTarget::Stdout, Arc::new(AccessLogEncoding::Text.into())).unwrap();
        let commands = std::thread::spawn(|| {
            for _ in 0..LINES {
                let line = format!("command {}\n", "c".repeat(200));
                assert_eq!(rustix::io::write(std::io::stdout(), line.as_bytes()).unwrap(), line.len());
            }
        });
        for _ in 0..LINES {
            log.write(&record(&"p".repeat(300)));
        }
        commands.join().unwrap();
        log.close();
        assert_eq!(log.dropped(), 0);
        return;
    }
    let name = "telemetry::access_log::tests::lines_on_standard_output_are_written_whole";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads=2"])
        .env(IS_CHILD, "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let command = format!("command {}", "c".repeat(200));
    let path = format!("\"GET {} \"", "p".repeat(300));
    let count = |whole: &dyn Fn(&str) -> bool| stdout.lines().filter(|line| whole(line)).count();
    assert_eq!(count(&|line| line == command), LINES);
    assert_eq!(count(&|line| line.starts_with('[') && line.contains(&path) && line.ends_with(" - -")), LINES);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
