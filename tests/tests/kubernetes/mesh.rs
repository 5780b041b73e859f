//! The mesh's settings from their ConfigMap.

use std::time::Duration;

use interceptor_tests::{ApiServer, Stopwatch, wait_for};
use interceptor_user::resource::World;
use interceptor_user::resource::mesh_config::OutboundTrafficPolicyMode::{AllowAny, RegistryOnly};

use crate::support::{start, synced};

fn config_map(mesh: &str) -> String {
    let mesh = mesh.replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |-\n    {mesh}\n"
    )
}

fn mode(world: &World) -> Option<interceptor_user::resource::mesh_config::OutboundTrafficPolicyMode> {
    world.mesh.outbound_traffic_policy
}

#[test]
fn it_is_replaced_as_the_tutorials_do() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    // Another one of the namespace is another matter.
    server.apply(
        &config_map("outboundTrafficPolicy: {mode: REGISTRY_ONLY}").replace("name: istio,", "name: other,"),
    )?;
    server.apply(&config_map("accessLogFile: /dev/stdout\noutboundTrafficPolicy:\n  mode: ALLOW_ANY"))?;
    let followed = synced(&server)?;
    assert_eq!(mode(&followed.world()), Some(AllowAny));
    let replaced = Stopwatch::start();
    server.apply(&config_map("accessLogFile: /dev/stdout\noutboundTrafficPolicy:\n  mode: REGISTRY_ONLY"))?;
    followed.wait_for("REGISTRY_ONLY", |world, _| mode(world) == Some(RegistryOnly))?;
    assert!(replaced.elapsed() < Duration::from_secs(1));
    server.delete("configmaps", "istio-system", "istio")?;
    followed.wait_for("the defaults", |world, found| {
        mode(world).is_none() && found.iter().any(|finding| finding.message.contains("was removed"))
    })?;
    Ok(())
}

#[test]
fn a_mistake_keeps_what_held() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&config_map("outboundTrafficPolicy: {mode: REGISTRY_ONLY}"))?;
    let followed = synced(&server)?;
    server.apply(&config_map("outboundTrafficPolicy: {mode: ALLOW_NOBODY}"))?;
    followed.wait_for("the mistake is told", |_, found| !found.is_empty())?;
    assert_eq!(mode(&followed.world()), Some(RegistryOnly));
    let findings = followed.findings();
    assert!(
        findings.len() == 1
            && findings[0].starts_with("istio-system/istio@10")
            && findings[0].contains("`ALLOW_NOBODY` is not one of")
            && findings[0].contains("keep their last good settings"),
        "{findings:#?}"
    );
    server.apply(&config_map("outboundTrafficPolicy: {mode: ALLOW_ANY}"))?;
    followed.wait_for("it is mended", |world, found| mode(world) == Some(AllowAny) && found.is_empty())?;
    Ok(())
}

#[test]
fn nothing_begins_with_settings_that_cannot_be_used() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&config_map("outboundTrafficPolicy: {mode: ALLOW_NOBODY}"))?;
    let followed = start(&server)?;
    let unusable =
        wait_for("the status says so", Duration::from_secs(30), || followed.status().unusable.clone())?;
    assert!(unusable.why.contains("`ALLOW_NOBODY` is not one of"), "{unusable:?}");
    assert_eq!((followed.worlds(), followed.status().is_synced), (0, false));
    server.apply(&config_map("outboundTrafficPolicy: {mode: REGISTRY_ONLY}"))?;
    followed.wait_for("the first World", |world, _| mode(world) == Some(RegistryOnly))?;
    assert_eq!(followed.status().unusable, None);
    Ok(())
}
