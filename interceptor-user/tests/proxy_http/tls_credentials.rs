//! TLS origination with credentials: files named like a Secret's keys.

use interceptor_user::snapshot::{Credential, TlsOrigination, TlsOriginationMode};
use rcgen::CertificateParams;

use crate::support::{HOST, Upstream, eventually};
use crate::tls::{Authority, assert_unverified, proxy};

/// A directory of credentials with a secret's files.
fn secret(authority: &Authority, directory: &str, files: &[(&str, &str)]) -> Credential {
    let root = authority.folder.path().join("credentials");
    let own = root.join(directory);
    std::fs::create_dir_all(&own).unwrap();
    for (name, text) in files {
        std::fs::write(own.join(name), text).unwrap();
    }
    let name = directory.strip_suffix("-cacert").unwrap_or(directory);
    Credential::Secret {
        name: name.into(),
        directory: root.join(name),
        ca_directories: vec![root.join(format!("{name}-cacert")), root.join(name)],
    }
}

fn with_credential(credential: Credential, mode: TlsOriginationMode) -> TlsOrigination {
    TlsOrigination { mode, credential: Some(credential), ..TlsOrigination::simple() }
}

#[test]
fn credentials_are_files_named_like_a_secrets_keys() {
    let authority = Authority::new();
    let upstream = Authority::serve(authority.issue(&[HOST], |_| {}), Some(&authority));
    let (ca, client) = (authority.issuer.pem(), authority.issue(&["client"], |_| {}).pem);
    let of_tls = [("tls.crt", &*client.0), ("tls.key", &client.1), ("ca.crt", &ca)];
    let opaque = [("cert", &*client.0), ("key", &client.1), ("cacert", &ca)];
    for files in [of_tls, opaque] {
        let credential = secret(&authority, "whole", &files);
        let reply = proxy(&upstream, with_credential(credential, TlsOriginationMode::Mutual)).get("/");
        assert_eq!(reply.status(), 200, "{}", reply.text());
        std::fs::remove_dir_all(authority.folder.path().join("credentials/whole")).unwrap();
    }
    // The CA in a secret of its own goes before one beside the certificate.
    secret(&authority, "split", &[("tls.crt", &client.0), ("tls.key", &client.1), ("ca.crt", "garbage")]);
    let credential = secret(&authority, "split-cacert", &[("cacert", &ca)]);
    assert_eq!(
        proxy(&upstream, with_credential(credential, TlsOriginationMode::Mutual)).get("/").status(),
        200
    );
    // SIMPLE shows no certificate, though there is one.
    let simple = secret(&authority, "simple", &of_tls);
    let reply = proxy(&upstream, with_credential(simple, TlsOriginationMode::Simple)).get("/");
    assert!(reply.text().contains("TLSV1_ALERT_CERTIFICATE_REQUIRED"), "{}", reply.text());
}

#[test]
fn what_a_credential_revokes_is_refused() {
    let authority = Authority::new();
    let serial = |params: &mut CertificateParams| params.serial_number = Some(7_u64.into());
    let upstream = Authority::serve(authority.issue(&[HOST], serial), None);
    let (ca, list) = (authority.issuer.pem(), std::fs::read_to_string(authority.revoke(&[7], 3000)).unwrap());
    for files in [[("ca.crt", &*ca), ("ca.crl", &list)], [("cacert", &ca), ("crl", &list)]] {
        let credential = secret(&authority, files[0].0, &files);
        let proxy = proxy(&upstream, with_credential(credential, TlsOriginationMode::Simple));
        assert_unverified(&proxy.get("/"), &proxy, "evoked");
    }
}

#[test]
fn a_credential_that_is_not_there_is_told_and_nothing_is_sent() {
    let authority = Authority::new();
    let upstream = Upstream::echo();
    let client = authority.issue(&["client"], |_| {}).pem;
    let empty = secret(&authority, "empty", &[]);
    let half = secret(&authority, "half", &[("tls.crt", &client.0), ("key", &client.1)]);
    let no_ca = secret(&authority, "no-ca", &[("tls.crt", &client.0), ("tls.key", &client.1)]);
    for (credential, mode, reason) in [
        (empty.clone(), TlsOriginationMode::Simple, "credentialName empty: no ca.crt or cacert in "),
        (
            empty,
            TlsOriginationMode::Mutual,
            "credentialName empty: no tls.crt and tls.key, or cert and key, in ",
        ),
        (
            half,
            TlsOriginationMode::Mutual,
            "credentialName half: no tls.crt and tls.key, or cert and key, in ",
        ),
        (no_ca, TlsOriginationMode::Mutual, "credentialName no-ca: no ca.crt or cacert in "),
    ] {
        let proxy = proxy(&upstream, with_credential(credential, mode));
        let reply = proxy.get("/");
        assert!(reply.status() == 503 && reply.text().contains(reason), "{}", reply.text());
        let record = proxy.records.only();
        assert_eq!(record.text("response_flags"), "UF");
        assert!(record.text("upstream_transport_failure_reason").starts_with(&reason.replace(' ', "_")));
    }
    assert_eq!(upstream.connections(), 0);
}

/// Also one that comes later than the proxy.
#[test]
fn a_credential_that_changes_is_read_again() {
    let authority = Authority::new();
    let upstream = Authority::serve(authority.issue(&[HOST], |_| {}), None);
    let credential = secret(&authority, "late", &[]);
    let proxy = proxy(&upstream, with_credential(credential, TlsOriginationMode::Simple));
    assert_eq!(proxy.get("/").status(), 503);
    secret(&authority, "late-cacert", &[("ca.crt", &authority.issuer.pem())]);
    eventually("the CA is used", || proxy.get("/").status() == 200);
}
