//! DestinationRule `loadBalancer`: how one endpoint of several is chosen.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::decode::Field;
use super::locality::{self, LocalitySetting};
use super::object::Object;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancerSettings {
    pub simple: SimpleLoadBalancer,
    /// Instead of `simple`.
    pub consistent_hash: Option<ConsistentHash>,
    pub warmup: Option<Warmup>,
    /// `None`: the mesh's.
    pub locality: Option<LocalitySetting>,
}

impl LoadBalancerSettings {
    /// Whether every connection goes to the address that the application asked for.
    pub fn is_passthrough(&self) -> bool {
        self.consistent_hash.is_none() && self.simple == SimpleLoadBalancer::Passthrough
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SimpleLoadBalancer {
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
    /// To the address that the application asked for.
    Passthrough,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What of a request is hashed; `None` when the rule names nothing.
    pub key: Option<HashKey>,
    pub table: HashTable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    Header(HeaderName),
    Cookie(HashCookie),
    SourceIp,
    QueryParameter(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    pub name: Arc<str>,
    pub path: Option<Arc<str>>,
    /// With it a cookie that is missing is made; zero lasts for a session.
    pub ttl: Option<Duration>,
    /// Of the cookie that is made: names, and values where they have one.
    pub attributes: Vec<(Arc<str>, Option<Arc<str>>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTable {
    Ring { minimum_size: u32 },
    Maglev { size: u32 },
}

/// How a new endpoint comes to its full share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmup {
    pub duration: Duration,
    /// The least share, in thousandths of the full one.
    pub minimum_share_thousandths: u32,
    /// In thousandths: at 1000 the share grows with time, above that it grows faster at first.
    pub aggression_thousandths: u32,
}

impl Warmup {
    /// Envoy's defaults.
    const MINIMUM_SHARE_THOUSANDTHS: u32 = 100;
    const AGGRESSION_THOUSANDTHS: u32 = 1000;

    fn within(duration: Duration) -> Self {
        Self {
            duration,
            minimum_share_thousandths: Self::MINIMUM_SHARE_THOUSANDTHS,
            aggression_thousandths: Self::AGGRESSION_THOUSANDTHS,
        }
    }
}

/// Envoy's default.
const RING_SIZE: u32 = 1024;
/// Envoy's default of the largest ring, beyond which it refuses a minimum.
const MINIMUM_RING_SIZE_MAX: u64 = 8 * 1024 * 1024;
/// More would be memory without use.
const RING_SIZE_MAX: u32 = 1024 * 1024;
const MAGLEV_SIZE: u32 = 65537;
/// Envoy's bound.
const MAGLEV_SIZE_BOUND: u64 = 5_000_011;

pub(super) fn read(field: &Field<'_>, has_outlier_detection: bool) -> Option<LoadBalancerSettings> {
    let settings = field.object()?;
    let simple = settings.get("simple").and_then(|field| {
        field.one_of(&[
            ("UNSPECIFIED", SimpleLoadBalancer::LeastRequest),
            ("LEAST_REQUEST", SimpleLoadBalancer::LeastRequest),
            ("LEAST_CONN", SimpleLoadBalancer::LeastRequest),
            ("ROUND_ROBIN", SimpleLoadBalancer::RoundRobin),
            ("RANDOM", SimpleLoadBalancer::Random),
            ("PASSTHROUGH", SimpleLoadBalancer::Passthrough),
        ])
    });
    if settings.has("simple") && settings.has("consistentHash") {
        field.error("only one of `simple` or `consistentHash` can be set");
    }
    let consistent_hash = settings.get("consistentHash").and_then(|field| read_consistent_hash(&field));
    let simple = simple.unwrap_or_default();
    let warmup = read_warmup(&settings);
    let warms_up = matches!(simple, SimpleLoadBalancer::LeastRequest | SimpleLoadBalancer::RoundRobin);
    if warmup.is_some() && (!warms_up || consistent_hash.is_some()) {
        field.warning("new endpoints are warmed up with LEAST_REQUEST and ROUND_ROBIN only: no effect here");
    }
    let locality =
        settings.get("localityLbSetting").and_then(|field| locality::read(&field, has_outlier_detection));
    Some(LoadBalancerSettings { simple, consistent_hash, warmup, locality })
}

fn read_consistent_hash(field: &Field<'_>) -> Option<ConsistentHash> {
    const KEYS: [&str; 4] = ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"];
    let hash = field.object()?;
    let named = KEYS.into_iter().filter(|key| hash.has(key)).count();
    if named > 1 {
        field.error(format!("only one of {} can be set", KEYS.join(", ")));
    }
    let header = hash.get("httpHeaderName").and_then(|field| {
        let text = field.text()?;
        let name = HeaderName::from_bytes(text.as_bytes());
        name.inspect_err(|_invalid| field.error(format!("`{text}` is no name of a header"))).ok()
    });
    let cookie = hash.get("httpCookie").and_then(|field| read_cookie(&field));
    let source_ip = hash.boolean("useSourceIp").filter(|used| *used);
    let parameter = hash.text("httpQueryParameterName").filter(|name| !name.is_empty());
    let key = header
        .map(HashKey::Header)
        .or(cookie.map(HashKey::Cookie))
        .or(source_ip.map(|_used| HashKey::SourceIp))
        .or(parameter.map(HashKey::QueryParameter));
    if key.is_none() && !field.is_wrong() {
        field
            .warning(format!("nothing to hash, each request goes anywhere: give one of {}", KEYS.join(", ")));
    }
    Some(ConsistentHash { key, table: read_table(&hash) })
}

fn read_table(hash: &Object<'_>) -> HashTable {
    let field = hash.field();
    let deprecated = hash.get("minimumRingSize").and_then(|field| read_ring_size(&field));
    if deprecated.is_some() {
        field.warning(
            "consistent hash MinimumRingSize is deprecated, use ConsistentHashLB's RingHash configuration instead",
        );
    }
    if deprecated.is_some() && (hash.has("ringHash") || hash.has("maglev")) {
        field.error("only one of MinimumRingSize or Maglev/Ringhash can be specified");
    }
    if hash.has("ringHash") && hash.has("maglev") {
        field.error("only one of `ringHash` or `maglev` can be set");
    }
    if let Some(maglev) = hash.get("maglev").and_then(|field| field.object()) {
        return HashTable::Maglev { size: read_maglev_size(&maglev) };
    }
    let ring = hash.get("ringHash").and_then(|field| field.object());
    let minimum = ring.and_then(|ring| ring.get("minimumRingSize").and_then(|field| read_ring_size(&field)));
    HashTable::Ring { minimum_size: minimum.or(deprecated).unwrap_or(RING_SIZE) }
}

/// Zero is as good as nothing.
fn read_ring_size(field: &Field<'_>) -> Option<u32> {
    let size = field.integer(0..=i64::MAX).and_then(|size| u64::try_from(size).ok())?;
    if size > MINIMUM_RING_SIZE_MAX {
        field.error(format!(
            "ring hash: minimum_ring_size ({size}) > maximum_ring_size ({MINIMUM_RING_SIZE_MAX})"
        ));
    }
    let size = u32::try_from(size).ok().filter(|size| *size > 0)?;
    if size > RING_SIZE_MAX && !field.is_wrong() {
        field.warning(format!("a ring has at most {RING_SIZE_MAX} entries here"));
    }
    Some(size.min(RING_SIZE_MAX))
}

fn read_maglev_size(maglev: &Object<'_>) -> u32 {
    let Some(field) = maglev.get("tableSize") else {
        maglev.field().error("tableSize must be set for maglev");
        return MAGLEV_SIZE;
    };
    let Some(size) = field.integer(0..=i64::MAX).and_then(|size| u64::try_from(size).ok()) else {
        return MAGLEV_SIZE;
    };
    if size == 0 {
        field.error("tableSize must be set for maglev");
    } else if size >= MAGLEV_SIZE_BOUND {
        field.error("tableSize must be less than 5000011 for maglev");
    } else if !is_prime(size) {
        field.error("tableSize must be a prime number for maglev");
    }
    u32::try_from(size).unwrap_or(MAGLEV_SIZE)
}

/// As Envoy has it, which takes 1 for one.
fn is_prime(number: u64) -> bool {
    if number < 4 {
        return number != 0;
    }
    !number.is_multiple_of(2)
        && (3..)
            .step_by(2)
            .take_while(|factor| factor * factor <= number)
            .all(|factor| !number.is_multiple_of(factor))
}

fn read_cookie(field: &Field<'_>) -> Option<HashCookie> {
    let cookie = field.object()?;
    let part = |field: Field<'_>| {
        let text = field.text()?;
        let fits = text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b';');
        if !fits {
            field.error(format!("`{text}` can't be part of a cookie"));
        }
        Some(text).filter(|text| fits && !text.is_empty())
    };
    let name = cookie.get("name").and_then(part);
    if name.is_none() && !field.is_wrong() {
        field.error("name required for HttpCookie");
    }
    let attributes = cookie.list("attributes", |item| {
        let attribute = item.object()?;
        let value = attribute.get("value").and_then(part);
        Some((attribute.require("name").and_then(part)?, value))
    });
    let (path, ttl) = (cookie.get("path").and_then(part), cookie.duration("ttl"));
    Some(HashCookie { name: name?, path, ttl, attributes })
}

fn read_warmup(settings: &Object<'_>) -> Option<Warmup> {
    let deprecated = settings
        .get("warmupDurationSecs")
        .and_then(|field| super::retries::at_least_a_millisecond(&field))
        .map(Warmup::within);
    let Some(field) = settings.get("warmup") else { return deprecated };
    let warmup = field.object()?;
    let duration = warmup.get("duration");
    if duration.is_none() {
        field.error("duration is required");
    }
    let minimum = warmup.get("minimumPercent").and_then(|field| {
        let thousandths = field.thousandths()?;
        if thousandths > 100_000 {
            field.error("minimumPercent value should be less than or equal to 100");
        }
        Some(thousandths / 100)
    });
    let aggression = warmup.get("aggression").and_then(|field| {
        let thousandths = field.thousandths()?;
        if thousandths < 1000 {
            field.error("aggression should be greater than or equal to 1");
        }
        Some(thousandths)
    });
    Some(Warmup {
        duration: duration.and_then(|field| super::retries::at_least_a_millisecond(&field))?,
        minimum_share_thousandths: minimum.unwrap_or(Warmup::MINIMUM_SHARE_THOUSANDTHS),
        aggression_thousandths: aggression.unwrap_or(Warmup::AGGRESSION_THOUSANDTHS),
    })
}
