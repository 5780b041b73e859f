//! `egress.interceptor.io/allow-from` of a ServiceEntry: which workloads reach its hosts through an egress gateway. Pure: a
//! text comes in, a value or one clear sentence comes out.

use std::sync::Arc;

use super::words::shortened;

/// The annotation's key.
pub const ALLOW_FROM: &str = "egress.interceptor.io/allow-from";

/// Who is let through: one of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AllowFrom(Vec<Allowed>);

/// The service accounts of a namespace, or one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Allowed {
    namespace: Arc<str>,
    service_account: Option<Arc<str>>,
}

impl AllowFrom {
    /// A list such as `ns/shop, ns/bar/sa/baz`.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(|item| Allowed::parse(item.trim())).collect::<Result<_, _>>().map(Self)
    }

    /// Where nobody can tell who may.
    pub fn nobody() -> Self {
        Self(Vec::new())
    }

    /// Whether a workload is let through; `None` is one that nothing is known of.
    pub fn allows(&self, workload: Option<(&str, &str)>) -> bool {
        let Some((namespace, service_account)) = workload else { return false };
        self.0.iter().any(|allowed| {
            *allowed.namespace == *namespace
                && allowed.service_account.as_ref().is_none_or(|account| **account == *service_account)
        })
    }
}

impl Allowed {
    fn parse(item: &str) -> Result<Self, String> {
        let (namespace, service_account) = match item.split('/').collect::<Vec<_>>()[..] {
            ["ns", namespace] => (namespace, None),
            ["ns", namespace, "sa", account] if is_name(account) => (namespace, Some(account.into())),
            _ => ("", None),
        };
        if is_name(namespace) {
            return Ok(Self { namespace: namespace.into(), service_account });
        }
        Err(format!(
            "{:?} is not who may use these hosts: expected ns/NAMESPACE or ns/NAMESPACE/sa/SERVICE-ACCOUNT, several with \
             commas between them",
            shortened(item)
        ))
    }
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
    use super::AllowFrom;

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
            assert_eq!(rule.allows(workload), expected, "{workload:?}");
        }
    }

    #[test]
    fn whatever_else_is_a_mistake() {
        for text in
            ["", "*", "shop", "ns/", "ns/*", "ns/a,", "ns/a/sa/", "ns/a/b", "ns/A", "ns/a/sa/b/c", "ns/a b"]
        {
            let error = AllowFrom::parse(text).unwrap_err();
            assert!(error.contains("expected ns/NAMESPACE"), "{text}: {error}");
        }
    }
}
