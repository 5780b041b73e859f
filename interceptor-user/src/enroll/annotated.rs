//! What annotations of a pod and of its namespace say together, and what of it can't be used. Pure; called by the selection
//! of pods.

use super::selection::Wanted;
use crate::resource::{
    Annotations, CAPTURE_DNS, CaptureDnsError, ENFORCE, EnforceError, Namespace, Pod, PolicyError,
    parse_capture_dns, parse_enforce,
};
use crate::workload::{Annotation, AnnotationError, IncludeIpRanges, RedirectPolicy};

/// An annotation that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    #[error(transparent)]
    Redirect(#[from] AnnotationError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Enforce(#[from] EnforceError),
    #[error(transparent)]
    CaptureDns(#[from] CaptureDnsError),
    #[error("annotation {0} does not act where {ENFORCE} does: what it names would go around the gateway")]
    Overridden(&'static str),
}

impl Mistake {
    /// What happens because of it.
    pub fn effect(&self) -> String {
        match self {
            Self::Redirect(_) | Self::Overridden(_) | Self::CaptureDns(_) => "it changes nothing".into(),
            Self::Enforce(_) => {
                "what the pod had before goes on acting; where it had nothing, the gateway is enforced".into()
            }
            Self::Policy(error) => format!(
                "what the pod had before goes on acting; where it had nothing, this counts as {}",
                error.instead().described()
            ),
        }
    }
}

/// Whether pod or namespace enforces the gateway: neither can say no for the other.
pub(super) fn is_enforced(
    pod: &Pod,
    namespace: Option<&Namespace>,
    before: Option<&Wanted>,
    mistakes: &mut Vec<Mistake>,
) -> bool {
    let mut says = |annotations: &Annotations| match annotations.get(ENFORCE) {
        None => false,
        Some(annotation) => parse_enforce(&annotation.value).unwrap_or_else(|error| {
            mistakes.push(error.into());
            before.is_none_or(|before| before.redirect.enforced.is_some())
        }),
    };
    let of_pod = says(&pod.meta.annotations);
    namespace.is_some_and(|namespace| says(&namespace.meta.annotations)) || of_pod
}

/// Whether it says anything that enforcement overrides.
pub(super) fn is_overridden(annotation: Annotation, redirect: &RedirectPolicy) -> bool {
    match annotation {
        Annotation::IncludeOutboundIpRanges => redirect.include_ip_ranges != IncludeIpRanges::All,
        Annotation::ExcludeOutboundIpRanges => !redirect.exclude_ip_ranges.is_empty(),
        // All that it could add goes to the proxy anyway.
        Annotation::IncludeOutboundPorts => false,
        Annotation::ExcludeOutboundPorts => !redirect.exclude_ports.is_empty(),
    }
}

/// Whether names are learned from the pod's DNS answers: its own annotation goes before its namespace's.
pub(super) fn captures_dns(
    pod: &Pod,
    namespace: Option<&Namespace>,
    before: Option<&Wanted>,
    mistakes: &mut Vec<Mistake>,
) -> bool {
    let mut says = |annotations: &Annotations| {
        let annotation = annotations.get(CAPTURE_DNS)?;
        parse_capture_dns(&annotation.value).unwrap_or_else(|error| {
            mistakes.push(error.into());
            before.map(|before| before.client.learned_names)
        })
    };
    let of_pod = says(&pod.meta.annotations);
    of_pod.or_else(|| says(&namespace?.meta.annotations)).unwrap_or_default()
}
