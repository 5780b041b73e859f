//! What originates TLS with the files of its credential in the credential's place.

use crate::proxy::certificates::credential::{ca, identity};
use crate::snapshot::{CaSource, Credential, TlsOrigination, TlsOriginationMode};

/// The same with the files that are there; `None` without a credential.
pub(super) fn found(origination: &TlsOrigination) -> Result<Option<TlsOrigination>, String> {
    let Some(credential) = &origination.credential else { return Ok(None) };
    let mut found = TlsOrigination { credential: None, ..origination.clone() };
    let (shows_identity, verifies) = match credential {
        Credential::Secret { .. } => {
            (origination.mode != TlsOriginationMode::Simple, origination.ca != CaSource::Unverified)
        }
        Credential::MeshIdentity { .. } | Credential::Svid(_) => (true, true),
    };
    if shows_identity {
        found.identity = Some(identity(credential)?);
    }
    if verifies {
        let (ca, crls) = ca(credential)?;
        found.ca = CaSource::File(ca);
        if matches!(credential, Credential::Secret { .. }) {
            found.ca_crl = crls;
        }
    }
    Ok(Some(found))
}
