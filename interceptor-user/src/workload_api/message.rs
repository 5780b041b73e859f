//! What the Workload API says (spiffe/spiffe `standards/workloadapi.proto`), as far as it is used.

/// FetchX509SVID's answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct X509SvidResponse {
    /// The first is the one to use where nothing else is said.
    #[prost(message, repeated, tag = "1")]
    pub(super) svids: Vec<X509Svid>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct X509Svid {
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    /// DER, one behind the other; ours first.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) x509_svid: Vec<u8>,
    /// PKCS #8 in DER.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) x509_svid_key: Vec<u8>,
    /// The authorities of the same trust domain: DER, one behind the other.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) bundle: Vec<u8>,
}
