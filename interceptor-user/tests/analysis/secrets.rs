//! Findings about the Secrets and the Service of a gateway.

use crate::kubernetes::{labelled, service};
use crate::support::{check, gateway};

fn tls_gateway(mode: &str) -> String {
    gateway(
        "g",
        &format!(
            "selector: {{istio: e}}, servers: [{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: {mode}, credentialName: cert}}}}]"
        ),
    )
}

fn secret(name: &str, keys: &[&str]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("{key}: eA==")).collect();
    format!(
        "---\n{{apiVersion: v1, kind: Secret, metadata: {{name: {name}}}, data: {{{}}}}}\n",
        keys.join(", ")
    )
}

#[test]
fn ist0101_secrets() {
    check(
        &format!("{}{}", tls_gateway("SIMPLE"), secret("other", &["tls.crt", "tls.key"])),
        &[
            "Error IST0101 Gateway default/g | cert | Referenced credentialName not found: \"cert\"; TLS is reset; (default)",
        ],
    );
    check(&format!("{}{}", tls_gateway("SIMPLE"), secret("cert", &["tls.crt", "tls.key"])), &[]);
    check(&tls_gateway("SIMPLE"), &[]);
}

#[test]
fn ist0161_secrets_without_keys() {
    check(
        &format!("{}{}", tls_gateway("SIMPLE"), secret("cert", &["tls.crt"])),
        &["Error IST0161 Gateway default/g | cert | is invalid; has no tls.crt and tls.key"],
    );
    check(
        &format!("{}{}", tls_gateway("MUTUAL"), secret("cert", &["tls.crt", "tls.key"])),
        &["Error IST0161 Gateway default/g | cert | has no ca.crt"],
    );
    check(&format!("{}{}", tls_gateway("MUTUAL"), secret("cert", &["cert", "key", "cacert"])), &[]);
    check(
        &format!(
            "{}{}{}",
            tls_gateway("MUTUAL"),
            secret("cert", &["tls.crt", "tls.key"]),
            secret("cert-cacert", &["cacert"])
        ),
        &[],
    );
}

#[test]
fn ist0162_ports_of_the_gateways_service() {
    let base = |port: &str| {
        format!(
            "{}{}{}",
            gateway(
                "g",
                "selector: {istio: e}, servers: [{port: {number: 8443, name: tls, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}]"
            ),
            labelled("p", "istio: e"),
            service("egress", &format!("selector: {{istio: e}}, ports: [{{name: tls, {port}}}]"))
        )
    };
    check(
        &base("port: 443"),
        &[
            "Warning IST0162 Gateway default/g | 8443 | target port (port 8443) that is not defined in the Service",
        ],
    );
    check(&base("port: 8443"), &[]);
    check(&base("port: 443, targetPort: 8443"), &[]);
}
