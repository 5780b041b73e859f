//! The last identity that came and can be used, as PEM in files that are in memory only. The paths stay; what is behind
//! them is replaced whole.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::DupFlags;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::message::{X509Svid, X509SvidResponse};
use crate::proxy::certificates::hash::base64;
use crate::proxy::certificates::{files, spiffe};
use crate::snapshot::{ClientIdentity, Svid};

/// As RFC 7468 has it.
const LINE: usize = 64;

pub(super) struct Kept {
    svid: Svid,
    /// The certificate with its chain, and the key behind it: both are of one moment.
    identity: OwnedFd,
    ca: OwnedFd,
}

impl Kept {
    pub(super) fn new(socket: &Path) -> io::Result<Self> {
        let (identity, ca) = (in_memory(&[])?, in_memory(&[])?);
        let pair = ClientIdentity { certificate: path(&identity), private_key: path(&identity) };
        Ok(Self { svid: Svid { socket: socket.to_owned(), pair, ca: path(&ca) }, identity, ca })
    }

    /// Where what is kept is read.
    pub(super) fn svid(&self) -> &Svid {
        &self.svid
    }

    /// Keeps the answer's first identity, and tells which it is.
    ///
    /// # Errors
    /// Why it can't be used.
    pub(super) fn keep(&mut self, response: &X509SvidResponse) -> Result<Arc<str>, String> {
        let svid = response.svids.first().ok_or("there is none in the answer")?;
        let (chain, authorities) = usable(svid)?;
        let key = pem("PRIVATE KEY", &svid.x509_svid_key);
        let ca = replace(&mut self.ca, authorities.concat().as_bytes());
        ca.and_then(|()| replace(&mut self.identity, (chain.concat() + &key).as_bytes()))
            .map_err(|error| format!("it can't be kept in memory: {error}"))?;
        Ok(svid.spiffe_id.as_str().into())
    }
}

/// The certificates of its chain, and those of its authorities.
fn usable(svid: &X509Svid) -> Result<(Vec<String>, Vec<String>), String> {
    let chain = certificates(&svid.x509_svid).ok_or("its certificates can't be read")?;
    let authorities = certificates(&svid.bundle).ok_or("its bundle can't be read")?;
    let own = chain.first().ok_or("it has no certificate")?;
    let identity = spiffe::identity(own)?;
    if identity.as_str() != svid.spiffe_id {
        return Err(format!("it is called {}, and its certificate is of {identity}", svid.spiffe_id));
    }
    let key = PrivatePkcs8KeyDer::from(svid.x509_svid_key.clone());
    CertifiedKey::from_der(chain.clone(), key.into(), &files::provider())
        .map_err(|error| format!("its key can't be used: {error}"))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(authorities.iter().cloned());
    if added == 0 {
        return Err("its bundle has no certificate that can be used".into());
    }
    let text = |list: &[CertificateDer<'_>]| list.iter().map(|der| pem("CERTIFICATE", der)).collect();
    Ok((text(&chain), text(&authorities)))
}

/// DER, one behind the other.
fn certificates(mut der: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let [0x30, first, rest @ ..] = der else { return None };
        let count = match first {
            0..0x80 => 0,
            long => usize::from(long - 0x80),
        };
        let length = match count {
            0 => usize::from(*first),
            1..=3 => rest.get(..count)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            _ => return None,
        };
        let (certificate, behind) = der.split_at_checked(2 + count + length)?;
        found.push(CertificateDer::from(certificate.to_vec()));
        der = behind;
    }
    Some(found)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let lines = text.as_bytes().chunks(LINE).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
}

fn in_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create("svid", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Whoever has the old one open reads it to its end.
fn replace(kept: &mut OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let fresh = in_memory(bytes)?;
    Ok(rustix::io::dup3(&fresh, kept, DupFlags::CLOEXEC)?)
}

/// Only our own process and those that may trace it can open it.
fn path(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::super::message::{X509Svid, X509SvidResponse};
    use super::{Kept, certificates};
    use crate::proxy::certificates::files;
    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    fn svid() -> X509Svid {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(CART.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der = certificate.der().to_vec();
        X509Svid {
            spiffe_id: CART.into(),
            x509_svid: [der.clone(), der.clone()].concat(),
            x509_svid_key: key.serialize_der(),
            bundle: der,
        }
    }

    #[test]
    fn what_came_last_is_read_from_memory() {
        let mut kept = Kept::new(Path::new("/run/agent.sock")).unwrap();
        let paths = kept.svid().clone();
        for _ in 0..2 {
            let svid = svid();
            kept.keep(&X509SvidResponse { svids: vec![svid.clone()] }).unwrap();
            let read = files::certified_key(&paths.pair, "certificate").unwrap();
            assert_eq!([&*read.cert[0], &*read.cert[1]].concat(), svid.x509_svid);
            assert_eq!(files::roots_of_file(&paths.ca).unwrap().len(), 1);
        }
    }

    #[test]
    fn what_cant_be_used_leaves_the_one_before() {
        let mut kept = Kept::new(Path::new("/run/agent.sock")).unwrap();
        let paths = kept.svid().clone();
        let good = svid();
        kept.keep(&X509SvidResponse { svids: vec![good.clone()] }).unwrap();
        let cut = |bytes: &[u8]| bytes[..bytes.len() - 1].to_vec();
        let bad: [(&str, Vec<X509Svid>); 6] = [
            ("there is none", vec![]),
            ("certificates can't be read", vec![X509Svid { x509_svid: cut(&good.x509_svid), ..svid() }]),
            ("no certificate", vec![X509Svid { x509_svid: vec![], ..svid() }]),
            ("key can't be used", vec![X509Svid { x509_svid_key: svid().x509_svid_key, ..good.clone() }]),
            ("bundle has no certificate", vec![X509Svid { bundle: vec![], ..svid() }]),
            ("certificate is of", vec![X509Svid { spiffe_id: "spiffe://td/other".into(), ..svid() }]),
        ];
        for (words, svids) in bad {
            let reason = kept.keep(&X509SvidResponse { svids }).unwrap_err();
            assert!(reason.contains(words), "{reason}");
            let read = files::certified_key(&paths.pair, "certificate").unwrap();
            assert_eq!([&*read.cert[0], &*read.cert[1]].concat(), good.x509_svid, "{words}");
        }
    }

    #[test]
    fn what_is_cut_off_is_no_list_of_certificates() {
        let whole = svid().x509_svid;
        assert_eq!(certificates(&whole).unwrap().len(), 2);
        for length in (1..whole.len()).filter(|length| *length != whole.len() / 2) {
            assert!(certificates(&whole[..length]).is_none(), "{length}");
        }
    }
}
