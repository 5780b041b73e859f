//! The real Envoy (PyPI), as an unmodified SO_ORIGINAL_DST proxy in a pod and a cgroup of its own.

use std::net::TcpStream;

use anyhow::Context;

use crate::{Cgroup, Daemon, Dir, Pod};

#[derive(Debug)]
pub struct Envoy {
    _daemon: Daemon,
    dir: Dir,
    pub cgroup: Cgroup,
    pub port: u16,
}

impl Envoy {
    /// A TCP proxy to wherever SO_ORIGINAL_DST says, as Istio's virtualOutbound listener does.
    pub fn start(pod: &Pod, port: u16) -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        let config = dir.write("envoy.yaml", config(port))?;
        let cgroup = Cgroup::new()?;
        let envoy = envoy_binary()?;
        let mut command = cgroup.command("nsenter");
        command.arg(format!("--net={}", pod.netns.path().display())).arg(envoy);
        command.arg("-c").arg(config).args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--file-flush-interval-msec",
            "20",
        ]);
        command.current_dir(dir.path());
        let daemon = Daemon::spawn(&mut command, &dir.join("log"))?.wait_ready("envoy", || {
            pod.netns.enter(|| TcpStream::connect(("127.0.0.1", port))).is_ok_and(|socket| socket.is_ok())
        })?;
        Ok(Self { _daemon: daemon, dir, cgroup, port })
    }

    /// What it logged: one line `to <original destination> <bytes sent>` for each connection that has ended.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

/// The binary inside the package, which differs between Python versions in its path only.
pub fn envoy_binary() -> anyhow::Result<std::path::PathBuf> {
    let lib = crate::interceptor::target_dir()?.join("tools/envoy/lib");
    std::fs::read_dir(&lib)
        .with_context(|| format!("{} is missing: cargo xtask test installs it", lib.display()))?
        .filter_map(Result::ok)
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.is_file())
        .with_context(|| format!("no envoy below {}: cargo xtask test installs it", lib.display()))
}

/// One listener for each family, because Envoy binds IPv6 only where it is told to.
fn config(port: u16) -> String {
    let listeners: String = [("outbound4", "0.0.0.0"), ("outbound6", "::")]
        .map(|(name, address)| {
            LISTENER.replace("NAME", name).replace("ADDRESS", address).replace("PORT", &port.to_string())
        })
        .concat();
    format!("static_resources:\n  listeners:{listeners}{CLUSTERS}")
}

const LISTENER: &str = r#"
  - name: NAME
    address: { socket_address: { address: "ADDRESS", port_value: PORT } }
    listener_filters:
    - name: envoy.filters.listener.original_dst
      typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst }
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: outbound
          cluster: original
          access_log:
          - name: envoy.access_loggers.stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format: { text_format_source: { inline_string: "to %UPSTREAM_HOST% %BYTES_SENT%\n" } }"#;

const CLUSTERS: &str = "
  clusters:
  - name: original
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 5s
";
