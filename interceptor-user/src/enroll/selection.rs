//! Which pods are ours, and what each gets: decided from the pod and its namespace alone. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use super::annotated::{Mistake, captures_dns, is_enforced, is_fenced, is_overridden};
use crate::compile::Client;
use crate::resource::{ClientPolicy, Labels, Namespace, POLICY, Pod};
use crate::workload::{Annotation, Enforced, RedirectPolicy};

/// Our own: a label of namespaces, and of pods a label or an annotation.
pub const ENROLL: &str = "egress.interceptor.io/enroll";
const YES: [&str; 2] = ["enabled", "true"];
const NO: [&str; 2] = ["disabled", "false"];
/// Istio's, of pods: as a label or an annotation.
const INJECT: &str = "sidecar.istio.io/inject";
/// Istio's, of namespaces.
const INJECTION: &str = "istio-injection";
/// The name of Istio's sidecar.
const SIDECAR: &str = "istio-proxy";

/// A label that namespaces have whose pods are enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceLabel {
    pub name: Arc<str>,
    /// `None`: whatever it says.
    pub value: Option<Arc<str>>,
}

impl NamespaceLabel {
    fn is_on(&self, labels: &Labels) -> bool {
        match (labels.get(&self.name), &self.value) {
            (Some(value), Some(wanted)) => value == wanted,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

/// What [`ENROLL`] of a pod asks for; others are nobody's word, and the namespace decides.
pub fn parse_enroll(value: &str) -> Result<bool, &'static str> {
    if YES.contains(&value) {
        Ok(true)
    } else if NO.contains(&value) {
        Ok(false)
    } else {
        Err("expected enabled, true, disabled or false")
    }
}

/// `NAME=VALUE`, or `NAME` for whatever value.
impl std::str::FromStr for NamespaceLabel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.into())),
            None => (text, None),
        };
        if name.is_empty() || text.contains([' ', ',']) {
            return Err("expected NAME=VALUE or NAME of a namespace's label".to_owned());
        }
        Ok(Self { name: name.into(), value })
    }
}

/// What is asked of pods and namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selectors {
    /// One of them is enough.
    pub namespaces: Vec<NamespaceLabel>,
    /// Runtime classes whose pods are out of the kernel's reach: their sockets are of a kernel of their own. A `*` at the
    /// end stands for anything.
    pub sandboxed_runtimes: Vec<Arc<str>>,
    /// Those that enforced pods may ask: the ones that the kubelet gives to pods.
    pub name_servers: Vec<IpAddr>,
}

impl Default for Selectors {
    fn default() -> Self {
        let label = |name: &str| NamespaceLabel { name: name.into(), value: Some("enabled".into()) };
        Self {
            namespaces: vec![label(INJECTION), label(ENROLL)],
            sandboxed_runtimes: ["gvisor*", "runsc*", "kata*"].map(Into::into).to_vec(),
            name_servers: Vec::new(),
        }
    }
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    Enroll(Box<Wanted>),
    /// Nobody asked for it.
    LeaveAlone(LeftAlone),
    /// It was asked for, and can't be had.
    OutOfReach(OutOfReach),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftAlone {
    /// Its namespace has none of the labels.
    Namespace,
    OptedOut,
    OwnSidecar,
    /// All its containers have ended for good.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfReach {
    HostNetwork,
    Sandboxed,
}

impl LeftAlone {
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Namespace => "its namespace is not labelled for it",
            Self::OptedOut => "a label or annotation of the pod says no",
            Self::OwnSidecar => "it has a sidecar of its own (istio-proxy)",
            Self::Over => "it has ended",
        }
    }
}

impl OutOfReach {
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::HostNetwork => "hostNetwork: its sockets are the node's own",
            Self::Sandboxed => "its runtime class is a sandbox: its sockets are of another kernel",
        }
    }
}

/// What an enrolled pod gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub redirect: RedirectPolicy,
    pub client: Client,
    /// What its annotations say wrongly.
    pub mistakes: Vec<Mistake>,
}

impl Selectors {
    /// `before` is what the pod got until now: where an annotation can't be read, that goes on.
    pub fn select(&self, pod: &Pod, namespace: Option<&Namespace>, before: Option<&Wanted>) -> Selection {
        if pod.is_over {
            return Selection::LeaveAlone(LeftAlone::Over);
        }
        // Where the namespace enforces the gateway, being left alone would be a way around it.
        let left_alone = self.left_alone(pod, namespace);
        if let Some(left_alone) = left_alone.filter(|_| !namespace.is_some_and(is_fenced)) {
            return Selection::LeaveAlone(left_alone);
        }
        if pod.spec.host_network {
            return Selection::OutOfReach(OutOfReach::HostNetwork);
        }
        if pod.runtime_class_name.as_deref().is_some_and(|name| self.is_sandbox(name)) {
            return Selection::OutOfReach(OutOfReach::Sandboxed);
        }
        Selection::Enroll(Box::new(self.wanted(pod, namespace, before)))
    }

    fn wanted(&self, pod: &Pod, namespace: Option<&Namespace>, before: Option<&Wanted>) -> Wanted {
        let annotations = &pod.meta.annotations;
        let texts = annotations.iter().map(|(name, annotation)| (&**name, &*annotation.value));
        let mut mistakes = Vec::new();
        let mut redirect = RedirectPolicy::from_annotations(texts).unwrap_or_else(|error| {
            mistakes.push(error.into());
            before.map(|before| before.redirect.clone()).unwrap_or_default()
        });
        let policy = match annotations.get(POLICY).map(|annotation| ClientPolicy::parse(&annotation.value)) {
            None => ClientPolicy::default(),
            Some(Ok(policy)) => policy,
            Some(Err(error)) => {
                let policy = before.map_or_else(|| error.instead(), |before| before.client.policy);
                mistakes.push(error.into());
                policy
            }
        };
        let enforced = is_enforced(pod, namespace, before, &mut mistakes);
        if matches!(self.left_alone(pod, namespace), Some(LeftAlone::OptedOut | LeftAlone::OwnSidecar)) {
            mistakes.push(Mistake::NotLeftAlone);
        }
        if enforced {
            let overridden = Annotation::ALL.into_iter().filter(|name| is_overridden(*name, &redirect));
            mistakes.extend(overridden.map(|annotation| Mistake::Overridden(annotation.name())));
        }
        redirect.enforced = enforced.then(|| Enforced::new(self.name_servers.iter().copied()));
        let client = Client {
            labels: pod.meta.labels.clone(),
            policy,
            enforced,
            learned_names: captures_dns(pod, namespace, before, &mut mistakes),
            ..Client::in_namespace(pod.meta.namespace())
        };
        Wanted { redirect, client, mistakes }
    }

    fn left_alone(&self, pod: &Pod, namespace: Option<&Namespace>) -> Option<LeftAlone> {
        if says(pod, ENROLL, &NO) || says(pod, INJECT, &["false"]) {
            return Some(LeftAlone::OptedOut);
        }
        if pod.spec.containers.iter().any(|container| *container.name == *SIDECAR) {
            return Some(LeftAlone::OwnSidecar);
        }
        let labels = namespace.map(|namespace| &namespace.meta.labels);
        let refuses = |label: &str| {
            labels.and_then(|labels| labels.get(label)).is_some_and(|value| **value == *"disabled")
        };
        if refuses(ENROLL) {
            return Some(LeftAlone::Namespace);
        }
        let is_selected =
            labels.is_some_and(|labels| self.namespaces.iter().any(|label| label.is_on(labels)));
        // As Istio: a pod may ask for itself, unless its namespace says no.
        let asks = says(pod, ENROLL, &YES) || (says(pod, INJECT, &["true"]) && !refuses(INJECTION));
        (!is_selected && !asks).then_some(LeftAlone::Namespace)
    }

    fn is_sandbox(&self, runtime_class: &str) -> bool {
        self.sandboxed_runtimes.iter().any(|wanted| match wanted.strip_suffix('*') {
            Some(start) => runtime_class.starts_with(start),
            None => **wanted == *runtime_class,
        })
    }
}

/// Whether the pod's label, or where there is none its annotation, has one of these values.
fn says(pod: &Pod, name: &str, values: &[&str]) -> bool {
    let label = pod.meta.labels.get(name);
    let annotation = || pod.meta.annotations.get(name).map(|annotation| &annotation.value);
    label.or_else(annotation).is_some_and(|value| values.contains(&&**value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Resource, parse};

    fn read(text: &str) -> Resource {
        let parsed = parse(&"test.yaml".into(), text, &"default".into());
        parsed.resources.into_iter().next().unwrap_or_else(|| panic!("nothing in {text}"))
    }

    fn pod(metadata: &str, spec: &str) -> Arc<Pod> {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, uid: u{metadata}}}\n\
             spec: {{containers: [{{name: app}}]{spec}}}\n"
        );
        let Resource::Pod(pod) = read(&text) else { panic!("no pod in {text}") };
        pod
    }

    fn namespace(labels: &str) -> Arc<Namespace> {
        let text =
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n");
        let Resource::Namespace(namespace) = read(&text) else { panic!("no namespace in {text}") };
        namespace
    }

    /// What becomes of a pod, in one word.
    fn verdict(pod: &Pod, labels: &str) -> &'static str {
        match Selectors::default().select(pod, Some(&namespace(labels)), None) {
            Selection::Enroll(_) => "enrolled",
            Selection::LeaveAlone(LeftAlone::Namespace) => "namespace",
            Selection::LeaveAlone(LeftAlone::OptedOut) => "opted out",
            Selection::LeaveAlone(LeftAlone::OwnSidecar) => "sidecar",
            Selection::LeaveAlone(LeftAlone::Over) => "over",
            Selection::OutOfReach(OutOfReach::HostNetwork) => "host network",
            Selection::OutOfReach(OutOfReach::Sandboxed) => "sandboxed",
        }
    }

    #[test]
    fn labels_decide() {
        let istio = "istio-injection: enabled";
        let ours = "egress.interceptor.io/enroll: enabled";
        let no = "sidecar.istio.io/inject: \"false\"";
        let yes = "sidecar.istio.io/inject: \"true\"";
        for (of_namespace, of_pod, expected) in [
            (istio, "", "enrolled"),
            (ours, "", "enrolled"),
            ("", "", "namespace"),
            ("istio-injection: disabled", "", "namespace"),
            ("istio-injection: \"yes\"", "", "namespace"),
            (istio, no, "opted out"),
            (istio, "egress.interceptor.io/enroll: disabled", "opted out"),
            (istio, "egress.interceptor.io/enroll: \"false\"", "opted out"),
            ("", yes, "enrolled"),
            ("", "egress.interceptor.io/enroll: enabled", "enrolled"),
            ("istio-injection: disabled", yes, "namespace"),
            ("istio-injection: disabled", "egress.interceptor.io/enroll: enabled", "enrolled"),
            ("istio-injection: enabled, egress.interceptor.io/enroll: disabled", "", "namespace"),
            ("", no, "opted out"),
        ] {
            let pod = pod(&format!(", labels: {{{of_pod}}}"), "");
            assert_eq!(verdict(&pod, of_namespace), expected, "namespace {of_namespace}, pod {of_pod}");
        }
        for (of_namespace, annotation, expected) in [
            (istio, no, "opted out"),
            (istio, "egress.interceptor.io/enroll: disabled", "opted out"),
            ("", "egress.interceptor.io/enroll: enabled", "enrolled"),
            ("", "egress.interceptor.io/enroll: \"yes\"", "namespace"),
        ] {
            let annotated = pod(&format!(", annotations: {{{annotation}}}"), "");
            assert_eq!(verdict(&annotated, of_namespace), expected, "{annotation}");
        }
        let both = ", labels: {egress.interceptor.io/enroll: enabled}, annotations: {egress.interceptor.io/enroll: disabled}";
        assert_eq!(verdict(&pod(both, ""), ""), "enrolled", "the label goes before the annotation");
    }

    #[test]
    fn what_pods_are_made_of_decides() {
        for (spec, expected) in [
            (", hostNetwork: true", "host network"),
            (", runtimeClassName: gvisor", "sandboxed"),
            (", runtimeClassName: kata-qemu", "sandboxed"),
            (", runtimeClassName: nvidia", "enrolled"),
            (", initContainers: [{name: istio-proxy}]", "sidecar"),
            (", initContainers: [{name: istio-init}]", "enrolled"),
        ] {
            assert_eq!(verdict(&pod("", spec), "istio-injection: enabled"), expected, "{spec}");
        }
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop, uid: u}\nspec: {containers: []}\n\
            status: {phase: Succeeded}\n";
        let Resource::Pod(over) = read(text) else { panic!("no pod") };
        assert_eq!(verdict(&over, "istio-injection: enabled"), "over");
        assert_eq!(
            Selectors::default().select(&pod("", ""), None, None),
            Selection::LeaveAlone(LeftAlone::Namespace),
            "a namespace that nobody knows has no label"
        );
    }

    #[test]
    fn an_annotation_that_cannot_be_read_changes_nothing() {
        let annotated = |value: &str| {
            let name = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
            pod(&format!(", annotations: {{{name}: \"{value}\", {POLICY}: strict}}"), "")
        };
        let enrolled = namespace("istio-injection: enabled");
        let select = |pod: &Pod, before: Option<&Wanted>| match Selectors::default().select(
            pod,
            Some(&enrolled),
            before,
        ) {
            Selection::Enroll(wanted) => *wanted,
            other @ (Selection::LeaveAlone(_) | Selection::OutOfReach(_)) => panic!("{other:?}"),
        };
        let good = select(&annotated("10.0.0.0/8"), None);
        assert!(good.client.policy.strict && good.mistakes.is_empty());
        assert_eq!(good.redirect.exclude_ip_ranges.len(), 1);

        let bad = select(&annotated("10.0.0.0"), Some(&good));
        assert_eq!((&bad.redirect, &bad.client), (&good.redirect, &good.client));
        assert!(bad.mistakes[0].to_string().contains("10.0.0.0/32"), "{:?}", bad.mistakes);

        let never_good = select(&annotated("10.0.0.0"), None);
        assert_eq!(never_good.redirect, RedirectPolicy::default(), "everything is redirected");
        assert_eq!(never_good.mistakes, bad.mistakes);
    }

    #[test]
    fn a_pod_goes_before_its_namespace_in_having_its_dns_captured() {
        let annotated = |value: &str| match value {
            "-" => String::new(),
            value => format!(", annotations: {{egress.interceptor.io/capture-dns: \"{value}\"}}"),
        };
        for (of_namespace, of_pod, expected) in [
            ("-", "-", false),
            ("true", "-", true),
            ("true", "", true),
            ("true", "false", false),
            ("false", "true", true),
            ("-", "true", true),
        ] {
            let text = format!(
                "apiVersion: v1\nkind: Namespace\n\
                 metadata: {{name: shop, labels: {{istio-injection: enabled}}{}}}\n",
                annotated(of_namespace)
            );
            let Resource::Namespace(namespace) = read(&text) else { panic!("no namespace in {text}") };
            let selected = Selectors::default().select(&pod(&annotated(of_pod), ""), Some(&namespace), None);
            let Selection::Enroll(wanted) = selected else { panic!("{selected:?}") };
            assert_eq!(wanted.client.learned_names, expected, "{of_namespace} {of_pod}");
            // What can't be read leaves what was.
            let wrong = pod(&annotated("on"), "");
            let Selection::Enroll(after) =
                Selectors::default().select(&wrong, Some(&namespace), Some(&wanted))
            else {
                panic!("not enrolled any more")
            };
            assert_eq!(after.client.learned_names, expected, "{of_namespace} {of_pod}");
            assert!(after.mistakes[0].to_string().contains("expected true or false"));
        }
    }

    #[test]
    fn selectors_are_read() {
        let label = |text: &str| text.parse::<NamespaceLabel>();
        assert_eq!(label("a=b"), Ok(NamespaceLabel { name: "a".into(), value: Some("b".into()) }));
        assert_eq!(label("istio.io/rev"), Ok(NamespaceLabel { name: "istio.io/rev".into(), value: None }));
        for text in ["", "=b", "a b", "a,b"] {
            assert!(label(text).is_err(), "{text:?}");
        }
    }
}
