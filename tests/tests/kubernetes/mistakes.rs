//! A resource that is written wrongly: named, left out or kept in its last good form, and everything else stands.

use interceptor_tests::ApiServer;

use crate::support::{service_entry, synced};

#[test]
fn a_mistake_leaves_out_one_resource() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&(service_entry("good", "a.example.com") + &service_entry("bad", "'*'")))?;
    let followed = synced(&server)?;
    assert_eq!(followed.keys(), ["ServiceEntry shop/good"]);
    let findings = followed.findings();
    assert!(
        findings.len() == 1
            && findings[0].starts_with("shop/bad@10")
            && findings[0].contains("error: ServiceEntry shop/bad: spec.hosts[0]: "),
        "{findings:#?}"
    );
    Ok(())
}

#[test]
fn what_was_good_before_goes_on() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&service_entry("e", "a.example.com"))?;
    let followed = synced(&server)?;
    let hosts = |followed: &crate::support::Followed| -> Vec<String> {
        followed.world().service_entries().map(|entry| entry.hosts[0].value.to_string()).collect()
    };
    // Twice: the mistake does not become the last good form.
    for wrong in ["'*'", "'*.*'"] {
        server.apply(&service_entry("e", wrong))?;
        followed.wait_for("the mistake is told", |_, found| {
            found.iter().any(|finding| finding.message.contains(wrong.trim_matches('\'')))
        })?;
        assert_eq!(hosts(&followed), ["a.example.com"]);
        let kept =
            followed.findings().iter().any(|finding| finding.contains("keeps acting in its last good form"));
        assert!(kept, "{:#?}", followed.findings());
    }
    // Also when all is listed anew.
    server.kill();
    server.compact();
    server.restart()?;
    server.apply(&service_entry("other", "b.example.com"))?;
    followed.wait_for("the other", |world, _| world.resources.len() == 2)?;
    assert_eq!(hosts(&followed), ["a.example.com", "b.example.com"]);
    // Gone is gone.
    server.delete("serviceentries", "shop", "e")?;
    followed.wait_for("it is gone, and the mistake with it", |world, found| {
        world.resources.len() == 1 && found.is_empty()
    })?;
    Ok(())
}

#[test]
fn a_rule_that_asks_for_tls_and_cannot_be_used_lets_nothing_through_in_clear() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: shop}\n\
         spec: {host: a.example.com, trafficPolicy: {tls: {mode: SIMPEL}}}\n",
    )?;
    let followed = synced(&server)?;
    let refused: Vec<bool> = followed.world().destination_rules().map(|rule| rule.refused).collect();
    assert_eq!(refused, [true]);
    assert!(!followed.findings().iter().any(|finding| finding.contains("last good form")));
    Ok(())
}
