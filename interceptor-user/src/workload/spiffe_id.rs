//! Who a workload of the mesh is by its certificate: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, as Istio
//! names them.

use std::fmt;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";

/// A SPIFFE identity (SPIFFE-ID §2), with what Istio's path says where it has Istio's form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: Arc<str>,
    account: Option<(Arc<str>, Arc<str>)>,
}

impl SpiffeId {
    /// `None` when it is none.
    pub fn parse(uri: &str) -> Option<Self> {
        let (trust_domain, path) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        if trust_domain.is_empty() || path.is_empty() {
            return None;
        }
        let parts: Vec<&str> = path.split('/').collect();
        let account = match parts[..] {
            ["ns", namespace, "sa", account] if !namespace.is_empty() && !account.is_empty() => {
                Some((namespace.into(), account.into()))
            }
            _ => None,
        };
        Some(Self { uri: uri.into(), trust_domain: trust_domain.into(), account })
    }

    pub fn trust_domain(&self) -> &Arc<str> {
        &self.trust_domain
    }

    pub fn namespace(&self) -> Option<&str> {
        self.account.as_ref().map(|(namespace, _)| &**namespace)
    }

    pub fn service_account(&self) -> Option<&str> {
        self.account.as_ref().map(|(_, account)| &**account)
    }

    pub fn as_str(&self) -> &str {
        &self.uri
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::SpiffeId;

    #[test]
    fn istios_form_has_a_namespace_and_a_service_account() {
        for (uri, expected) in [
            ("spiffe://cluster.local/ns/shop/sa/cart", Some(("cluster.local", Some("shop"), Some("cart")))),
            ("spiffe://td/workload", Some(("td", None, None))),
            ("spiffe://td/ns/shop/sa/cart/x", Some(("td", None, None))),
            ("spiffe://td/ns//sa/cart", Some(("td", None, None))),
            ("spiffe://td/", None),
            ("spiffe:///ns/a/sa/b", None),
            ("https://td/ns/a/sa/b", None),
        ] {
            let id = SpiffeId::parse(uri);
            let parts = id.as_ref().map(|id| (&**id.trust_domain(), id.namespace(), id.service_account()));
            assert_eq!(parts, expected, "{uri}");
        }
    }
}
