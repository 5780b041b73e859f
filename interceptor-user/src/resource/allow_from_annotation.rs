//! `egress.interceptor.io/allow-from` of a ServiceEntry: which workloads reach its hosts through an egress gateway. Pure: a
//! text comes in, a value or one clear sentence comes out.

use std::sync::Arc;

use super::meta::{self, Labels};
use super::words::shortened;

/// The annotation's key.
pub const ALLOW_FROM: &str = "egress.interceptor.io/allow-from";

/// Who is let through: one of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AllowFrom(Vec<Allowed>);

/// The service accounts of a namespace, or one of them; with labels only their pods that have those.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Allowed {
    namespace: Arc<str>,
    service_account: Option<Arc<str>>,
    /// Empty: any.
    labels: Labels,
}

const EXPECTED: &str = "expected ns/NAMESPACE or ns/NAMESPACE/sa/SERVICE-ACCOUNT, either with {LABEL=VALUE,…} after it where \
    its pods need labels; several with commas between them";

impl AllowFrom {
    /// A list such as `ns/shop, ns/bar/sa/baz, ns/bar{app=curl,tier=web}`.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        items(text).map(|item| Allowed::parse(item.trim())).collect::<Result<_, _>>().map(Self)
    }

    /// Where nobody can tell who may.
    pub fn nobody() -> Self {
        Self(Vec::new())
    }

    /// Whether a workload is let through; `None` is one that nothing is known of. `has_labels`: whether it is known to be a pod
    /// with these.
    pub fn allows(&self, workload: Option<(&str, &str)>, has_labels: impl Fn(&Labels) -> bool) -> bool {
        let Some((namespace, service_account)) = workload else { return false };
        self.0.iter().any(|allowed| {
            *allowed.namespace == *namespace
                && allowed.service_account.as_ref().is_none_or(|account| **account == *service_account)
                && (allowed.labels.is_empty() || has_labels(&allowed.labels))
        })
    }
}

/// What stands between commas, but for those within braces.
fn items(text: &str) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    text.split(move |character| {
        match character {
            '{' => is_inside = true,
            '}' => is_inside = false,
            _ => {}
        }
        character == ',' && !is_inside
    })
}

impl Allowed {
    fn parse(item: &str) -> Result<Self, String> {
        let (who, labels) = match item.split_once('{') {
            Some((who, rest)) => (who, labels(rest).map_err(|why| format!("{:?}: {why}", shortened(item)))?),
            None => (item, Labels::new()),
        };
        let (namespace, service_account) = match who.split('/').collect::<Vec<_>>()[..] {
            ["ns", namespace] => (namespace, None),
            ["ns", namespace, "sa", account] if is_name(account) => (namespace, Some(account.into())),
            _ => ("", None),
        };
        if is_name(namespace) {
            return Ok(Self { namespace: namespace.into(), service_account, labels });
        }
        Err(format!("{:?} is not who may use these hosts: {EXPECTED}", shortened(item)))
    }
}

/// `LABEL=VALUE,…}`.
fn labels(text: &str) -> Result<Labels, String> {
    let Some(inside) = text.strip_suffix('}').filter(|inside| !inside.contains(['{', '}'])) else {
        return Err(format!("labels stand between one {{ and the }} at its end: {EXPECTED}"));
    };
    let mut labels = Labels::new();
    for pair in inside.split(',').map(str::trim) {
        let label = pair.split_once('=').filter(|(name, value)| meta::is_label(name, value));
        let Some((name, value)) = label else {
            return Err(format!("{:?} is no label: {EXPECTED}", shortened(pair)));
        };
        if labels.insert(name.into(), value.into()).is_some() {
            return Err(format!("{name} is there twice, and a pod has one value of it: {EXPECTED}"));
        }
    }
    Ok(labels)
}

/// As Kubernetes has names.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::{AllowFrom, Labels};

    #[test]
    fn a_namespace_or_one_of_its_service_accounts() {
        let rule = AllowFrom::parse("ns/shop, ns/bar/sa/baz").unwrap();
        for (workload, expected) in [
            (Some(("shop", "cart")), true),
            (Some(("shop", "")), true),
            (Some(("bar", "baz")), true),
            (Some(("bar", "other")), false),
            (Some(("bar", "")), false),
            (Some(("shop2", "cart")), false),
            (Some(("", "")), false),
            (None, false),
        ] {
            assert_eq!(rule.allows(workload, |_| panic!("nobody wants labels")), expected, "{workload:?}");
        }
    }

    #[test]
    fn labels_count_beside_the_workload_and_never_alone() {
        let rule = AllowFrom::parse("ns/a/sa/b{app=curl, example.com/tier=},ns/c{app=wget}, ns/d").unwrap();
        for (workload, pod, expected) in [
            (Some(("a", "b")), Some("app=curl example.com/tier= more=x"), true),
            (Some(("a", "b")), Some("app=curl example.com/tier=x"), false),
            (Some(("a", "b")), Some("app=curl"), false),
            (Some(("a", "b")), None, false),
            (Some(("a", "other")), Some("app=curl example.com/tier="), false),
            (Some(("c", "any")), Some("app=wget"), true),
            (Some(("c", "any")), Some("app=curl example.com/tier="), false),
            (Some(("d", "any")), None, true),
            (None, Some("app=wget"), false),
        ] {
            let has = |wanted: &Labels| {
                let pairs = wanted.iter().map(|(name, value)| format!("{name}={value}"));
                pod.is_some_and(|pod| pairs.into_iter().all(|pair| pod.split(' ').any(|own| own == pair)))
            };
            assert_eq!(rule.allows(workload, has), expected, "{workload:?} {pod:?}");
        }
    }

    #[test]
    fn whatever_else_is_a_mistake() {
        for text in [
            "",
            "*",
            "shop",
            "ns/",
            "ns/*",
            "ns/a,",
            "ns/a/sa/",
            "ns/a/b",
            "ns/A",
            "ns/a/sa/b/c",
            "ns/a b",
            "ns/a{",
            "ns/a{}",
            "ns/a{app}",
            "ns/a{app=x",
            "ns/a{app=x,}",
            "ns/a{app=x}b",
            "ns/a{app=x}{b=y}",
            "{app=x}",
            "ns/a{=x}",
            "ns/a{app=x y}",
            "ns/a{app=x=y}",
            "ns/a{/app=x}",
            "ns/a{app=x,app=x}",
            "ns/a{app!=x}",
            "ns/a}",
        ] {
            let error = AllowFrom::parse(text).unwrap_err();
            assert!(error.contains("expected ns/NAMESPACE"), "{text}: {error}");
        }
    }
}
