//! Runs programs for xtask: says what is run, how long it took, and fails with the program's own words.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a command may be silent before a line says that it is still running.
const PROGRESS: Duration = Duration::from_secs(10);

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Where cargo builds: `target/`, or what CARGO_TARGET_DIR says.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The cargo that started us, so that a `+toolchain` is kept.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Whether `program` is in PATH, or where Debian keeps the system programs.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

/// Runs a command with its output on the terminal.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = shown(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

/// Runs a command quietly: one line when it starts, one when it ends, its whole output only when it fails.
/// Its output lines, in the order they came, are returned.
pub(crate) fn quiet(title: &str, command: &mut Command) -> anyhow::Result<Vec<String>> {
    let started = Instant::now();
    println!("   {title} …");
    let mut output = Vec::new();
    let ended = each_line(title, command, |line| output.push(line.to_owned()));
    if ended.is_err() {
        output.iter().for_each(|line| println!("      {line}"));
    }
    ended?;
    println!("   {title}: done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(output)
}

/// Runs a command and hands over each line that it prints, on either output, as it comes. Says now and then that
/// it is still running. Fails when it does.
pub(crate) fn each_line(
    title: &str,
    command: &mut Command,
    mut take: impl FnMut(&str),
) -> anyhow::Result<()> {
    let started = Instant::now();
    let name = shown(command);
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot make a pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    // The command still holds the writing ends of the pipe: without this the reader would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
    let mut said = Instant::now();
    loop {
        match lines.recv_timeout(PROGRESS) {
            Ok(line) => take(&line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if said.elapsed() >= PROGRESS {
            println!("   … {title}: {} s so far", started.elapsed().as_secs());
            said = Instant::now();
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    if reading.join().is_err() {
        bail!("{name}: its output could not be read");
    }
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}
