//! What a Gateway's tls settings become.

use std::path::Path;
use std::sync::Arc;

use interceptor_user::compile::tls_termination::termination;
use interceptor_user::compile::{Files, NodePaths};
use interceptor_user::resource::{Resource, parse};
use interceptor_user::snapshot::{
    CertificateSource, CipherSuite, ClientCaSource, ClientIdentity, Credential, TlsTermination,
    TlsTerminationMode, TlsVersion,
};

const ANYWHERE: NodePaths = NodePaths::Any;

fn everything() -> Files<'static> {
    let (credentials_dir, identity_dir) = (Some(Path::new("/credentials")), Some(Path::new("/identity")));
    Files { credentials_dir, identity_dir, svid: None, allowed: &ANYWHERE }
}

fn of(tls: &str, files: Files<'_>) -> Option<TlsTermination> {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  servers:\n  - port: {{number: \
         443, name: a, protocol: HTTPS}}\n    hosts: [a.com]\n    tls: {{{tls}}}\n"
    );
    let parsed = parse(&"f.yaml".into(), &yaml, &"default".into());
    assert_eq!(parsed.diagnostics, [], "{tls}");
    let Resource::Gateway(gateway) = &parsed.resources[0] else { panic!("{yaml}") };
    termination(gateway.servers[0].tls.as_ref().unwrap(), true, files, &["old.domain".into()])
}

fn files(certificate: &str, key: &str) -> CertificateSource {
    CertificateSource::Files(ClientIdentity { certificate: certificate.into(), private_key: key.into() })
}

fn secret(name: &str) -> Credential {
    let directory = Path::new("/credentials");
    let (own, ca) = (directory.join(name), directory.join(format!("{name}-cacert")));
    Credential::Secret { name: name.into(), directory: own.clone(), ca_directories: vec![ca, own] }
}

fn words(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

#[test]
fn each_mode_has_its_sources() {
    let base = TlsTermination {
        trust_domain_aliases: words(&["old.domain"]),
        ..TlsTermination::simple(files("/c", "/k"))
    };
    let simple = "mode: SIMPLE, serverCertificate: /c, privateKey: /k";
    assert_eq!(of(simple, everything()), Some(base.clone()));
    let narrow = format!(
        "{simple}, minProtocolVersion: TLSV1_2, maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]"
    );
    let expected = TlsTermination {
        max_version: TlsVersion::Tls12,
        cipher_suites: Some(vec![CipherSuite::EcdheRsaAes128Gcm]),
        ..base.clone()
    };
    assert_eq!(of(&narrow, everything()), Some(expected));
    let mutual = "mode: MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /ca, caCrl: /crl, \
                  subjectAltNames: [spiffe://td/ns/a/sa/b]";
    let expected = TlsTermination {
        mode: TlsTerminationMode::Mutual,
        client_ca: Some(ClientCaSource::File("/ca".into())),
        ca_crl: Some("/crl".into()),
        subject_alt_names: words(&["spiffe://td/ns/a/sa/b"]),
        ..base.clone()
    };
    assert_eq!(of(mutual, everything()), Some(expected));
    let named = "mode: OPTIONAL_MUTUAL, credentialNames: [rsa, ecdsa]";
    let expected = TlsTermination {
        mode: TlsTerminationMode::OptionalMutual,
        certificates: ["rsa", "ecdsa"].map(secret).map(CertificateSource::Credential).to_vec(),
        client_ca: Some(ClientCaSource::Credential(secret("rsa"))),
        ..base.clone()
    };
    assert_eq!(of(named, everything()), Some(expected));
    let identity = Credential::MeshIdentity { directory: "/identity".into() };
    let expected = TlsTermination {
        mode: TlsTerminationMode::IstioMutual,
        certificates: vec![CertificateSource::Credential(identity.clone())],
        client_ca: Some(ClientCaSource::Credential(identity)),
        ..base
    };
    assert_eq!(of("mode: ISTIO_MUTUAL", everything()), Some(expected));
    assert_eq!(of("mode: PASSTHROUGH", everything()), None);
}

#[test]
fn what_cannot_be_found_fails_each_handshake() {
    let nothing = NodePaths::default();
    let nowhere = Files { credentials_dir: None, identity_dir: None, svid: None, allowed: &nothing };
    for (tls, reason) in [
        ("mode: ISTIO_MUTUAL", "give --identity-dir DIR"),
        ("mode: SIMPLE, credentialName: a", "give --credentials-dir DIR with its files in DIR/a"),
        (
            "mode: SIMPLE, serverCertificate: /c, privateKey: /k",
            "serverCertificate /c is a file of the node, and --allow-tls-files allows nothing",
        ),
    ] {
        let made = of(tls, nowhere).unwrap();
        let impossible = made.impossible.unwrap();
        assert!(impossible.contains(reason), "{tls}: {impossible}");
        assert_eq!(made.certificates, [], "{tls}");
    }
    for (name, reason) in
        [("../a", "is not the name of a secret"), ("configmap://a", "holds no server certificate")]
    {
        let made = of(&format!("mode: SIMPLE, credentialName: '{name}'"), everything()).unwrap();
        assert!(made.impossible.unwrap().contains(reason), "{name}");
    }
}
