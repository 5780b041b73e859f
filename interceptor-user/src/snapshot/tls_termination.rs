//! TLS that ends here: what a gateway shows its clients, whom it lets in, and what happens to what was inside.

use std::path::PathBuf;
use std::sync::Arc;

use super::cluster::{ClientIdentity, Credential};
use super::listener::TcpRoute;
use super::route::RouteTable;
pub use crate::resource::server_tls::{CipherSuite, TlsVersion};

/// A chain of a listener that ends TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminated {
    pub tls: Arc<TlsTermination>,
    pub then: Then,
}

/// Where what was inside TLS goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Its requests are routed one by one.
    Http(Arc<RouteTable>),
    /// It is carried as it is.
    Tcp(Arc<TcpRoute>),
}

/// Gateway tls.mode, as far as it ends TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsTerminationMode {
    /// Clients show no certificate, and none is asked for.
    Simple,
    Mutual,
    /// A client's certificate is asked for, and verified where one is shown.
    OptionalMutual,
    /// With an identity of the mesh (SPIFFE) at both ends.
    IstioMutual,
}

impl TlsTerminationMode {
    /// As Gateways have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::OptionalMutual => "OPTIONAL_MUTUAL",
            Self::IstioMutual => "ISTIO_MUTUAL",
        }
    }

    /// Whether a client without a certificate is refused.
    pub fn requires_certificate(self) -> bool {
        match self {
            Self::Mutual | Self::IstioMutual => true,
            Self::Simple | Self::OptionalMutual => false,
        }
    }
}

/// Where a certificate with its key is from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    /// PEM files.
    Files(ClientIdentity),
    /// Files that are found by their names.
    Credential(Credential),
}

/// Where the certificates are that a client's must be signed by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientCaSource {
    /// A PEM file.
    File(PathBuf),
    /// Those of a credential, with its list of revoked ones if it has one.
    Credential(Credential),
}

/// How TLS is ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsTermination {
    pub mode: TlsTerminationMode,
    /// Never empty unless `impossible`; the first that fits what the client can verify is shown.
    pub certificates: Vec<CertificateSource>,
    /// `None` with SIMPLE.
    pub client_ca: Option<ClientCaSource>,
    /// A PEM file of revoked certificates; every certificate of a client's chain must be covered by it.
    pub ca_crl: Option<PathBuf>,
    /// A client's certificate must have one of these names; empty: any. With ISTIO_MUTUAL it must be an identity of
    /// our own trust domain or one of `trust_domain_aliases` besides.
    pub subject_alt_names: Vec<Arc<str>>,
    /// SHA-256 of a client's certificate (64 hex digits) or of its public key (base64): one of either kind; empty: any.
    pub certificate_hashes: Vec<Arc<str>>,
    pub public_key_hashes: Vec<Arc<str>>,
    /// MeshConfig.trustDomainAliases.
    pub trust_domain_aliases: Vec<Arc<str>>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// `None`: all of them. With an empty list TLS 1.2 can't be spoken.
    pub cipher_suites: Option<Vec<CipherSuite>>,
    /// Offered protocols, the preferred first. A client that offers none of them is served all the same, as with Envoy.
    pub alpn: &'static [&'static str],
    /// Set when TLS can't be ended as asked: each handshake fails with this reason. Never plaintext.
    pub impossible: Option<Arc<str>>,
}

impl TlsTermination {
    /// What is offered before HTTP (Istio's ALPNHttp).
    pub const ALPN_HTTP: &'static [&'static str] = &["h2", "http/1.1"];

    /// With a certificate for whoever comes, and HTTP inside.
    pub fn simple(certificate: CertificateSource) -> Self {
        Self {
            mode: TlsTerminationMode::Simple,
            certificates: vec![certificate],
            client_ca: None,
            ca_crl: None,
            subject_alt_names: Vec::new(),
            certificate_hashes: Vec::new(),
            public_key_hashes: Vec::new(),
            trust_domain_aliases: Vec::new(),
            min_version: TlsVersion::Tls12,
            max_version: TlsVersion::Tls13,
            cipher_suites: None,
            alpn: Self::ALPN_HTTP,
            impossible: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{CertificateSource, Terminated, Then, TlsTermination};
    use crate::snapshot::decision::decide;
    use crate::snapshot::{
        ClientIdentity, ClusterName, ClusterRef, Decision, FirstBytes, Listener, OutboundTrafficPolicy,
        TcpRoute,
    };

    fn route(name: &str) -> Arc<TcpRoute> {
        Arc::new(TcpRoute::to(ClusterRef { name: ClusterName(name.into()), cluster: None }))
    }

    #[test]
    fn the_more_specific_server_name_decides_whether_tls_ends() {
        let files = ClientIdentity { certificate: "/c".into(), private_key: "/k".into() };
        let tls = Arc::new(TlsTermination::simple(CertificateSource::Files(files)));
        let ends = |name: &str| Arc::new(Terminated { tls: Arc::clone(&tls), then: Then::Tcp(route(name)) });
        let mut listener = Listener::new("0.0.0.0_443".into(), OutboundTrafficPolicy::RegistryOnly);
        listener.terminated.insert("*.ends.example", ends("ends"));
        listener.terminated.insert("one.passes.example", ends("one"));
        listener.tls.insert("*.passes.example", route("passes"));
        listener.tls.insert("deep.ends.example", route("deep"));
        let asked = |listener: &Listener, sni| {
            let address: std::net::IpAddr = [192, 0, 2, 1].into();
            let route = match decide(listener, address, FirstBytes::Tls { sni }) {
                Decision::Terminate(chain) => match &chain.then {
                    Then::Tcp(route) => Arc::clone(route),
                    Then::Http(_) => return "http".to_owned(),
                },
                Decision::Route(route) => Arc::clone(route),
                Decision::Refuse => return "close".to_owned(),
                Decision::Http(..) | Decision::Passthrough | Decision::NoFilterChain => {
                    return "other".to_owned();
                }
            };
            route.clusters[0].cluster.name.to_string()
        };
        for (sni, expected) in [
            (Some("a.ends.example"), "ends"),
            (Some("deep.ends.example"), "deep"),
            (Some("a.passes.example"), "passes"),
            (Some("ONE.passes.example"), "one"),
            (Some("ends.example"), "close"),
            (Some("*"), "close"),
            (None, "close"),
        ] {
            assert_eq!(asked(&listener, sni), expected, "{sni:?}");
        }
        listener.terminated.insert("*", ends("any"));
        for (sni, expected) in [(None, "any"), (Some("x"), "any"), (Some("a.passes.example"), "passes")] {
            assert_eq!(asked(&listener, sni), expected, "{sni:?}");
        }
        assert!(listener.depends_on_bytes());
    }
}
