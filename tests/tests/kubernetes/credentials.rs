//! Secrets that DestinationRules name become files; no others are asked for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use interceptor_tests::{ApiServer, eventually};
use interceptor_user::source::kubernetes::KubernetesSettings;

use crate::support::{settings, start_with, synced};

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: r, namespace: shop}
spec:
  host: a.example.com
  workloadSelector: {matchLabels: {app: web}}
  trafficPolicy:
    tls: {mode: MUTUAL, credentialName: client}
  subsets:
  - name: other
    trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE, credentialName: only-cacert}}]}
";

fn secret(name: &str, value: &str) -> String {
    // `one` and `two` in base64.
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ndata: {{tls.crt: {value}, tls.key: {value}}}\n"
    )
}

fn holds(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|have| have == text)
}

#[test]
fn a_named_secret_is_there_with_the_first_world_and_follows_the_cluster() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&(RULE.to_owned() + &secret("client", "b25l") + &secret("nobodys", "b25l")))?;
    let directory = server.dir().join("credentials");
    let followed =
        start_with(KubernetesSettings { credentials_dir: Some(directory.clone()), ..settings(&server) })?;
    followed.wait_for("the first World", |_, _| true)?;
    let file = directory.join("shop/client/tls.key");
    assert!(holds(&file, "one"), "{:?}", fs::read_to_string(&file));
    let mode = |path: &Path| fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777);
    assert_eq!((mode(&file)?, mode(&directory)?), (0o600, 0o700));
    server.apply(&secret("client", "dHdv"))?;
    eventually("it is renewed", || holds(&file, "two"))?;
    server.delete("secrets", "shop", "client")?;
    eventually("it is gone", || !file.exists())?;
    server.apply(&secret("client", "b25l"))?;
    eventually("it is back", || holds(&file, "one"))?;
    // Nobody names it any more.
    server.delete("destinationrules", "shop", "r")?;
    eventually("it is not kept", || !file.exists())?;
    let asked: Vec<String> =
        server.requests().into_iter().filter(|request| request.contains("secrets")).collect();
    let named =
        ["client", "client-cacert", "only-cacert"].map(|name| format!("fieldSelector=metadata.name={name}"));
    let is_named = |request: &String| {
        request.contains("/namespaces/shop/secrets?")
            && named.iter().any(|name| request.split('&').any(|part| part.ends_with(&**name)))
    };
    assert!(!asked.is_empty() && asked.iter().all(is_named), "{asked:#?}");
    Ok(())
}

#[test]
fn without_a_place_for_them_no_secret_is_asked_for() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&(RULE.to_owned() + &secret("client", "b25l")))?;
    let followed = synced(&server)?;
    followed.wait_for_keys(&["DestinationRule shop/r"])?;
    assert!(!server.requests().iter().any(|request| request.contains("secrets")), "{:#?}", server.requests());
    Ok(())
}

#[test]
fn a_successor_leaves_the_secrets_of_the_agent_that_serves_until_it_knows_better() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&(RULE.to_owned() + &secret("client", "b25l") + &secret("only-cacert", "b25l")))?;
    let directory = server.dir().join("credentials");
    let with_credentials =
        || KubernetesSettings { credentials_dir: Some(directory.clone()), ..settings(&server) };
    let first = start_with(with_credentials())?;
    first.wait_for("the first World", |_, _| true)?;
    let (client, other) = (directory.join("shop/client/tls.key"), directory.join("shop/only-cacert/tls.key"));
    assert!(holds(&client, "one") && holds(&other, "one"));
    server.kill();
    let second = start_with(with_credentials())?;
    eventually("it finds nobody", || second.status().api_server.is_some())?;
    assert!(holds(&client, "one") && holds(&other, "one"), "the first still serves with them");
    drop(first);
    server.delete("secrets", "shop", "only-cacert")?;
    server.restart()?;
    second.wait_for("the first World", |_, _| true)?;
    assert!(holds(&client, "one"));
    assert!(!other.exists(), "it went while nobody looked");
    Ok(())
}
