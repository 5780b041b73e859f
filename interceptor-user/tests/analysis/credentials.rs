//! `--credentials-dir` and `--identity-dir`: what DestinationRules need of files with its files there, missing, or unusable.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rcgen::{CertificateParams, CertifiedKey, KeyPair, SanType, date_time_ymd, generate_simple_self_signed};
use tempfile::TempDir;

use crate::support::{dr, host};

/// Names and contents, below the directory of credentials.
type Files<'a> = &'a [(&'a str, &'a str)];

/// Certificate and key, in PEM form.
fn pair() -> (String, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["a.com".to_owned()]).expect("a pair");
    (cert.pem(), signing_key.serialize_pem())
}

/// A rule for `a.com` with this TLS, and files of credentials.
fn directory(tls: &str, files: Files<'_>) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    let policy = format!("trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, tls: {{{tls}}}}}]}}");
    let rule = dr("r", &format!("host: a.com, {policy}"));
    fs::write(directory.path().join("a.yaml"), format!("{}{rule}", host("a", "a.com"))).expect("a file");
    for (name, text) in files {
        let path = directory.path().join("secrets").join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    directory
}

fn run(directory: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interceptor"));
    command.args(words).current_dir(directory).output().expect("the command")
}

fn analyze(directory: &Path) -> (Option<i32>, String) {
    let output = run(directory, &["analyze", "a.yaml", "--credentials-dir", "secrets"]);
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn credentials_that_are_there_are_no_finding() {
    let (certificate, key) = pair();
    let (certificate, key) = (certificate.as_str(), key.as_str());
    let rows: &[(&str, Files<'_>)] = &[
        ("mode: SIMPLE, credentialName: s", &[("s/ca.crt", certificate)]),
        ("mode: SIMPLE, credentialName: 'kubernetes://s'", &[("s/cacert", certificate)]),
        ("mode: SIMPLE, credentialName: s", &[("s-cacert/ca.crt", certificate)]),
        ("mode: SIMPLE, credentialName: 'configmap://c'", &[("c/ca.crt", certificate)]),
        (
            "mode: MUTUAL, credentialName: s",
            &[("s/tls.crt", certificate), ("s/tls.key", key), ("s/ca.crt", certificate)],
        ),
        (
            "mode: MUTUAL, credentialName: s, insecureSkipVerify: false",
            &[("s/cert", certificate), ("s/key", key), ("s-cacert/cacert", certificate)],
        ),
    ];
    for (tls, files) in rows {
        let directory = directory(tls, files);
        assert_eq!(analyze(directory.path()), (Some(0), String::new()), "{tls} {files:?}");
        // Nobody told where they are.
        let output = run(directory.path(), &["analyze", "a.yaml"]);
        assert_eq!(output.status.code(), Some(79));
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(said.contains("give --credentials-dir DIR"), "{said}");
    }
}

#[test]
fn credentials_that_cannot_be_used_name_the_files() {
    let ((certificate, key), (_, other_key)) = (pair(), pair());
    let (certificate, key, other_key) = (certificate.as_str(), key.as_str(), other_key.as_str());
    let whole = |key| [("s/tls.crt", certificate), ("s/tls.key", key), ("s/ca.crt", certificate)];
    let no_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let rows: &[(&str, Files<'_>, &str)] = &[
        ("SIMPLE", &[], "credentialName s: no ca.crt or cacert in secrets/s-cacert or secrets/s\n"),
        ("MUTUAL", &[], "credentialName s: no tls.crt and tls.key, or cert and key, in secrets/s\n"),
        (
            "MUTUAL",
            &[("s/tls.crt", certificate), ("s/ca.crt", certificate)],
            "no tls.crt and tls.key, or cert",
        ),
        ("MUTUAL", &[("s/tls.crt", certificate), ("s/tls.key", key)], "no ca.crt or cacert in"),
        ("MUTUAL", &whole(other_key), "client certificate secrets/s/tls.crt: keys may not be consistent"),
        ("MUTUAL", &whole("no key"), "private key secrets/s/tls.key: nothing in PEM form there"),
        ("SIMPLE", &[("s/ca.crt", "")], "CA certificates secrets/s/ca.crt: no certificate in PEM form there"),
        ("SIMPLE", &[("s/ca.crt", no_der)], "CA certificates secrets/s/ca.crt: "),
        ("SIMPLE", &[("s/ca.crt/directory", "")], "CA certificates secrets/s/ca.crt: Is a directory"),
    ];
    for (mode, files, message) in rows {
        let directory = directory(&format!("mode: {mode}, credentialName: s"), files);
        let (code, said) = analyze(directory.path());
        assert_eq!(code, Some(79), "{said}");
        assert!(said.starts_with("Error [EGR0104] (DestinationRule default/r a.yaml:4:"), "{said}");
        assert!(said.contains(message), "{message}\n{said}");
        assert_eq!(said.matches("[EGR0104]").count(), 1, "{said}");
    }
}

#[test]
fn explain_says_whether_they_are_there() {
    let (certificate, key) = pair();
    let files = [("s/tls.crt", &*certificate), ("s/tls.key", &*key), ("s-cacert/ca.crt", &*certificate)];
    let directory = directory("mode: MUTUAL, credentialName: s", &files);
    let explain = || {
        let words = ["explain", "-c", "a.yaml", "--credentials-dir", "secrets", "http://a.com"];
        let output = run(directory.path(), &words);
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let (code, said) = explain();
    assert_eq!(code, Some(0), "{said}");
    for note in [
        "must be valid for the request's Host, by secrets/s-cacert/ca.crt",
        "the client's certificate is secrets/s/tls.crt, with the key secrets/s/tls.key",
        "the files are here and can be used",
    ] {
        assert!(said.contains(note), "{note}\n{said}");
    }
    fs::remove_file(directory.path().join("secrets/s/tls.key")).expect("a file");
    let (code, said) = explain();
    assert_eq!(code, Some(3), "{said}");
    for note in [
        "the files can't be used: credentialName s: no tls.crt and tls.key, or cert and key, in secrets/s;",
        "503 Service Unavailable from the proxy",
        "flags UF",
    ] {
        assert!(said.contains(note), "{note}\n{said}");
    }
}

/// Certificate and key of an identity of the mesh that is good until a year has begun.
fn identity(until: i32) -> (String, String) {
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        vec![SanType::URI("spiffe://cluster.local/ns/shop/sa/cart".try_into().expect("a URI"))];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

#[test]
fn an_identity_of_the_mesh_is_looked_for_where_it_is_said_to_be() {
    let rule = "mode: ISTIO_MUTUAL";
    let with = |until| {
        let (certificate, key) = identity(until);
        let files = [("cert-chain.pem", &*certificate), ("key.pem", &*key), ("root-cert.pem", &*certificate)];
        directory(rule, &files)
    };
    let analyze = |directory: &TempDir, flags: &[&str]| {
        let output = run(directory.path(), &[&["analyze", "a.yaml"], flags].concat());
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let explain = |directory: &TempDir| {
        let words = ["explain", "-c", "a.yaml", "--identity-dir", "secrets", "http://a.com"];
        let output = run(directory.path(), &words);
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let good = with(3000);
    assert_eq!(analyze(&good, &["--identity-dir", "secrets"]), (Some(0), String::new()));
    let (code, said) = explain(&good);
    assert_eq!(code, Some(0), "{said}");
    for note in [
        "ISTIO_MUTUAL: TLS is put around what is sent; server name: outbound_.80_._.a.com",
        "must be valid for an identity of the trust domain that its own is of, by secrets/root-cert.pem",
        "the client's certificate is secrets/cert-chain.pem, with the key secrets/key.pem",
    ] {
        assert!(said.contains(note), "{note}\n{said}");
    }

    let (code, said) = analyze(&good, &[]);
    assert_eq!(code, Some(79));
    assert!(
        said.contains("mode ISTIO_MUTUAL needs an identity of the mesh: give --identity-dir DIR"),
        "{said}"
    );

    let expired = with(2021);
    let (code, said) = analyze(&expired, &["--identity-dir", "secrets"]);
    assert_eq!(code, Some(79));
    let reason = "the identity secrets/cert-chain.pem can't be used: it expired at 2021-01-01T00:00:00Z";
    assert!(said.starts_with("Error [EGR0104] (DestinationRule default/r a.yaml:4:"), "{said}");
    assert!(said.contains(reason) && said.contains("put a valid identity there"), "{said}");
    let (code, said) = explain(&expired);
    assert!(code == Some(3) && said.contains(reason) && said.contains("flags UF"), "{said}");
}

#[test]
fn server_names_that_cannot_be_sent_are_told() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: w}\nspec: {hosts: ['*.w.test'], ports: \
                 [{number: 80, name: http, protocol: HTTP}], resolution: NONE}\n---\n";
    let rule = |tls: &str| {
        format!(
            "{entry}apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r}}\n\
             spec: {{host: '*.w.test', trafficPolicy: {{tls: {{{tls}}}}}}}\n"
        )
    };
    for (tls, told) in [
        (
            "mode: ISTIO_MUTUAL",
            "no server name is sent with ISTIO_MUTUAL: Istio's, as outbound_.443_._.*.w.test,",
        ),
        ("mode: ISTIO_MUTUAL, sni: a.w.test", ""),
        ("mode: SIMPLE, subjectAltNames: ['*.w.test', 'spiffe://a/b', 10.0.0.1]", ""),
        (
            "mode: SIMPLE, subjectAltNames: ['a b']",
            "subjectAltNames: a b is neither a DNS name nor an address",
        ),
    ] {
        let directory = TempDir::new().expect("a directory");
        std::fs::write(directory.path().join("a.yaml"), rule(tls)).expect("a file");
        let said = |words: &[&str]| String::from_utf8(run(directory.path(), words).stdout).expect("text");
        let found = said(&["analyze", "a.yaml", "--identity-dir", "secrets"]);
        assert!(found.contains(told), "{tls}: {found}");
        let is_told = found.contains("no server name") || found.contains("subjectAltNames:");
        assert_eq!(is_told, !told.is_empty(), "{tls}: {found}");
        let explained = said(&["explain", "-c", "a.yaml", "--identity-dir", "secrets", "http://a.w.test"]);
        let without_name = "server name: none, as outbound_.80_._.*.w.test is no DNS name";
        assert_eq!(
            explained.contains(without_name),
            told.starts_with("no server name"),
            "{tls}: {explained}"
        );
    }
}
