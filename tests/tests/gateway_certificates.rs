//! Whom a gateway's servers let in, as curl sees it: certificates that are missing, of others, over, revoked or of another
//! name, and versions and suites of TLS that are not spoken. Who is refused is in the access log with the reason.

use std::path::Path;

use interceptor_tests::{Ca, Gateway, Identity, World, eventually};

/// A server for each way to ask for certificates: its port, and its `tls` beside the certificate.
struct Servers<'a> {
    shown: &'a Identity,
    ca: &'a Path,
    crl: &'a Path,
}

const SIMPLE: u16 = 443;
const MUTUAL: u16 = 444;
const REVOKING: u16 = 445;
const OPTIONAL: u16 = 446;
const NAMED: u16 = 447;
const NEW: u16 = 448;
const OLD: u16 = 449;

/// A port, the certificate that curl shows, its other flags, and the reason if it is refused.
type Case<'a> = (u16, Option<&'a Identity>, &'a [&'a str], Option<&'a str>);

impl Servers<'_> {
    fn yaml(&self) -> String {
        let (ca, crl) = (self.ca.display(), self.crl.display());
        let servers: String = [
            (SIMPLE, "mode: SIMPLE".to_owned()),
            (MUTUAL, format!("mode: MUTUAL, caCertificates: {ca}")),
            (REVOKING, format!("mode: MUTUAL, caCertificates: {ca}, caCrl: {crl}")),
            (OPTIONAL, format!("mode: OPTIONAL_MUTUAL, caCertificates: {ca}")),
            (NAMED, format!("mode: MUTUAL, caCertificates: {ca}, subjectAltNames: ['spiffe://td/cart']")),
            (NEW, "mode: SIMPLE, minProtocolVersion: TLSV1_3".to_owned()),
            (
                OLD,
                "mode: SIMPLE, maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]"
                    .to_owned(),
            ),
        ]
        .into_iter()
        .map(|(port, tls)| {
            let (certificate, key) = (self.shown.certificate.display(), self.shown.key.display());
            format!(
                "  - port: {{number: {port}, name: p{port}, protocol: HTTPS}}\n    hosts: [gateway.test]\n    \
                 tls: {{{tls}, serverCertificate: {certificate}, privateKey: {key}}}\n"
            )
        })
        .collect();
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: egress, namespace: default}}\nspec:\n  \
             selector: {{istio: egressgateway}}\n  servers:\n{servers}---\n\
             apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: answers, namespace: default}}\n\
             spec:\n  hosts: [gateway.test]\n  gateways: [egress]\n  http:\n  \
             - directResponse: {{status: 200, body: {{string: welcome}}}}\n"
        )
    }
}

#[test]
fn clients_are_let_in_or_refused_with_the_reason() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let (servers, clients, others) = (Ca::new("servers")?, Ca::new("clients")?, Ca::new("others")?);
    let shown = servers.server("gateway", &["gateway.test"])?;
    let crl = clients.revoke("revoked.crl", 7)?;
    let config = Servers { shown: &shown, ca: &clients.root(), crl: &crl }.yaml();
    let gateway = Gateway::start(&host, &config)?;
    let good = clients.numbered_client("good", 1)?;
    let revoked = clients.numbered_client("gone", 7)?;
    let foreign = others.client("foreign")?;
    let past = clients.expired("past", &["client.test"])?;
    let cart = clients.mesh_identity("cart", "spiffe://td/cart")?;
    let cases: [Case<'_>; 21] = [
        (SIMPLE, None, &[], None),
        (SIMPLE, Some(&foreign), &[], None),
        (SIMPLE, None, &["--tls-max", "1.2"], None),
        (MUTUAL, None, &[], Some("no_certificate")),
        (MUTUAL, Some(&good), &[], None),
        (MUTUAL, Some(&foreign), &[], Some("unknown_ca")),
        (MUTUAL, Some(&past), &[], Some("expired")),
        (MUTUAL, Some(&past), &["--tls-max", "1.2"], Some("expired")),
        (REVOKING, Some(&good), &[], None),
        (REVOKING, Some(&revoked), &[], Some("revoked")),
        (OPTIONAL, None, &[], None),
        (OPTIONAL, Some(&good), &[], None),
        (OPTIONAL, Some(&foreign), &[], Some("unknown_ca")),
        (NAMED, Some(&cart), &[], None),
        (NAMED, Some(&good), &[], Some("name_mismatch")),
        (NEW, None, &[], None),
        (NEW, None, &["--tls-max", "1.2"], Some("nothing_in_common")),
        (OLD, None, &[], None),
        (OLD, None, &["--tlsv1.3"], Some("nothing_in_common")),
        (OLD, None, &["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"], None),
        (
            OLD,
            None,
            &["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            Some("nothing_in_common"),
        ),
    ];
    for (number, (port, client, flags, refused)) in cases.into_iter().enumerate() {
        let mut curl = app.command("curl");
        curl.args(["-sS", "--max-time", "20", "--resolve"]);
        curl.arg(format!("gateway.test:{port}:{}", host.address)).arg("--cacert").arg(servers.root());
        if let Some(Identity { certificate, key }) = client {
            curl.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        let output = curl.args(flags).arg(format!("https://gateway.test:{port}/")).output()?;
        let (body, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let what = format!("row {number}, port {port}, {flags:?}, {refused:?}: {body} {said}");
        assert_eq!(&*body, if refused.is_some() { "" } else { "welcome" }, "{what}");
        let lines = gateway.lines(number + 1)?;
        let (line, details) = (&lines[number].line, refused.map(|reason| format!("tls_handshake_{reason}")));
        match details {
            Some(details) => assert!(line.contains(&details) && line.contains(" DPE "), "{what}: {line}"),
            None => assert_eq!(lines[number].code, 200, "{what}: {line}"),
        }
    }
    let counted = "interceptor_tls_handshakes_total{result=\"expired\"} 2";
    eventually("refusals are counted", || {
        gateway.ask("/metrics").is_ok_and(|(_, text)| text.contains(counted))
    })
}
