//! What the kernel says of this process: the metrics that every Prometheus client library has.

use std::fs;
use std::io;

use crate::telemetry::exposition::Family;

/// Sizes in bytes, times in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    cpu_seconds: f64,
    /// Since the epoch.
    start_time_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: u64,
    open_fds: usize,
    max_fds: u64,
}

/// Nothing where /proc can't be read.
pub(super) fn append(out: &mut String) {
    let process = match read() {
        Ok(process) => process,
        Err(error) => return tracing::debug!("no metrics of the process: {error}"),
    };
    Family::counter(out, "process_cpu_seconds_total", "Time spent on processors, in user and system mode.")
        .sample(&[], process.cpu_seconds);
    Family::gauge(out, "process_start_time_seconds", "When the process started, in seconds since the epoch.")
        .sample(&[], process.start_time_seconds);
    Family::gauge(out, "process_resident_memory_bytes", "Memory that is in use, in bytes.")
        .sample(&[], process.resident_bytes);
    Family::gauge(out, "process_virtual_memory_bytes", "Memory that is mapped, in bytes.")
        .sample(&[], process.virtual_bytes);
    Family::gauge(out, "process_threads", "Threads of the process.").sample(&[], process.threads);
    Family::gauge(out, "process_open_fds", "Open file descriptors.").sample(&[], process.open_fds);
    Family::gauge(out, "process_max_fds", "As many file descriptors may be open.")
        .sample(&[], process.max_fds);
}

fn read() -> io::Result<Process> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let booted = fs::read_to_string("/proc/stat")?;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let parsed =
        parse(&stat, &booted).ok_or_else(|| io::Error::other("/proc/self/stat is not as expected"))?;
    // The descriptor that lists them is one of them.
    let open_fds = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
    Ok(Process { open_fds, max_fds: limit.unwrap_or(u64::MAX), ..parsed })
}

/// See proc_pid_stat(5). The second field, the name, may hold blanks and parentheses.
fn parse(stat: &str, booted: &str) -> Option<Process> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Fields are numbered from 1, and the first that is left is the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let boot_time =
        booted.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<u64>().ok()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    #[expect(clippy::cast_precision_loss, reason = "centuries of ticks are exact in a double")]
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second as f64;
    #[expect(clippy::cast_precision_loss, reason = "so are seconds since the epoch")]
    let boot_time = boot_time as f64;
    let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
    Some(Process {
        cpu_seconds: seconds(field(14)? + field(15)?),
        start_time_seconds: boot_time + seconds(field(22)?),
        resident_bytes: field(24)? * page_bytes,
        virtual_bytes: field(23)?,
        threads: field(20)?,
        open_fds: 0,
        max_fds: 0,
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "42 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 9 18 200 4096 3 21";
        let process = parse(stat, "cpu 1 2\nbtime 1000\n").unwrap();
        assert_eq!((process.cpu_seconds, process.start_time_seconds), (2.0, 1002.0));
        assert_eq!((process.threads, process.virtual_bytes), (9, 4096));
        assert_eq!(process.resident_bytes % 3, 0);
        assert_eq!(parse("42 (a) R 1", "btime 1000\n"), None);
    }

    #[test]
    fn this_process() {
        let process = read().unwrap();
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes > process.resident_bytes);
        assert!(process.open_fds >= 3 && process.threads >= 1);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((0.0..3600.0 * 24.0).contains(&(now - process.start_time_seconds)), "{process:?}");
    }
}
