//! Pods as requests name them, and `/pods`.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::Admin;
use super::body::{self, Body};
use super::query::Query;
use super::refusal::Refusal;
use crate::agent::view::{Compiled, PodState, PodView, View};
use crate::resource::edit_distance;

/// So many are offered instead of one that isn't there.
const OFFERED_MAX: usize = 5;

/// `/pods`: all of them, or the one of `?pod=`.
pub(super) fn answer(admin: &Admin, mut query: Query) -> Result<Response<Body>, Refusal> {
    let name = query.take("pod");
    query.finish()?;
    let view = admin.view.load();
    let pods = match name {
        Some(name) => std::slice::from_ref(find(&view, &name)?),
        None => &view.pods,
    };
    Ok(body::json(&pods)?)
}

/// The pod that `NAMESPACE/NAME` names.
pub(super) fn find<'a>(view: &'a View, name: &str) -> Result<&'a Arc<PodView>, Refusal> {
    let Some((namespace, pod)) = name.split_once('/').filter(|(a, b)| !a.is_empty() && !b.is_empty()) else {
        return Err(Refusal::bad_request(format!("pod {name:?}: expected NAMESPACE/NAME")));
    };
    view.pod(namespace, pod).ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("no pod {name} on this node{}", others(view, namespace, pod)),
        )
    })
}

/// What an enrolled pod gets, or what a gateway does, which is the one pod that it tells of.
pub(super) fn compiled(pod: &PodView) -> Result<&Arc<Compiled>, Refusal> {
    let why_not = match (&pod.state, &pod.compiled) {
        (PodState::Enrolled, Some(compiled)) => return Ok(compiled),
        (_, Some(compiled)) if compiled.settings.role.is_gateway() => return Ok(compiled),
        (PodState::Enrolled, None) => "its configuration is being compiled".to_owned(),
        (state, _) => match state.why() {
            Some(why) => format!("{}: {why}", state.name()),
            None => state.name().to_owned(),
        },
    };
    let why = format!("pod {}/{} is not intercepted: {why_not}", pod.namespace, pod.name);
    Err(Refusal::new(StatusCode::CONFLICT, why))
}

/// The nearest names, the nearest first.
fn others(view: &View, namespace: &str, name: &str) -> String {
    let mut known: Vec<(usize, String)> = view
        .pods
        .iter()
        .map(|pod| {
            let distance =
                edit_distance(&pod.name, name).saturating_add(edit_distance(&pod.namespace, namespace));
            (distance, format!("{}/{}", pod.namespace, pod.name))
        })
        .collect();
    if known.is_empty() {
        return ": no pod of it is known".to_owned();
    }
    known.sort();
    let count = known.len();
    let nearest: Vec<String> = known.into_iter().take(OFFERED_MAX).map(|(_, name)| name).collect();
    let rest = count.saturating_sub(OFFERED_MAX);
    let rest = if rest == 0 { String::new() } else { format!(" and {rest} more") };
    format!("; there are {}{rest}", nearest.join(", "))
}
