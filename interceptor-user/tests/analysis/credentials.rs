//! `--credentials-dir`: `credentialName` of DestinationRules with its files there, missing, or unusable.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rcgen::{CertifiedKey, generate_simple_self_signed};
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
