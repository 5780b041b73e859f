//! When certificates that we show end, and telling it ahead.

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::pace::Pace;
use super::spiffe::{at, not_after, not_before};

/// How often, at most, certificates are looked at where no handshake asks.
const TENDING_INTERVAL: Duration = Duration::from_secs(60);
/// How often a certificate that ends soon is told of.
const WARNING_INTERVAL: Duration = Duration::from_secs(3600);

/// Whoever renews certificates has done so long before this share of their lives is left (cert-manager with a third,
/// Istio with a half of it).
const LEFT_MIN: f64 = 0.2;

/// A certificate's life: that of the first of its chain to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Expiry {
    pub(in crate::proxy) file: PathBuf,
    from: UnixTime,
    pub(in crate::proxy) until: UnixTime,
}

impl Expiry {
    /// `None` when nothing can be read.
    pub(in crate::proxy) fn of(file: PathBuf, chain: &[CertificateDer<'_>]) -> Option<Self> {
        let lives =
            chain.iter().filter_map(|certificate| Some((not_after(certificate)?, not_before(certificate)?)));
        let (until, from) = lives.min_by_key(|(until, _)| until.as_secs())?;
        Some(Self { file, from, until })
    }

    /// Why what is shown is good for nothing at this time.
    pub(in crate::proxy) fn over(&self, now: UnixTime) -> Option<String> {
        let end = (self.until < now).then(|| at(self.until))?;
        Some(format!("our certificate {} expired at {end}", self.file.display()))
    }

    /// What is to be told at this time, if anything.
    fn warning(&self, now: UnixTime) -> Option<String> {
        let (file, end) = (self.file.display(), at(self.until));
        let life = self.until.as_secs().saturating_sub(self.from.as_secs());
        let left = self.until.as_secs().saturating_sub(now.as_secs());
        if left == 0 {
            return Some(format!("the certificate {file} has expired at {end}: renew it"));
        }
        let is_near = (left as f64) < life as f64 * LEFT_MIN;
        is_near.then(|| {
            format!("the certificate {file} expires at {end}: whoever renews it has not done so yet")
        })
    }
}

/// When certificates are looked at, and told of.
#[derive(Debug)]
pub(in crate::proxy) struct Tending {
    looking: Pace,
    warning: Pace,
    /// Of certificates that have ended: whoever was told that they would is told once more.
    warning_of_end: Pace,
}

impl Default for Tending {
    fn default() -> Self {
        Self {
            looking: Pace::from_now(TENDING_INTERVAL),
            warning: Pace::from_now(WARNING_INTERVAL),
            warning_of_end: Pace::from_now(WARNING_INTERVAL),
        }
    }
}

impl Tending {
    /// Whether it is time to look at them; true once in a while, for one who asks.
    pub(in crate::proxy) fn is_due(&self) -> bool {
        self.looking.is_due()
    }

    /// Tells of certificates that end soon.
    pub(in crate::proxy) fn warn<'a>(&self, certificates: impl Iterator<Item = &'a Expiry>) {
        let now = UnixTime::now();
        let (over, others): (Vec<&Expiry>, Vec<&Expiry>) =
            certificates.partition(|certificate| certificate.over(now).is_some());
        for (certificates, pace) in [(over, &self.warning_of_end), (others, &self.warning)] {
            let mut warnings =
                certificates.into_iter().filter_map(|certificate| certificate.warning(now)).peekable();
            if warnings.peek().is_some() && pace.is_due() {
                warnings.for_each(|warning| tracing::warn!("{warning}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::pki_types::UnixTime;

    use super::Expiry;

    #[test]
    fn it_is_told_in_the_last_fifth_of_a_life() {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2024, 1, 11);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let expiry = Expiry::of("/c.pem".into(), &[certificate.der().clone()]).unwrap();
        let day =
            |number: u64| UnixTime::since_unix_epoch(Duration::from_secs(1_704_067_200 + number * 86400));
        assert_eq!((expiry.from.as_secs(), expiry.until.as_secs()), (day(0).as_secs(), day(10).as_secs()));
        for (now, words) in
            [(0, None), (8, None), (9, Some("expires at 2024-01-11")), (10, Some("has expired"))]
        {
            let said = expiry.warning(day(now));
            let is_right = match (words, &said) {
                (None, None) => true,
                (Some(words), Some(said)) => said.contains(words) && said.contains("/c.pem"),
                _ => false,
            };
            assert!(is_right, "day {now}: {said:?}");
        }
    }
}
