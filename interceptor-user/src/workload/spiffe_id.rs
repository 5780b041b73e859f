//! Who a workload of the mesh is by its certificate: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, as Istio
//! names them.

use std::fmt;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID §2.1.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
/// SPIFFE-ID §2.3.
const BYTES_MAX: usize = 2048;

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
        // Neither user, port, query nor fragment: SPIFFE-ID §2.1 and §2.2. Istio's paths have more characters than those.
        let is_trust_domain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        let is_path = |c: char| c.is_ascii_graphic() && !"?#%".contains(c);
        let is_valid = !trust_domain.is_empty()
            && trust_domain.len() <= TRUST_DOMAIN_BYTES_MAX
            && uri.len() <= BYTES_MAX
            && trust_domain.chars().all(is_trust_domain)
            && path.chars().all(is_path);
        let parts: Vec<&str> = path.split('/').collect();
        if !is_valid || parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return None;
        }
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
            ("spiffe://td/ns/shop/sa/cart_v1.2", Some(("td", Some("shop"), Some("cart_v1.2")))),
            ("spiffe://td/ns//sa/cart", None),
            ("spiffe://td/ns/shop/sa/cart/", None),
            ("spiffe://td/../x", None),
            ("spiffe://me@td/ns/a/sa/b", None),
            ("spiffe://td:99/ns/a/sa/b", None),
            ("spiffe://TD/ns/a/sa/b", None),
            ("spiffe://td/ns/a/sa/b?x=y", None),
            ("spiffe://td/ns/a/sa/b#z", None),
            ("spiffe://td/ns/a/sa/%62", None),
            ("spiffe://td?x/ns/a/sa/b", None),
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
