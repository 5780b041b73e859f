//! An authority read back from its files, to sign with. What it signs bears the authority's name to the byte: its parts are
//! taken over as they are in its certificate, and each certificate is verified before it is given out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rcgen::{Certificate, CertificateParams, DistinguishedName, DnType, DnValue, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::proxy::certificates::distinguished_name::{Attribute, attributes};
use crate::proxy::certificates::spiffe::{at, not_after};

/// Of the authority's directory.
pub(super) const CERTIFICATE: &str = "ca.crt";
pub(super) const KEY: &str = "ca.key";

pub(super) struct Authority {
    /// In PEM form.
    pub(super) root: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    pub(super) fn read(directory: &Path) -> anyhow::Result<Self> {
        let (file, key_file) = (directory.join(CERTIFICATE), directory.join(KEY));
        let read = |file: &Path| {
            let made_by = "make one with `interceptor certs ca --out DIR`";
            let text = fs::read_to_string(file);
            text.with_context(|| format!("can't read {} of the authority ({made_by})", file.display()))
        };
        let (root, key) = (read(&file)?, read(&key_file)?);
        let key =
            KeyPair::from_pem(&key).with_context(|| format!("{}: not a private key", key_file.display()))?;
        let certificate = CertificateDer::from_pem_slice(root.as_bytes())
            .with_context(|| format!("{}: no certificate in PEM form there", file.display()))?;
        let parsed = EndEntityCert::try_from(&certificate)
            .with_context(|| format!("{}: not a certificate", file.display()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(parsed.subject())
            .with_context(|| format!("{}: its name can't be taken over", file.display()))?;
        drop(parsed);
        Ok(Self { root, certificate, issuer: Issuer::new(params, key), file })
    }

    /// Fails when the authority's own certificate does not live as long.
    pub(super) fn outlives(&self, ttl: std::time::Duration) -> anyhow::Result<()> {
        let file = self.file.display();
        let end = not_after(&self.certificate).with_context(|| format!("{file}: its dates can't be read"))?;
        let left = end.as_secs().saturating_sub(UnixTime::now().as_secs());
        if left == 0 {
            bail!("{file}: the authority has expired at {}", at(end));
        }
        ensure!(
            ttl.as_secs() <= left,
            "{file}: the authority's certificate ends at {}, before the new one would: give a shorter --ttl",
            at(end)
        );
        Ok(())
    }

    pub(super) fn sign(&self, params: &CertificateParams, key: &KeyPair) -> anyhow::Result<Certificate> {
        let signed =
            params.signed_by(key, &self.issuer).context("the authority can't sign the certificate")?;
        let anchor = anchor_from_trusted_cert(&self.certificate)
            .with_context(|| format!("{}: not the certificate of an authority", self.file.display()))?;
        let algorithms = ring::default_provider().signature_verification_algorithms;
        let parsed = EndEntityCert::try_from(signed.der()).context("the certificate can't be read back")?;
        parsed
            .verify_for_usage(
                algorithms.all,
                &[anchor],
                &[],
                UnixTime::now(),
                KeyUsage::client_auth(),
                None,
                None,
            )
            .with_context(|| {
                format!("{}: what its key signs is not signed by it (is {KEY} its own?)", self.file.display())
            })?;
        Ok(signed)
    }
}

/// A Name as it is in a certificate.
fn name(der: &[u8]) -> anyhow::Result<DistinguishedName> {
    /// UTF8String, PrintableString, IA5String.
    const UTF8: u8 = 12;
    const PRINTABLE: u8 = 19;
    const IA5: u8 = 22;
    let mut name = DistinguishedName::new();
    for Attribute { kind, tag, value } in attributes(der) {
        let text = std::str::from_utf8(value).context("it holds other than text")?;
        let value = match tag {
            UTF8 => DnValue::Utf8String(text.into()),
            PRINTABLE => DnValue::PrintableString(text.try_into()?),
            IA5 => DnValue::Ia5String(text.try_into()?),
            _ => bail!("it holds other than text"),
        };
        name.push(DnType::from_oid(&components(kind)), value);
    }
    Ok(name)
}

/// The numbers of an object identifier in DER.
fn components(der: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for byte in der {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.extend([first, number - first * 40]);
            } else {
                numbers.push(number);
            }
            number = 0;
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::components;

    #[test]
    fn object_identifiers_are_read() {
        assert_eq!(components(&[0x55, 4, 3]), [2, 5, 4, 3]);
        assert_eq!(components(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]), [1, 2, 840, 113_549, 1, 9, 1]);
    }
}
