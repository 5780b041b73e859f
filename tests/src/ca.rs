//! A certificate authority that is thrown away, and what it signs: right, expired, for another name, for clients.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

use crate::Dir;

/// A certificate with its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    dir: Dir,
}

impl Ca {
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).context("cannot sign the root")?;
        let dir = Dir::new()?;
        dir.write("root.pem", certificate.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), dir })
    }

    /// The root, for `SSL_CERT_FILE`, `caCertificates` and `curl --cacert`.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.pem")
    }

    /// A server certificate for these names.
    pub fn server(&self, file: &str, names: &[&str]) -> anyhow::Result<Identity> {
        let mut params = params(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, params)
    }

    /// A server certificate that ended in 2020.
    pub fn expired(&self, file: &str, names: &[&str]) -> anyhow::Result<Identity> {
        let mut params = params(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(file, params)
    }

    /// A client certificate with this common name.
    pub fn client(&self, name: &str) -> anyhow::Result<Identity> {
        let mut params = params(&[])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, params)
    }

    /// One with this serial number, which [`Self::revoke`] takes.
    pub fn numbered_client(&self, name: &str, serial: u64) -> anyhow::Result<Identity> {
        let mut params = params(&[])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        self.sign(name, params)
    }

    /// A list of revoked certificates with this one in it.
    pub fn revoke(&self, file: &str, serial: u64) -> anyhow::Result<PathBuf> {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2039, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.dir.write(file, params.signed_by(&self.issuer).context("cannot sign a list")?.pem()?)
    }

    /// An identity of the mesh, for both ends: a certificate for `spiffe://…`.
    pub fn mesh_identity(&self, file: &str, uri: &str) -> anyhow::Result<Identity> {
        self.sign(file, identity(uri)?)
    }

    /// One that ended in 2020.
    pub fn expired_mesh_identity(&self, file: &str, uri: &str) -> anyhow::Result<Identity> {
        let mut params = identity(uri)?;
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(file, params)
    }

    /// One that ends so soon.
    pub fn mesh_identity_for(&self, file: &str, uri: &str, left: Duration) -> anyhow::Result<Identity> {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let mut params = identity(uri)?;
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch + left;
        self.sign(file, params)
    }

    fn sign(&self, file: &str, params: CertificateParams) -> anyhow::Result<Identity> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign a certificate")?;
        Ok(Identity {
            certificate: self.dir.write(&format!("{file}.pem"), certificate.pem())?,
            key: self.dir.write(&format!("{file}.key"), key.serialize_pem())?,
        })
    }
}

fn identity(uri: &str) -> anyhow::Result<CertificateParams> {
    let mut params = params(&[])?;
    params.subject_alt_names = vec![SanType::URI(uri.try_into().context("not a URI")?)];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn params(names: &[&str]) -> anyhow::Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).context("not a DNS name")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    Ok(params)
}
