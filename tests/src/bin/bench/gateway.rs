//! The second hop: an egress gateway in a namespace of its own, whose clients show a certificate, and the same of Envoy.

use std::net::SocketAddrV4;
use std::process::Command;

use anyhow::bail;
use interceptor_tests::{Daemon, Dir, Identity};

use crate::lab::{HOST, Lab, Place, Rules};
use crate::peers;
use crate::row::{ONE_WORKER, Row, interceptor};
use crate::web::TLS;

const ENVOY: &str = include_str!("envoy_gateway.yaml");

/// Where gateways are, and the certificates of both ends.
#[derive(Debug)]
pub(crate) struct Hop {
    pub(crate) place: Place,
    server: Identity,
    client: Identity,
}

impl Hop {
    pub(crate) fn new(lab: &Lab) -> anyhow::Result<Self> {
        Ok(Self {
            place: lab.place(Rules::None)?,
            server: lab.ca.server("gateway", &[HOST])?,
            client: lab.ca.client("sidecar")?,
        })
    }

    /// Puts paths and addresses where a configuration has their names.
    pub(crate) fn fill(&self, text: &str, lab: &Lab) -> String {
        let Self { place, server, client } = self;
        [
            ("SERVER_CERTIFICATE", server.certificate.display().to_string()),
            ("SERVER_KEY", server.key.display().to_string()),
            ("CLIENT_CERTIFICATE", client.certificate.display().to_string()),
            ("CLIENT_KEY", client.key.display().to_string()),
            ("CA_FILE", lab.ca.root().display().to_string()),
            ("GATEWAY_ADDRESS", place.address.to_string()),
            ("GATEWAY_PORT", TLS.to_string()),
        ]
        .into_iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, &value))
    }

    /// The gateway of a row. The client's proxy has its resources from `dir`, too.
    pub(crate) fn start(&self, lab: &Lab, dir: &Dir, row: Row) -> anyhow::Result<Daemon> {
        match row {
            Row::Interceptor => self.interceptor(lab, dir, &[]),
            Row::OneWorker => self.interceptor(lab, dir, &ONE_WORKER),
            Row::Envoy => self.envoy(lab, dir),
            Row::Direct | Row::Nginx | Row::Haproxy => bail!("{row} has no gateway"),
        }
    }

    fn interceptor(&self, lab: &Lab, dir: &Dir, flags: &[&str]) -> anyhow::Result<Daemon> {
        dir.write("gateway.yaml", self.fill(RESOURCES, lab))?;
        let mut command = self.place.netns.command(&interceptor()?);
        command.args(["gateway", "--namespace", "istio-system", "--labels", "istio=egressgateway"]);
        command.args(["--admin-address", "off", "-c"]).arg(dir.path()).args(flags);
        self.ready(command, dir)
    }

    fn envoy(&self, lab: &Lab, dir: &Dir) -> anyhow::Result<Daemon> {
        let config = dir.write("envoy_gateway.yaml", self.fill(ENVOY, lab))?;
        let mut command = self.place.netns.command(&interceptor_tests::envoy_binary()?.display().to_string());
        command.arg("-c").arg(config).args(peers::ENVOY_FLAGS);
        self.ready(command, dir)
    }

    fn ready(&self, mut command: Command, dir: &Dir) -> anyhow::Result<Daemon> {
        let address = SocketAddrV4::new(self.place.address, TLS);
        Daemon::spawn(command.current_dir(dir.path()), &dir.join("gateway.log"))?
            .wait_ready("the gateway", || self.place.answers(address))
    }
}

/// What clients send to the originated port is led to the gateway, and goes on to the plain one.
const RESOURCES: &str = r"
apiVersion: v1
kind: Service
metadata: { name: istio-egressgateway, namespace: istio-system }
spec:
  clusterIP: GATEWAY_ADDRESS
  selector: { istio: egressgateway }
  ports: [{ name: http2, port: GATEWAY_PORT }]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: egress, namespace: istio-system }
spec:
  selector: { istio: egressgateway }
  servers:
  - port: { number: GATEWAY_PORT, name: https, protocol: HTTPS }
    hosts: [bench.test]
    tls:
      mode: MUTUAL
      serverCertificate: SERVER_CERTIFICATE
      privateKey: SERVER_KEY
      caCertificates: CA_FILE
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: egress, namespace: istio-system }
spec:
  host: istio-egressgateway.istio-system.svc.cluster.local
  trafficPolicy:
    tls:
      mode: MUTUAL
      clientCertificate: CLIENT_CERTIFICATE
      privateKey: CLIENT_KEY
      caCertificates: CA_FILE
      sni: bench.test
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: through }
spec:
  hosts: [bench.test]
  gateways: [istio-system/egress, mesh]
  http:
  - match: [{ gateways: [mesh], port: 8080 }]
    route: [{ destination: { host: istio-egressgateway.istio-system.svc.cluster.local, port: { number: GATEWAY_PORT } } }]
  - match: [{ gateways: [istio-system/egress] }]
    route: [{ destination: { host: bench.test, port: { number: 80 } } }]
";
