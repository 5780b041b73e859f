//! DestinationRule `outlierDetection`: which endpoints are left out for a while.

use std::time::Duration;

use super::decode::Field;
use super::object::Object;
use super::retries::at_least_a_millisecond;

/// As written; what is absent has Envoy's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlierDetection {
    pub consecutive_5xx_errors: Option<u32>,
    pub consecutive_gateway_errors: Option<u32>,
    /// Failures to connect are counted apart from answers.
    pub split_local_origin_errors: bool,
    pub consecutive_local_origin_failures: Option<u32>,
    pub interval: Option<Duration>,
    pub base_ejection_time: Option<Duration>,
    pub max_ejection_percent: Option<u8>,
    pub min_health_percent: Option<u8>,
}

pub(super) fn read(field: &Field<'_>) -> Option<OutlierDetection> {
    let outlier = field.object()?;
    let number = |name| outlier.get(name).and_then(|field| field.unsigned());
    let duration = |name| outlier.get(name).and_then(|field| at_least_a_millisecond(&field));
    if let Some(field) = outlier.get("consecutiveErrors").filter(|field| field.peek_text() != Some("0")) {
        field.warning(
            "outlier detection consecutive errors is deprecated, use consecutiveGatewayErrors or consecutive5xxErrors \
             instead: it has no effect",
        );
    }
    let read = OutlierDetection {
        consecutive_5xx_errors: number("consecutive5xxErrors"),
        consecutive_gateway_errors: number("consecutiveGatewayErrors"),
        split_local_origin_errors: outlier.boolean("splitExternalLocalOriginErrors").unwrap_or(false),
        consecutive_local_origin_failures: number("consecutiveLocalOriginFailures"),
        interval: duration("interval"),
        base_ejection_time: duration("baseEjectionTime"),
        max_ejection_percent: percent(&outlier, "maxEjectionPercent"),
        min_health_percent: percent(&outlier, "minHealthPercent"),
    };
    if !read.split_local_origin_errors
        && read.consecutive_local_origin_failures.is_some_and(|count| count > 0)
    {
        field.error(
            "outlier detection consecutive local origin failures is specified, but split external local origin errors \
             is set to false: set splitExternalLocalOriginErrors",
        );
    }
    Some(read)
}

fn percent(outlier: &Object<'_>, name: &'static str) -> Option<u8> {
    let field = outlier.get(name)?;
    let percent = field.integer(i64::from(i32::MIN)..=i64::from(i32::MAX))?;
    if !(0..=100).contains(&percent) {
        field.error(format!("percentage {percent} is not in range 0..100"));
    }
    u8::try_from(percent).ok()
}
