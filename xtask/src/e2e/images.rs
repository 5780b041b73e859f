//! Two images of one static program each, made without a container builder: what deploy/Containerfile makes, and the
//! program that runs in the pods of the scenarios.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::TAG;
use crate::shell::{self, cargo, quiet};

/// Name of the image and the program in it, and the package that the program is of.
const IMAGES: &[(&str, &str, &str)] =
    &[("interceptor", "interceptor", "interceptor-user"), ("interceptor-e2e", "e2e", "interceptor-tests")];
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

pub(super) fn build_and_load(load: &str) -> anyhow::Result<()> {
    let built = build()?;
    for (image, program, _) in IMAGES {
        let archive = archive(image, program, &built.join(program))?;
        let mut words = load.split_whitespace();
        let command = words.next().context("--load is empty")?;
        if !shell::has(command) {
            bail!("{command} is missing: --load says how the cluster's nodes get an image archive");
        }
        quiet(&format!("loading {image}:{TAG}"), Command::new(command).args(words).arg(&archive))?;
    }
    Ok(())
}

/// The directory of the static programs.
fn build() -> anyhow::Result<PathBuf> {
    let target = host()?;
    let mut command = cargo();
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    command.args(["build", "--release", "--target", &target]);
    for (_, program, package) in IMAGES {
        command.args(["--package", package, "--bin", program]);
    }
    quiet("cargo build, static", &mut command)?;
    Ok(shell::target_dir().join(target).join("release"))
}

fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(host.to_owned())
}

/// An archive as `docker save` writes it.
fn archive(image: &str, program: &str, executable: &Path) -> anyhow::Result<PathBuf> {
    let directory = shell::target_dir().join("e2e").join(image);
    let (root, saved) = (directory.join("root"), directory.join("saved"));
    for fresh in [&root, &saved] {
        if fresh.exists() {
            fs::remove_dir_all(fresh).with_context(|| format!("cannot remove {}", fresh.display()))?;
        }
        fs::create_dir_all(fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    }
    quiet(
        "strip",
        Command::new("strip").arg("--strip-debug").arg("-o").arg(root.join(program)).arg(executable),
    )?;
    let certificates = root.join(CERTIFICATES);
    fs::create_dir_all(certificates.with_file_name("")).context("cannot make a directory")?;
    fs::copy(Path::new("/").join(CERTIFICATES), certificates)
        .with_context(|| format!("cannot copy /{CERTIFICATES} (Debian package ca-certificates)"))?;
    let layer = saved.join("layer.tar");
    tar(&layer, &root)?;
    let digest = sha256(&layer)?;
    let config = serde_json::json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Entrypoint": [format!("/{program}")]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = serde_json::json!([{
        "Config": "config.json", "RepoTags": [format!("docker.io/library/{image}:{TAG}")], "Layers": ["layer.tar"],
    }]);
    for (name, value) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(saved.join(name), value.to_string()).with_context(|| format!("cannot write {name}"))?;
    }
    let archive = directory.join("image.tar");
    tar(&archive, &saved)?;
    Ok(archive)
}

/// As container images call what Rust calls x86_64 and aarch64.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn tar(archive: &Path, directory: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("tar");
    command.args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--file"]).arg(archive);
    shell::run(command.arg("--directory").arg(directory).args(entries(directory)?))
}

/// By name, without the directory itself: its permissions are nobody's business.
fn entries(directory: &Path) -> anyhow::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.file_name())).collect()
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("cannot run sha256sum")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().next().context("sha256sum says nothing")?.to_owned())
}
