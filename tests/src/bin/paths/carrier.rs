//! The process that is counted: a proxy on one thread, with one service whose endpoint is `server`. It says where it
//! listens, and ends with its input.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use interceptor_user::compile::{CompileSettings, compile};
use interceptor_user::dns::Resolver;
use interceptor_user::proxy::{Intercepted, ProxiedWorkload, Proxy, ProxyOptions};
use interceptor_user::resource::{World, parse};
use interceptor_user::snapshot::AccessLogEncoding;
use interceptor_user::telemetry::{AccessLog, AccessLogTarget};

use crate::path::{HOST, Path};

/// Where clients mean to go.
const DESTINATION: &str = "203.0.113.10";

pub(crate) fn carry(path: Path, server: SocketAddr) -> anyhow::Result<()> {
    let (port, protocol) = path.port();
    let yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: paths}}\nspec:\n  hosts: [{HOST}]\n  \
         addresses: [{DESTINATION}]\n  ports: [{{number: {port}, name: port, protocol: {protocol}, targetPort: {}}}]\n  \
         resolution: STATIC\n  endpoints: [{{address: {}}}]\n",
        server.port(),
        server.ip(),
    );
    let parsed = parse(&"paths.yaml".into(), &yaml, &"default".into());
    let world = World { resources: parsed.resources.into_iter().collect(), ..World::default() };
    let (snapshot, _) = compile(&world, &CompileSettings::default());

    let proxy = Proxy::start(ProxyOptions {
        resolver: Resolver::start(Default::default()).context("cannot start the resolver")?,
        access_log: AccessLog::open(AccessLogTarget::Off, Arc::new(AccessLogEncoding::Text.into()))
            .context("cannot open the access log")?,
        threads: 1,
    })
    .context("cannot start the proxy")?;
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let address = listener.local_addr().context("the listener has no address")?;
    let original_dst = SocketAddr::new(DESTINATION.parse().context("not an address")?, port);
    proxy
        .add(ProxiedWorkload {
            listeners: vec![listener],
            intercepted: Arc::new(move |_| Ok(Some(Intercepted { original_dst, source: None }))),
            netns: None,
            configured: proxy.configure(snapshot),
            connections_max: usize::MAX,
            room: Arc::default(),
            shares: None,
            peers: None,
            learned: None,
            source: Arc::default(),
        })
        .context("cannot add the workload")?;
    println!("{address}");
    std::io::stdout().flush().context("nobody reads the address")?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot read the input")?;
    proxy.stop(Duration::from_secs(1));
    Ok(())
}
