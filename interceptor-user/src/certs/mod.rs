//! A certification authority and certificates of it, for tests and small set-ups: what cert-manager or SPIRE does in a
//! cluster. Files are written with names under which `--identity-dir` and `--credentials-dir` find them.

mod authority;
mod files;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::workload::SpiffeId;
use anyhow::{Context, ensure};
use authority::Authority;
use files::{File, Kind};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

/// What clocks may differ by.
const BACKDATED: Duration = Duration::from_secs(300);

/// Where files go, and whether those that are there are replaced.
#[derive(Clone, Debug)]
pub struct Target {
    pub directory: PathBuf,
    pub force: bool,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A workload: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    Spiffe(SpiffeId),
    /// A server: DNS names and addresses, never none.
    Names(Vec<String>),
}

/// Makes an authority, and tells which files it is in.
///
/// # Errors
/// What could not be written, or is there already.
pub fn make_authority(target: &Target, name: &str, ttl: Duration) -> anyhow::Result<Vec<PathBuf>> {
    let mut params = valid_for(CertificateParams::default(), ttl)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().context("can't make a key")?;
    let certificate = params.self_signed(&key).context("can't make the authority's certificate")?;
    let files = [
        File { name: authority::CERTIFICATE, text: certificate.pem(), kind: Kind::Public },
        File { name: authority::KEY, text: key.serialize_pem(), kind: Kind::Private },
    ];
    files::write(target, &files)
}

/// Makes a certificate by the authority in `authority`, and tells which files it is in.
///
/// # Errors
/// What could not be read or written, or is there already; that the authority's own certificate ends sooner.
pub fn issue(
    authority: &Path,
    subject: &Subject,
    target: &Target,
    ttl: Duration,
) -> anyhow::Result<Vec<PathBuf>> {
    let authority = Authority::read(authority)?;
    authority.outlives(ttl)?;
    let mut params = match subject {
        Subject::Spiffe(identity) => {
            let mut params = CertificateParams::default();
            let uri = identity.as_str().try_into().context("the identity is no URI")?;
            params.subject_alt_names = vec![SanType::URI(uri)];
            params
        }
        Subject::Names(names) => CertificateParams::new(names.clone())
            .with_context(|| format!("not a DNS name: {}", names.join(", ")))?,
    };
    // What it is for are its names.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().context("can't make a key")?;
    let certificate = authority.sign(&valid_for(params, ttl)?, &key)?;
    let [of_certificate, of_key, of_root] = match subject {
        Subject::Spiffe(_) => ["cert-chain.pem", "key.pem", "root-cert.pem"],
        Subject::Names(_) => ["tls.crt", "tls.key", "ca.crt"],
    };
    let files = [
        File { name: of_root, text: authority.root, kind: Kind::Public },
        File { name: of_key, text: key.serialize_pem(), kind: Kind::Private },
        File { name: of_certificate, text: certificate.pem(), kind: Kind::Public },
    ];
    files::write(target, &files)
}

/// From a little before now on.
fn valid_for(mut params: CertificateParams, ttl: Duration) -> anyhow::Result<CertificateParams> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let at = |since_epoch: Duration| date_time_ymd(1970, 1, 1) + since_epoch;
    // Two thousand years are beyond what dates can be.
    ensure!(
        ttl <= Duration::from_secs(200 * 365 * 86400),
        "a certificate can't live for more than 200 years"
    );
    params.not_before = at(now.saturating_sub(BACKDATED));
    params.not_after = at(now + ttl);
    Ok(params)
}
