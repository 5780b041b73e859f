//! Why TLS failed, in the words that Envoy's users look for (BoringSSL's class of error between
//! `TLS_error:` and `:TLS_error_end`), followed by what rustls knows about it.

use std::io;

use crate::snapshot::Credential;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// BoringSSL's library number of SSL, in the upper byte of its error codes.
const ERR_LIB_SSL: u32 = 16 << 24;
const CERTIFICATE_VERIFY_FAILED: (u32, &str) = (125, "CERTIFICATE_VERIFY_FAILED");
const WRONG_VERSION_NUMBER: (u32, &str) = (247, "WRONG_VERSION_NUMBER");
/// The reason of a received alert is this and the alert's number.
const ALERT_BASE: u32 = 1000;

/// What a failed handshake is told as; `credential`: where the CAs come from that it was made with, if not from the rule.
pub(super) fn of_handshake(error: &io::Error, credential: Option<&Credential>) -> String {
    match rustls_error(error) {
        Some(error) => of_rustls(error, credential),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection during the TLS handshake".to_owned()
        }
        None => format!("the connection broke during the TLS handshake: {error}"),
    }
}

/// What rustls found wrong with an established connection, if it was rustls: with TLS 1.3 a server
/// refuses a client's certificate only after the client believes the handshake to be over.
pub(crate) fn of_io_error(error: &io::Error) -> Option<String> {
    rustls_error(error).map(|error| of_rustls(error, None))
}

fn rustls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn of_rustls(error: &Error, credential: Option<&Credential>) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "rustls's errors are open-ended; the rest has no class"
    )]
    match error {
        Error::InvalidCertificate(reason) => {
            classed(CERTIFICATE_VERIFY_FAILED, &of_certificate(reason, credential))
        }
        Error::NoCertificatesPresented => {
            classed(CERTIFICATE_VERIFY_FAILED, "the server presented no certificate")
        }
        // Bytes that are no TLS record at all: a server that speaks plaintext.
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        ) => classed(WRONG_VERSION_NUMBER, "the server does not speak TLS on this port"),
        Error::AlertReceived(alert) => of_alert(*alert),
        other => format!("TLS_error:|{other}:TLS_error_end"),
    }
}

fn classed((number, class): (u32, &str), reason: &str) -> String {
    let number = ERR_LIB_SSL + number;
    format!("TLS_error:|{number}:SSL routines:OPENSSL_internal:{class}:TLS_error_end: {reason}")
}

fn of_certificate(error: &CertificateError, credential: Option<&Credential>) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls's own words serve for the rest")]
    match error {
        CertificateError::UnknownIssuer => {
            format!("certificate signed by an unknown issuer: {}", mend(credential))
        }
        CertificateError::BadSignature => {
            format!("certificate not signed by the CA whose name it bears: {}", mend(credential))
        }
        CertificateError::Other(reason) => reason.to_string(),
        other => other.to_string(),
    }
}

/// Where the CA has to be that signed the server's certificate.
fn mend(credential: Option<&Credential>) -> String {
    match credential {
        None => "set caCertificates to the CA that signed it".into(),
        Some(Credential::Secret { name, .. }) => {
            format!("put the CA that signed it into the ca.crt of credentialName {name}")
        }
        Some(Credential::MeshIdentity { directory }) => format!(
            "the CA that signed it has to be in root-cert.pem (or ca.crt) of the identity in {}",
            directory.display()
        ),
        Some(Credential::Svid(_)) => {
            "the CA that signed it has to be in the trust bundle that the Workload API gives".into()
        }
    }
}

fn of_alert(alert: AlertDescription) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "BoringSSL names few; the rest keep their number")]
    let class = match alert {
        AlertDescription::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        AlertDescription::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        AlertDescription::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        AlertDescription::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        AlertDescription::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        AlertDescription::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        AlertDescription::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        AlertDescription::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        AlertDescription::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        AlertDescription::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        AlertDescription::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        AlertDescription::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        AlertDescription::UnrecognisedName => "TLSV1_UNRECOGNIZED_NAME",
        AlertDescription::CertificateRequired => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        AlertDescription::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "TLSV1_ALERT",
    };
    let number = ALERT_BASE + u32::from(u8::from(alert));
    classed((number, class), &format!("the server refused the handshake ({alert:?})"))
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

    use super::of_rustls;

    #[test]
    fn the_classes_are_boringssls() {
        for (error, start) in [
            (
                Error::InvalidCertificate(CertificateError::Expired),
                "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end: ",
            ),
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end: ",
            ),
            (
                Error::AlertReceived(AlertDescription::HandshakeFailure),
                "TLS_error:|268436496:SSL routines:OPENSSL_internal:SSLV3_ALERT_HANDSHAKE_FAILURE:TLS_error_end: ",
            ),
        ] {
            let told = of_rustls(&error, None);
            assert!(told.starts_with(start) && told.len() > start.len(), "{told}");
        }
    }
}
