//! TLS that was asked for is TLS, verified, or the request fails with a reason: never plaintext.

use interceptor_tests::{Finished, World};

/// A host whose port 80 becomes TLS to `port`, with these TLS settings.
fn config(host: &str, port: u16, tls: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: entry}}
spec:
  hosts: [{host}]
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: rule}}
spec:
  host: {host}
  trafficPolicy: {{tls: {{{tls}}}}}
"
    )
}

fn get(host: &str, port: u16, tls: &str) -> anyhow::Result<Finished> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&config(host, port, tls))?.curl(&[&format!("http://{host}/")])?;
    run.expect_code(0)?;
    if run.http()?.status == 503 {
        // Whatever failed, not one request arrived. (A handshake at a plain port is no request: it has no method.)
        let requests = world.nginx.hits(&pod.address).into_iter().filter(|hit| !hit.get("method").is_empty());
        assert_eq!(requests.count(), 0);
    }
    Ok(run)
}

/// Fails unless it is a 503 whose reason, in body and log, is of this class.
fn assert_refused(run: &Finished, class: &str) -> anyhow::Result<()> {
    let answer = run.http()?;
    assert_eq!(answer.status, 503, "{}", run.text());
    assert!(
        answer.body.contains("upstream connect error or disconnect/reset before headers"),
        "{}",
        answer.body
    );
    assert!(answer.body.contains(class), "{}", answer.body);
    let line = run.line()?;
    assert!(line.flags.split(',').any(|flag| flag == "UF"), "{}", line.line);
    assert!(line.transport_failure.contains(class), "{}", line.line);
    assert!(line.details.starts_with("upstream_reset_before_response_started{"), "{}", line.line);
    Ok(())
}

#[test]
fn bad_certificates_are_refused() -> anyhow::Result<()> {
    for host in ["expired.test", "wrong-name.test"] {
        assert_refused(&get(host, 443, "mode: SIMPLE")?, "CERTIFICATE_VERIFY_FAILED")?;
    }
    Ok(())
}

#[test]
fn a_certificate_of_another_authority_is_refused() -> anyhow::Result<()> {
    let other = interceptor_tests::Ca::new("somebody else")?;
    let tls = format!("mode: SIMPLE, caCertificates: {}", other.root().display());
    assert_refused(&get("hbchen.com", 443, &tls)?, "CERTIFICATE_VERIFY_FAILED")
}

#[test]
fn our_own_authority_by_file() -> anyhow::Result<()> {
    let tls = format!("mode: SIMPLE, caCertificates: {}", World::shared()?.ca.root().display());
    assert_eq!(get("hbchen.com", 443, &tls)?.http()?.status, 200);
    Ok(())
}

#[test]
fn an_authority_that_is_not_there_fails_closed() -> anyhow::Result<()> {
    for tls in [
        "mode: SIMPLE, caCertificates: /nonexistent/ca.pem",
        "mode: MUTUAL, clientCertificate: /nonexistent/client.pem, privateKey: /nonexistent/client.key",
        "mode: SIMPLE, credentialName: some-secret",
    ] {
        let run = get("hbchen.com", 443, tls)?;
        assert_eq!(run.http()?.status, 503, "{tls}: {}", run.text());
        // Told before the first request, too.
        assert_eq!(run.stderr.matches("[EGR0104]").count(), 1, "{tls}: {}", run.stderr);
    }
    Ok(())
}

#[test]
fn mutual_without_files_is_never_plaintext() -> anyhow::Result<()> {
    let run = get("hbchen.com", 80, "mode: MUTUAL")?;
    assert_eq!(run.http()?.status, 503, "{}", run.text());
    Ok(())
}

#[test]
fn tls_to_a_plain_port_says_so() -> anyhow::Result<()> {
    assert_refused(&get("hbchen.com", 80, "mode: SIMPLE")?, "WRONG_VERSION_NUMBER")
}

#[test]
fn a_client_certificate_is_shown() -> anyhow::Result<()> {
    let world = World::shared()?;
    let client = world.ca.client("payments")?;
    let tls = format!(
        "mode: MUTUAL, clientCertificate: {}, privateKey: {}, caCertificates: {}",
        client.certificate.display(),
        client.key.display(),
        world.ca.root().display()
    );
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&config("mutual.test", 443, &tls))?.curl(&["http://mutual.test/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.body, "mutual.test says hello over https\n");
    let hits = world.nginx.wait_hits(&pod.address, 1)?;
    assert_eq!((hits[0].get("client"), hits[0].get("sni")), ("CN=payments", "mutual.test"));
    // The same server without a certificate: it answers, and refuses.
    assert_eq!(get("mutual.test", 443, "mode: SIMPLE")?.http()?.status, 400);
    Ok(())
}

#[test]
fn names_that_are_asked_for_are_verified() -> anyhow::Result<()> {
    // Every site shows a certificate for all of them: sni and subjectAltNames choose what is asked and required.
    let world = World::shared()?;
    let pod = world.pod()?;
    let tls = "mode: SIMPLE, sni: www.apple.com";
    let run = pod.interceptor()?.config(&config("hbchen.com", 443, tls))?.curl(&["http://hbchen.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 200);
    assert_eq!(world.nginx.wait_hits(&pod.address, 1)?[0].get("sni"), "www.apple.com");
    assert_eq!(get("hbchen.com", 443, "mode: SIMPLE, subjectAltNames: [six.test]")?.http()?.status, 200);
    let wrong = get("hbchen.com", 443, "mode: SIMPLE, subjectAltNames: [nobody.test]")?;
    assert_refused(&wrong, "CERTIFICATE_VERIFY_FAILED")?;
    // The wrong name is right when it is the one that is required.
    let tls = "mode: SIMPLE, sni: somebody-else.test, subjectAltNames: [somebody-else.test]";
    assert_eq!(get("wrong-name.test", 443, tls)?.http()?.status, 200);
    Ok(())
}

#[test]
fn not_verifying_must_be_said() -> anyhow::Result<()> {
    assert_eq!(get("expired.test", 443, "mode: SIMPLE, insecureSkipVerify: true")?.http()?.status, 200);
    Ok(())
}

#[test]
fn disable_is_plain() -> anyhow::Result<()> {
    assert_eq!(get("hbchen.com", 80, "mode: DISABLE")?.http()?.body, "hbchen.com says hello over http\n");
    Ok(())
}
