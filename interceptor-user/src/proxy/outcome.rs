//! How connections and requests end, in Envoy's words: response flags and details.

use std::fmt;

use crate::snapshot::Refusal;

/// In the log, of what a workload has too many of.
pub(crate) const SURPLUS_DETAILS: &str = "too_many_connections";

/// Envoy's response flags, by their short code in logs (source/common/stream_info/utility.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResponseFlag {
    /// UH: no healthy upstream, and BlackHoleCluster.
    NoHealthyUpstream,
    /// UF: connecting to the upstream failed.
    UpstreamConnectionFailure,
    /// UC: the upstream closed before it answered.
    UpstreamConnectionTermination,
    /// UO: circuit breaker.
    UpstreamOverflow,
    /// NR: no route or filter chain.
    NoRouteFound,
    /// URX: all tries used up.
    UpstreamRetryLimitExceeded,
    /// NC: the route's cluster does not exist.
    NoClusterFound,
    /// UT: the route's timeout.
    UpstreamRequestTimeout,
    /// UR: the upstream reset the stream.
    UpstreamRemoteReset,
    /// LR: we reset the stream.
    LocalReset,
    /// DC: the client went away.
    DownstreamConnectionTermination,
    /// UPE: the upstream does not speak HTTP.
    UpstreamProtocolError,
    /// DPE: the client does not speak HTTP.
    DownstreamProtocolError,
    /// DF: the name could not be resolved.
    DnsResolutionFailed,
    /// SI: nothing happened for too long.
    StreamIdleTimeout,
    /// DI: delay injected.
    DelayInjected,
    /// FI: fault injected.
    FaultInjected,
    /// UAEX: an external destination that policy does not allow.
    UnauthorizedExternalService,
    /// DT: maximum connection duration.
    DurationTimeout,
    /// OM: over a limit of ours.
    OverloadManager,
}

impl ResponseFlag {
    /// In the order in which Envoy prints several.
    pub const ALL: [Self; 20] = [
        Self::NoHealthyUpstream,
        Self::UpstreamRequestTimeout,
        Self::LocalReset,
        Self::UpstreamRemoteReset,
        Self::UpstreamConnectionFailure,
        Self::UpstreamConnectionTermination,
        Self::UpstreamOverflow,
        Self::NoRouteFound,
        Self::DelayInjected,
        Self::FaultInjected,
        Self::UnauthorizedExternalService,
        Self::DownstreamConnectionTermination,
        Self::UpstreamRetryLimitExceeded,
        Self::StreamIdleTimeout,
        Self::DownstreamProtocolError,
        Self::DurationTimeout,
        Self::UpstreamProtocolError,
        Self::NoClusterFound,
        Self::OverloadManager,
        Self::DnsResolutionFailed,
    ];

    pub const fn code(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamOverflow => "UO",
            Self::NoRouteFound => "NR",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::NoClusterFound => "NC",
            Self::UpstreamRequestTimeout => "UT",
            Self::UpstreamRemoteReset => "UR",
            Self::LocalReset => "LR",
            Self::DownstreamConnectionTermination => "DC",
            Self::UpstreamProtocolError => "UPE",
            Self::DownstreamProtocolError => "DPE",
            Self::DnsResolutionFailed => "DF",
            Self::StreamIdleTimeout => "SI",
            Self::DelayInjected => "DI",
            Self::FaultInjected => "FI",
            Self::UnauthorizedExternalService => "UAEX",
            Self::DurationTimeout => "DT",
            Self::OverloadManager => "OM",
        }
    }
}

/// A set of flags; displays as Envoy does: comma-joined codes, `-` when empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseFlags(u32);

impl ResponseFlags {
    pub const NONE: Self = Self(0);

    pub const fn with(self, flag: ResponseFlag) -> Self {
        Self(self.0 | 1 << flag as u8)
    }

    pub fn insert(&mut self, flag: ResponseFlag) {
        *self = self.with(flag);
    }

    pub const fn contains(self, flag: ResponseFlag) -> bool {
        self.0 & (1 << flag as u8) != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl From<ResponseFlag> for ResponseFlags {
    fn from(flag: ResponseFlag) -> Self {
        Self::NONE.with(flag)
    }
}

impl From<Refusal> for ResponseFlags {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::MissingHost | Refusal::NotAllowed => Self::NONE,
            Refusal::NoRoute | Refusal::Misdirected => ResponseFlag::NoRouteFound.into(),
            Refusal::NoCluster => ResponseFlag::NoClusterFound.into(),
            Refusal::NameMismatch | Refusal::AroundGateway => {
                ResponseFlag::UnauthorizedExternalService.into()
            }
            Refusal::LowVersion
            | Refusal::Ambiguous
            | Refusal::TwoLengths
            | Refusal::UnsupportedTransferEncoding => ResponseFlag::DownstreamProtocolError.into(),
        }
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return formatter.write_str("-");
        }
        let mut separator = "";
        for flag in ResponseFlag::ALL.into_iter().filter(|flag| self.contains(*flag)) {
            formatter.write_str(separator)?;
            formatter.write_str(flag.code())?;
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ResponseFlag, ResponseFlags};

    #[test]
    fn flags_are_joined_in_envoys_order() {
        let flags = ResponseFlags::NONE
            .with(ResponseFlag::UpstreamRetryLimitExceeded)
            .with(ResponseFlag::UpstreamConnectionFailure);
        assert_eq!(flags.to_string(), "UF,URX");
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
    }
}
