//! Runs `interceptor exec … -- CMD` in a pod, as a user would, and hands back all that can be seen from outside:
//! CMD's output and status, and the access log.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};

use crate::{Dir, Envoy, Http, LogLine, Pod, Session, wait_for};

/// No single command of the tests takes longer, unless the test says so.
const DEADLINE: Duration = Duration::from_secs(60);

/// One `interceptor exec` command line, being written.
#[derive(Debug)]
pub struct Interceptor<'pod> {
    pod: &'pod Pod,
    dir: Dir,
    flags: Vec<OsString>,
    /// The user's own proxy instead of ours: then there are no resources and no access log.
    external: bool,
    access_log: bool,
    deadline: Duration,
}

impl<'pod> Interceptor<'pod> {
    pub(crate) fn new(pod: &'pod Pod) -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        dir.write("config.yaml", "")?;
        Ok(Self { pod, dir, flags: Vec::new(), external: false, access_log: true, deadline: DEADLINE })
    }

    /// The resources to load (`-c`).
    pub fn config(self, yaml: &str) -> anyhow::Result<Self> {
        self.dir.write("config.yaml", yaml)?;
        Ok(self)
    }

    pub fn flag(mut self, flag: impl AsRef<OsStr>) -> Self {
        self.flags.push(flag.as_ref().to_owned());
        self
    }

    pub fn flags(self, flags: &[&str]) -> Self {
        flags.iter().fold(self, |new, flag| new.flag(flag))
    }

    pub fn registry_only(self) -> Self {
        self.flags(&["--outbound-traffic-policy", "REGISTRY_ONLY"])
    }

    /// The access log in JSON.
    pub fn json(self) -> Self {
        self.flags(&["--access-log-format", "json"])
    }

    /// Hands the connections to this proxy instead of to ours.
    pub fn external(self, proxy: &Envoy) -> Self {
        let port = proxy.port.to_string();
        self.external_flags()
            .flag("--external-proxy")
            .flag(port)
            .flag("--external-proxy-cgroup")
            .flag(proxy.cgroup.path())
    }

    /// Only the flags that are given: none for resources or the access log.
    pub fn external_flags(mut self) -> Self {
        self.external = true;
        self
    }

    /// Without `--access-log`.
    pub fn no_access_log(mut self) -> Self {
        self.access_log = false;
        self
    }

    /// Counters into `stats.json`.
    pub fn stats(self) -> Self {
        let path = self.dir.join("stats.json");
        self.flag("--stats").flag(path)
    }

    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Where its files are: `config.yaml`, `access.log`, `stats.json`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs CMD to its end.
    pub fn run<S: AsRef<OsStr>>(self, command: &[S]) -> anyhow::Result<Finished> {
        self.start(command, Stdio::null())?.finish()
    }

    /// Runs `curl -sS -i` with these arguments, at most 30 s.
    pub fn curl(self, args: &[&str]) -> anyhow::Result<Finished> {
        let mut command = vec!["curl", "-sS", "-i", "--max-time", "30"];
        command.extend_from_slice(args);
        self.run(&command)
    }

    /// Starts CMD and goes on.
    pub fn spawn<S: AsRef<OsStr>>(self, command: &[S]) -> anyhow::Result<Running> {
        self.start(command, Stdio::null())
    }

    /// Starts a shell that takes lines: several commands under one interceptor.
    pub fn session(self) -> anyhow::Result<Session> {
        let mut running = self.start(&["sh"], Stdio::piped())?;
        let stdin = running.child.stdin.take().context("the shell has no input")?;
        Ok(Session::new(running, stdin))
    }

    /// The whole command, for who wants to start it in a way of his own.
    pub fn command<S: AsRef<OsStr>>(&self, command: &[S]) -> anyhow::Result<Command> {
        // Whoever runs the tests in the background may have signals ignored, which children inherit.
        let mut full = self.pod.command("env");
        full.arg("--default-signal").arg(binary()?).arg("exec");
        if !self.external {
            if self.access_log {
                full.arg("--access-log").arg(self.dir.join("access.log"));
            }
            if !self.flags.iter().any(|flag| flag == "-c") {
                full.arg("-c").arg(self.dir.join("config.yaml"));
            }
        }
        full.args(&self.flags).arg("--").args(command);
        Ok(full)
    }

    fn start<S: AsRef<OsStr>>(self, command: &[S], stdin: Stdio) -> anyhow::Result<Running> {
        let create = |name: &str| {
            let path = self.dir.join(name);
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))
        };
        let child = self
            .command(command)?
            .stdin(stdin)
            .stdout(create("stdout")?)
            .stderr(create("stderr")?)
            .spawn()
            .context("cannot run nsenter (Debian package util-linux)")?;
        Ok(Running { child, dir: Some(self.dir), started: Instant::now(), deadline: self.deadline })
    }
}

/// A started `interceptor exec`; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    pub(crate) child: Child,
    dir: Option<Dir>,
    started: Instant,
    pub(crate) deadline: Duration,
}

impl Running {
    /// The process of `interceptor` itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        self.file("stdout")
    }

    pub fn stderr(&self) -> String {
        self.file("stderr")
    }

    pub fn log(&self) -> String {
        self.file("access.log")
    }

    /// Replaces the resources while it runs, as an editor does: a new file takes the old one's name.
    pub fn reconfigure(&self, yaml: &str) -> anyhow::Result<()> {
        let dir = self.dir.as_ref().context("it has ended")?;
        let new = dir.write("config.yaml.new", yaml)?;
        fs::rename(&new, dir.join("config.yaml")).context("cannot replace config.yaml")
    }

    pub fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.context("not a process id")?, signal)
            .context("cannot send a signal")
    }

    /// Waits for the end.
    pub fn finish(mut self) -> anyhow::Result<Finished> {
        let child = &mut self.child;
        let status = wait_for("the command to end", self.deadline, || child.try_wait().transpose())
            .with_context(|| format!("stderr so far:\n{}", self.file("stderr")))?
            .context("cannot wait for the command")?;
        let elapsed = self.started.elapsed();
        let dir = self.dir.take().context("finished twice")?;
        let stdout = fs::read(dir.join("stdout")).context("cannot read stdout")?;
        Ok(Finished {
            status,
            elapsed,
            stdout,
            stderr: String::from_utf8_lossy(&fs::read(dir.join("stderr")).context("cannot read stderr")?)
                .into_owned(),
            log: fs::read_to_string(dir.join("access.log")).unwrap_or_default(),
            dir,
        })
    }

    fn file(&self, name: &str) -> String {
        let read = self.dir.as_ref().and_then(|dir| fs::read(dir.join(name)).ok());
        String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.dir.is_some()
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait())
        {
            eprintln!("cannot stop interceptor {}: {error}", self.child.id());
        }
    }
}

/// All that could be seen of an `interceptor exec` that has ended.
#[derive(Debug)]
pub struct Finished {
    status: ExitStatus,
    pub elapsed: Duration,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub log: String,
    dir: Dir,
}

impl Finished {
    /// The exit status; a signal that ended `interceptor` itself is negative.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or_default())
    }

    /// Fails, showing everything, unless the exit status is this.
    pub fn expect_code(&self, code: i32) -> anyhow::Result<&Self> {
        ensure!(
            self.code() == code,
            "exit status {} instead of {code}\nstdout: {}\nstderr: {}\nlog: {}",
            self.code(),
            self.text(),
            self.stderr,
            self.log
        );
        Ok(self)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The last response that `curl -i` printed.
    pub fn http(&self) -> anyhow::Result<Http> {
        Http::last(&self.text()).with_context(|| format!("exit {}: {}", self.code(), self.stderr))
    }

    /// The access log, each line strictly of Istio's text format.
    pub fn lines(&self) -> anyhow::Result<Vec<LogLine>> {
        self.log.lines().map(LogLine::parse).collect()
    }

    /// The access log's only line.
    pub fn line(&self) -> anyhow::Result<LogLine> {
        match self.lines()?.as_slice() {
            [line] => Ok(line.clone()),
            lines => bail!("{} access log lines instead of one:\n{}\n{}", lines.len(), self.log, self.stderr),
        }
    }

    /// The access log in JSON, each line an object.
    pub fn json_lines(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let parse = |line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"));
        self.log.lines().map(parse).collect()
    }

    /// The counters of `--stats`.
    pub fn stats(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.file("stats.json")?).context("the counters are not JSON")
    }

    /// A file that the run left in its directory (`stats.json`).
    pub fn file(&self, name: &str) -> anyhow::Result<String> {
        let path = self.dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// The binary under test: what INTERCEPTOR_BIN names, or a fresh debug build.
pub fn binary() -> anyhow::Result<PathBuf> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BINARY
        .get_or_init(|| find_or_build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!("no interceptor to test: {error}"))
}

fn find_or_build() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("INTERCEPTOR_BIN") {
        return Ok(PathBuf::from(path));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "build",
        "--quiet",
        "--package",
        "interceptor-user",
        "--bin",
        "interceptor",
    ]);
    // Cargo tells it this program, and build scripts that look at it would run again.
    build.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH");
    crate::run(&mut build)?;
    Ok(target_dir()?.join("debug/interceptor"))
}

/// Where cargo builds: found from this program, which is below it.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find this program")?;
    exe.ancestors()
        .find(|path| path.join("CACHEDIR.TAG").is_file())
        .map(Path::to_owned)
        .with_context(|| format!("{} is not below a target directory", exe.display()))
}
