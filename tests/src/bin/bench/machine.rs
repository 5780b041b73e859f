//! What a figure depends on besides the code: the machine, the kernel, and the versions of all programs.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Two descriptors for each connection of a proxy; what is started inherits it.
pub(crate) fn allow_many_files() -> anyhow::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("cannot raise the limit of open files")
}

pub(crate) fn versions() -> anyhow::Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    let uname = rustix::system::uname();
    versions.insert("kernel".to_owned(), format!("Linux {}", uname.release().to_string_lossy()));
    let cpus = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let models: Vec<&str> = cpus
        .lines()
        .filter(|line| line.starts_with("model name"))
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    versions.insert("cpu".to_owned(), format!("{} × {}", models.len(), models.first().unwrap_or(&"unknown")));
    let envoy = interceptor_tests::envoy_binary()?.display().to_string();
    let programs = [
        ("interceptor", crate::row::interceptor()?, "--version"),
        ("envoy", envoy, "--version"),
        ("nginx", "/usr/sbin/nginx".to_owned(), "-v"),
        ("haproxy", "/usr/sbin/haproxy".to_owned(), "-v"),
        ("wrk", "wrk".to_owned(), "-v"),
        ("iptables", "/usr/sbin/iptables".to_owned(), "-V"),
    ];
    for (name, program, argument) in programs {
        versions.insert(name.to_owned(), first_line(&program, argument)?);
    }
    Ok(versions)
}

/// wrk and nginx print their version on standard error, wrk with a bad status.
fn first_line(program: &str, argument: &str) -> anyhow::Result<String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("cannot run {program} (cargo xtask bench installs what is missing)"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    Ok(line.replace(program, "").trim().to_owned())
}
