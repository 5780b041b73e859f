//! Certificates of `interceptor certs` are what both ends of ISTIO_MUTUAL and servers of Gateways take.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interceptor_user::certs::{Subject, Target, issue, make_authority};
use interceptor_user::snapshot::{
    CertificateSource, ClientCaSource, Credential, TlsOrigination, TlsOriginationMode, TlsTermination,
    TlsTerminationMode,
};
use interceptor_user::workload::SpiffeId;

use crate::support::{Config, HOST, Upstream};
use crate::termination::{CART, snapshot, start};

const DAY: Duration = Duration::from_secs(86400);
const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/egress";

fn target(directory: &Path) -> Target {
    Target { directory: directory.to_owned(), force: false }
}

fn spiffe(uri: &str) -> Subject {
    Subject::Spiffe(SpiffeId::parse(uri).unwrap())
}

fn names(name: &str) -> Subject {
    Subject::Names(vec![name.into()])
}

struct Folder(tempfile::TempDir);

impl Folder {
    /// With an authority in `ca`.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        make_authority(&target(&folder.at("ca")), "test CA", DAY).unwrap();
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn issue(&self, name: &str, subject: &Subject) {
        issue(&self.at("ca"), subject, &target(&self.at(name)), DAY / 2).unwrap();
    }
}

#[test]
fn both_ends_of_istio_mutual_take_them() {
    let (folder, behind) = (Folder::new(), Upstream::echo());
    folder.issue("gateway", &spiffe(GATEWAY));
    folder.issue("cart", &spiffe(CART));
    let identity = |name: &str| Credential::MeshIdentity { directory: folder.at(name) };
    let termination = TlsTermination {
        mode: TlsTerminationMode::IstioMutual,
        client_ca: Some(ClientCaSource::Credential(identity("gateway"))),
        ..TlsTermination::simple(CertificateSource::Credential(identity("gateway")))
    };
    let gateway = start(snapshot(&behind, termination));
    let mut towards_gateway = Config::new(&[gateway.address]);
    towards_gateway.cluster.tls = Some(TlsOrigination {
        mode: TlsOriginationMode::IstioMutual,
        sni: Some(HOST.into()),
        credential: Some(identity("cart")),
        ..TlsOrigination::simple()
    });
    let sidecar = towards_gateway.start();
    assert_eq!(sidecar.get("/through").status(), 200);
    let labels = [&*format!("source_principal=\"{CART}\"")];
    assert_eq!(gateway.metric("istio_requests_total", &labels), 1.0);
    // Both ends tell when theirs expires: in half a day.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for (proxy, file) in [(&gateway, "gateway/cert-chain.pem"), (&sidecar, "cart/cert-chain.pem")] {
        let left = proxy.metric("interceptor_certificate_expiry_timestamp_seconds", &[file]) - now;
        assert!((43_000.0..43_300.0).contains(&left), "{file}: {left}");
    }
}

#[test]
fn servers_of_gateways_take_them_as_a_credential() {
    let (folder, upstream) = (Folder::new(), Upstream::echo());
    folder.issue("credentials/web", &names(HOST));
    let directory = folder.at("credentials/web");
    let credential =
        Credential::Secret { name: "web".into(), directory: directory.clone(), ca_directories: Vec::new() };
    let proxy = start(snapshot(&upstream, TlsTermination::simple(CertificateSource::Credential(credential))));
    let output = std::process::Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
        .arg(directory.join("ca.crt"))
        .args(["--connect-to", &format!("::127.0.0.1:{}", proxy.address.port()), &format!("https://{HOST}/")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn keys_are_their_owners_and_nothing_is_replaced_unasked() {
    let folder = Folder::new();
    folder.issue("cart", &spiffe(CART));
    for (file, mode) in [
        ("ca/ca.key", 0o600),
        ("cart/key.pem", 0o600),
        ("ca/ca.crt", 0o644),
        ("cart/cert-chain.pem", 0o644),
        ("cart/root-cert.pem", 0o644),
        ("cart", 0o700),
    ] {
        let found = fs::metadata(folder.at(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{file}");
    }
    let before = fs::read(folder.at("cart/key.pem")).unwrap();
    let again = |force| {
        let target = Target { force, ..target(&folder.at("cart")) };
        issue(&folder.at("ca"), &spiffe(CART), &target, DAY / 2)
    };
    let error = format!("{:#}", again(false).unwrap_err());
    assert!(error.contains("is there already: give --force"), "{error}");
    assert_eq!(fs::read(folder.at("cart/key.pem")).unwrap(), before);
    again(true).unwrap();
    assert_ne!(fs::read(folder.at("cart/key.pem")).unwrap(), before);
    let left: Vec<_> = fs::read_dir(folder.at("cart")).unwrap().collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn what_cannot_be_issued_says_why() {
    let folder = Folder::new();
    fs::create_dir(folder.at("broken")).unwrap();
    fs::copy(folder.at("ca/ca.crt"), folder.at("broken/ca.crt")).unwrap();
    fs::write(folder.at("broken/ca.key"), "garbage").unwrap();
    for (ca, subject, ttl, reason) in [
        ("nowhere", spiffe(CART), DAY / 2, "make one with `interceptor certs ca --out DIR`"),
        ("broken", spiffe(CART), DAY / 2, "ca.key: not a private key"),
        ("ca", spiffe(CART), DAY * 2, "give a shorter --ttl"),
        ("ca", names("ümlaut.example.com"), DAY / 2, "not a DNS name"),
    ] {
        let error = issue(&folder.at(ca), &subject, &target(&folder.at("out")), ttl).unwrap_err();
        assert!(format!("{error:#}").contains(reason), "{error:#}");
        assert!(!folder.at("out/key.pem").exists());
    }
}
