//! Percent: a share of the traffic, as fine as Envoy takes it.

use super::decode::Field;
use super::object::Object;

/// Of a million requests, so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentage {
    pub per_million: u32,
}

impl Percentage {
    pub const ALL: Self = Self { per_million: 1_000_000 };

    fn of(percent: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "callers have bounded it to 0 to 100; Istio drops what is below a millionth, too"
        )]
        let per_million = (percent.clamp(0.0, 100.0) * 10_000.0) as u32;
        Self { per_million }
    }
}

/// `{value: 0.1}`.
pub(super) fn read(field: &Field<'_>) -> Option<Percentage> {
    let percent = value(field)?;
    let is_valid = percent == 0.0 || (0.0001..=100.0).contains(&percent);
    if !is_valid {
        field.error(format!("percentage {percent} is neither 0.0, nor in range [0.0001, 100.0]"));
        return None;
    }
    Some(Percentage::of(percent))
}

/// `mirrorPercentage`, of which the webhook has other things to say.
pub(super) fn read_of_mirror(field: &Field<'_>) -> Option<Percentage> {
    let percent = value(field)?;
    if percent > 100.0 {
        field.error(format!("mirror_percentage must have a max value of 100 (it has {percent})"));
        return None;
    }
    if percent < 0.0 {
        field.error(format!("mirror_percentage must have a min value of 0 (it has {percent})"));
        return None;
    }
    Some(Percentage::of(percent))
}

/// The older spellings: a whole number of percent.
pub(super) fn read_whole(object: &Object<'_>, name: &'static str) -> Option<Percentage> {
    let percent = object.get(name)?.integer(0..=100)?;
    Some(Percentage { per_million: u32::try_from(percent).ok()? * 10_000 })
}

fn value(field: &Field<'_>) -> Option<f64> {
    if field.peek_text().is_some() {
        field.error("expected a mapping such as {value: 10}, found a plain value");
        return None;
    }
    let percentage = field.object()?;
    percentage.get("value").map_or(Some(0.0), |value| value.number())
}
