//! A pod: a namespace with one interface, a default route to the outside and a resolv.conf of its own.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::{Interceptor, Netns, Veth};

/// A pod's second interface.
#[derive(Debug)]
pub struct Interface {
    /// What servers see as the peer of what leaves by it.
    pub address: String,
    pub gateway: String,
    pub gateway6: String,
}

#[derive(Debug)]
pub struct Pod {
    pub netns: Netns,
    cable: Veth,
    /// What servers see as the peer.
    pub address: String,
    pub address6: String,
    ca: PathBuf,
}

impl Pod {
    /// The `number`th pod of its world.
    pub(crate) fn new(outside: &Netns, number: u16, dns: &[IpAddr], ca: PathBuf) -> anyhow::Result<Self> {
        let netns = Netns::new()?;
        let resolv: String = dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        netns.etc("resolv.conf", &(resolv + "options timeout:1 attempts:2\n"))?;
        netns.etc("hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
        let cable = Veth::new(&netns, "eth0", outside, &format!("pod{number}"))?;
        // Some 3,000 of them.
        let subnet = format!("10.{}.{}", 244 + (number >> 8), number & 0xff);
        let (address, address6) = (format!("{subnet}.2"), format!("fd00:{number:x}::2"));
        outside.ip(&format!(
            "addr add {subnet}.1/24 dev pod{number}\n\
             addr add fd00:{number:x}::1/64 dev pod{number} nodad\n"
        ))?;
        netns.ip(&format!(
            "addr add {address}/24 dev eth0\naddr add {address6}/64 dev eth0 nodad\n\
             route add default via {subnet}.1\nroute add ::/0 via fd00:{number:x}::1\n"
        ))?;
        Ok(Self { netns, cable, address, address6, ca })
    }

    /// Joins it to the outside by an interface more, which no route leads to but that of its own subnet.
    pub fn second_interface(&self, outside: &Netns, name: &str) -> anyhow::Result<Interface> {
        static SUBNETS: AtomicU8 = AtomicU8::new(1);
        let number = SUBNETS.fetch_add(1, Ordering::Relaxed);
        let interface = Interface {
            address: format!("10.99.{number}.2"),
            gateway: format!("10.99.{number}.1"),
            gateway6: format!("fd99:{number:x}::1"),
        };
        let other = format!("second{number}");
        Veth::new(&self.netns, name, outside, &other)?;
        outside.ip(&format!(
            "addr add {}/24 dev {other}\naddr add {}/64 dev {other} nodad\n",
            interface.gateway, interface.gateway6
        ))?;
        self.netns.ip(&format!(
            "addr add {}/24 dev {name}\naddr add fd99:{number:x}::2/64 dev {name} nodad\n",
            interface.address
        ))?;
        Ok(interface)
    }

    /// Lets what the pod sends be carried to other pods, over IPv4.
    pub(crate) fn join(&self, outside: &Netns) -> anyhow::Result<()> {
        outside.sysctl(&format!("net/ipv4/conf/{}/forwarding", self.cable.right), "1")
    }

    /// A command in the pod, not intercepted. Its system roots are the world's CA, and nothing of the caller's
    /// environment sends it elsewhere.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.netns.command(program);
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        for name in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "SSL_CERT_DIR", "CURL_CA_BUNDLE"] {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").env("HOME", "/nonexistent").env("SSL_CERT_FILE", &self.ca);
        command
    }

    /// `interceptor exec` in the pod.
    pub fn interceptor(&self) -> anyhow::Result<Interceptor<'_>> {
        Interceptor::new(self)
    }
}
