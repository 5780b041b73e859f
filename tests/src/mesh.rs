//! The identities of a mesh's workloads, as `interceptor certs` makes them.

use std::process::Command;

use anyhow::ensure;

use crate::{Dir, binary, output};

/// An authority of `interceptor certs`, and identities of it.
#[derive(Debug)]
pub struct Mesh {
    dir: Dir,
}

impl Mesh {
    pub fn new() -> anyhow::Result<Self> {
        let mesh = Self { dir: Dir::new()? };
        mesh.certs(&["ca", "--out", &mesh.at("ca")])?;
        Ok(mesh)
    }

    /// The directory for `--identity-dir`: a new certificate, in the place of one that was there.
    pub fn identity(&self, name: &str, uri: &str) -> anyhow::Result<String> {
        let (ca, out) = (self.at("ca"), self.at(name));
        self.certs(&["issue", "--ca", &ca, "--spiffe", uri, "--out", &out, "--ttl", "1h", "--force"])?;
        Ok(out)
    }

    /// The serial number of the certificate in that directory, as the access log has it.
    pub fn serial(&self, name: &str) -> anyhow::Result<String> {
        let chain = format!("{}/cert-chain.pem", self.at(name));
        let shown = output(Command::new("openssl").args(["x509", "-noout", "-serial", "-in", &chain]))?;
        Ok(serial(&String::from_utf8(shown.stdout)?))
    }

    fn at(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn certs(&self, args: &[&str]) -> anyhow::Result<()> {
        let output = Command::new(binary()?).arg("certs").args(args).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// What `openssl x509 -serial` prints.
pub fn serial(printed: &str) -> String {
    printed.trim().trim_start_matches("serial=").to_ascii_lowercase()
}
