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
    #[error(
        "what asks for the pod to be left alone (a label, or a container istio-proxy) does not act: its namespace has \
         {ENFORCE}, and it would go around the gateway"
    )]
    NotLeftAlone,
    #[error("{0}")]
    Misnamed(String),
}

impl Mistake {
    /// What happens because of it.
    pub fn effect(&self) -> String {
        match self {
            Self::Redirect(_) | Self::Overridden(_) | Self::CaptureDns(_) | Self::NotLeftAlone => {
                "it changes nothing".into()
            }
            Self::Misnamed(_) => "nothing reads it".into(),
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

/// Whether all pods of the namespace are enforced, whatever they ask for. A value that can't be read counts as yes.
pub(super) fn is_fenced(namespace: &Namespace) -> bool {
    let annotation = namespace.meta.annotations.get(ENFORCE);
    annotation.is_some_and(|annotation| parse_enforce(&annotation.value).unwrap_or(true))
}

/// Whether it says anything that enforcement overrides.
pub(super) fn is_overridden(annotation: Annotation, redirect: &RedirectPolicy) -> bool {
    match annotation {
        Annotation::IncludeOutboundIpRanges => redirect.include_ip_ranges != IncludeIpRanges::All,
        Annotation::ExcludeOutboundIpRanges => !redirect.exclude_ip_ranges.is_empty(),
        // All that it could add goes to the proxy anyway.
        Annotation::IncludeOutboundPorts => false,
        Annotation::ExcludeOutboundPorts => !redirect.exclude_ports.is_empty(),
        Annotation::ExcludeInterfaces => !redirect.exclude_interfaces.is_empty(),
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

#[cfg(test)]
mod tests {
    use super::super::{OutOfReach, Selection, Selectors};
    use super::*;
    use crate::resource::{Resource, parse};

    fn read(text: &str) -> Resource {
        let parsed = parse(&"test.yaml".into(), text, &"default".into());
        parsed.resources.into_iter().next().unwrap_or_else(|| panic!("nothing in {text}"))
    }

    /// Not to be intercepted at all would be the easiest way around the gateway.
    #[test]
    fn no_pod_is_left_alone_where_its_namespace_enforces() {
        let fenced = |labels: &str, value: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}, annotations: {{{ENFORCE}: \
                 {value}}}}}\n"
            );
            let Resource::Namespace(namespace) = read(&text) else { panic!("no namespace in {text}") };
            namespace
        };
        let select =
            |pod: &Pod, namespace: &Namespace| Selectors::default().select(pod, Some(namespace), None);
        let pod = |metadata: &str, spec: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, uid: u{metadata}}}\n\
                 spec: {{containers: [{{name: app}}]{spec}}}\n"
            );
            let Resource::Pod(pod) = read(&text) else { panic!("no pod in {text}") };
            pod
        };
        for (metadata, spec) in [
            (", labels: {sidecar.istio.io/inject: \"false\"}", ""),
            (", annotations: {sidecar.istio.io/inject: \"false\"}", ""),
            (", labels: {egress.interceptor.io/enroll: disabled}", ""),
            ("", ", initContainers: [{name: istio-proxy}]"),
        ] {
            let pod = pod(metadata, spec);
            for namespace in [fenced("istio-injection: enabled", "gateway"), fenced("", "gatewy")] {
                let Selection::Enroll(wanted) = select(&pod, &namespace) else { panic!("{metadata}{spec}") };
                assert!(wanted.redirect.enforced.is_some(), "{metadata}{spec}");
                assert!(wanted.mistakes.contains(&Mistake::NotLeftAlone), "{metadata}{spec}");
            }
            let off = fenced("istio-injection: enabled", "\"\"");
            assert!(matches!(select(&pod, &off), Selection::LeaveAlone(_)), "{metadata}{spec}");
        }
        // What runs on the node's own network can't be had, and is listed.
        let out_of_reach = select(&pod("", ", hostNetwork: true"), &fenced("", "gateway"));
        assert_eq!(out_of_reach, Selection::OutOfReach(OutOfReach::HostNetwork));
    }
}
