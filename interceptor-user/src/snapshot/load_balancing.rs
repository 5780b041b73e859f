//! How one endpoint of a cluster is chosen, and which are left out for a while.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LoadBalancer {
    /// The less loaded of two chosen at random. Istio's default.
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
    /// Envoy's RING_HASH (ketama) of at least so many entries.
    RingHash {
        minimum_size: u32,
    },
    /// Envoy's MAGLEV with a table of this size, a prime.
    Maglev {
        table_size: u32,
    },
}

/// What of a request is hashed for [`LoadBalancer::RingHash`] and [`LoadBalancer::Maglev`]. A request
/// without it goes anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashKey {
    Header(HeaderName),
    Cookie(HashCookie),
    SourceIp,
    QueryParameter(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HashCookie {
    pub name: Arc<str>,
    /// What follows the value when a missing cookie is made: `; Max-Age=60; Path=/; HttpOnly`. `None`:
    /// none is made.
    pub made_with: Option<Arc<str>>,
}

/// How a new endpoint comes to its full share (Envoy's slow start); for [`LoadBalancer::LeastRequest`]
/// and [`LoadBalancer::RoundRobin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Warmup {
    pub duration: Duration,
    /// The least share, in thousandths of the full one.
    pub minimum_share_thousandths: u32,
    /// In thousandths: at 1000 the share grows with time, above that it grows faster at first.
    pub aggression_thousandths: u32,
}

/// How near an endpoint is. Those of one placement are chosen from alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// The nearest have the lowest, and get as much as the healthy among them can carry.
    pub priority: u32,
    /// Tells localities of one priority apart.
    pub locality: u32,
    /// The locality's share of what its priority gets.
    pub weight: u32,
}

impl Default for Placement {
    fn default() -> Self {
        Self { priority: 0, locality: 0, weight: 1 }
    }
}

/// When an endpoint is ejected, and for how long (Envoy's outlier detection). A count of 0 never ejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OutlierDetection {
    pub consecutive_5xx: u32,
    /// 502, 503, 504.
    pub consecutive_gateway_errors: u32,
    /// With it failures to connect count here; without, as 503 and 504.
    pub consecutive_local_origin_failures: Option<u32>,
    /// How often it is looked whether endpoints may come back.
    pub interval: Duration,
    /// Times the number of ejections in a row.
    pub base_ejection_time: Duration,
    pub max_ejection_percent: u8,
    /// With fewer healthy endpoints than that, all are used.
    pub min_health_percent: u8,
}

impl Default for OutlierDetection {
    /// Envoy's defaults as Istio leaves them; panic is off.
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 0,
            consecutive_local_origin_failures: None,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
        }
    }
}
