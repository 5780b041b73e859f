//! Durations as Go and Istio write them.

use std::time::Duration;

/// `3s`, `100ms`, `1h2m`, `1.5s`, `0`; `None` for anything else, negative ones among them.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    const DURATION_BYTES_MAX: usize = 64;
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() || text.len() > DURATION_BYTES_MAX {
        return None;
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let nanoseconds: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(part(number, nanoseconds)?)?;
        rest = after;
    }
    Some(total)
}

/// `number` (digits with at most one point) times `unit` nanoseconds.
fn part(number: &str, unit: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanoseconds = whole.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.chars() {
        scale /= 10;
        nanoseconds = nanoseconds.checked_add(scale.checked_mul(u64::from(digit.to_digit(10)?))?)?;
    }
    Some(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("3s", Some(3_000)),
            ("100ms", Some(100)),
            ("1h2m", Some(3_720_000)),
            ("1.5s", Some(1_500)),
            (".5s", Some(500)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("", None),
            ("3", None),
            ("s", None),
            ("-1s", None),
            ("3 s", None),
            ("3d", None),
            ("1.2.3s", None),
            (".s", None),
            ("99999999999h", None),
        ] {
            assert_eq!(parse(text).map(|duration| duration.as_millis()), milliseconds, "{text}");
        }
    }
}
