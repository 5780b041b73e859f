//! `/metrics`: what the control loop shows, what the process takes, and what everybody else adds.

use std::collections::BTreeMap;

use http::{HeaderValue, Response, header};

use super::Admin;
use super::body::{self, Body};
use super::process;
use crate::agent::view::{SourceState, View};
use crate::resource::Level;
use crate::telemetry::exposition::{Family, MEDIA_TYPE};

pub(super) fn answer(admin: &Admin) -> Response<Body> {
    let mut out = String::new();
    let about = [("version", env!("CARGO_PKG_VERSION")), ("arch", std::env::consts::ARCH)];
    Family::gauge(&mut out, "interceptor_build_info", "Always 1; the labels say what is running.")
        .sample(&about, 1);
    shown(&mut out, &admin.view.load());
    for source in &admin.metrics {
        source(&mut out);
    }
    process::append(&mut out);
    let mut response = body::text(out);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

fn shown(out: &mut String, view: &View) {
    Family::gauge(out, "interceptor_ready", "1 when the node may rely on the agent, as /readyz says.")
        .sample(&[], u8::from(view.is_ready()));

    let mut states: BTreeMap<&str, usize> =
        ["enrolled", "waiting", "left alone", "out of reach", "failed"].map(|state| (state, 0)).into();
    states.extend(view.pods_by_state());
    let mut pods = Family::gauge(out, "interceptor_pods", "Pods of this node, by what becomes of them.");
    for (state, count) in states {
        pods.sample(&[("state", &state.replace(' ', "_"))], count);
    }

    let mistaken = view.pods.iter().filter(|pod| !pod.annotation_mistakes.is_empty()).count();
    Family::gauge(
        out,
        "interceptor_pods_with_annotation_mistakes",
        "Pods with an annotation that can't be used, and that changes nothing.",
    )
    .sample(&[], mistaken);

    let open = view.pods.iter().filter(|pod| pod.not_enforced.is_some()).count();
    Family::gauge(
        out,
        "interceptor_enforced_pods_with_net_raw",
        "Pods whose egress gateway is enforced, and that can send around it by AF_PACKET.",
    )
    .sample(&[], open);

    let help = "Findings about resources, by level.";
    let mut findings = Family::gauge(out, "interceptor_diagnostics", help);
    for level in [Level::Error, Level::Warning, Level::Info] {
        let count = view.diagnostics.iter().filter(|finding| finding.level == level).count();
        findings.sample(&[("level", &level.to_string())], count);
    }

    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for key in view.world.resources.keys() {
        *kinds.entry(key.kind.name()).or_default() += 1;
    }
    let mut resources = Family::gauge(out, "interceptor_resources", "Resources in force, by kind.");
    for (kind, count) in kinds {
        resources.sample(&[("kind", kind)], count);
    }

    let mut sources = Family::gauge(
        out,
        "interceptor_source_failing",
        "1 when a source can't be followed, and what was read last goes on acting.",
    );
    for source in &view.sources {
        let failing = matches!(source.state, SourceState::Failing { .. });
        sources.sample(&[("source", &source.name)], u8::from(failing));
    }
}
