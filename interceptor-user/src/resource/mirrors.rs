//! `mirror` and `mirrors`: where copies of requests go.

use std::sync::Arc;

use super::decode::Field;
use super::object::Object;
use super::percentage::{self, Percentage};
use super::virtual_service::{Destination, read_destination};

/// What a route says about mirroring, as written: a delegate may leave parts of it to its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirroring {
    pub mirror: Option<Box<Destination>>,
    /// Of `mirror`; everything when absent.
    pub percentage: Option<Percentage>,
    pub mirrors: Vec<Mirror>,
}

/// One of `mirrors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub destination: Destination,
    pub percentage: Percentage,
}

impl Mirroring {
    /// Every mirror that gets something.
    pub fn all(&self) -> impl Iterator<Item = (&Destination, Percentage)> {
        let percentage = self.percentage.unwrap_or(Percentage::ALL);
        let one = self.mirror.as_deref().into_iter().map(move |destination| (destination, percentage));
        let several = self.mirrors.iter().map(|mirror| (&mirror.destination, mirror.percentage));
        one.chain(several).filter(|(_, percentage)| *percentage != Percentage::default())
    }

    /// What is not said here is as `root` says it.
    pub fn or(mut self, root: &Self) -> Self {
        self.mirror = self.mirror.or_else(|| root.mirror.clone());
        self.percentage = self.percentage.or(root.percentage);
        if self.mirrors.is_empty() {
            self.mirrors.clone_from(&root.mirrors);
        }
        self
    }
}

pub(super) fn read(route: &Object<'_>, namespace: &Arc<str>) -> Mirroring {
    Mirroring {
        mirror: route.get("mirror").and_then(|field| read_destination(&field, namespace)).map(Box::new),
        percentage: percentage_of_mirror(route),
        mirrors: route.list("mirrors", |item| read_policy(&item, namespace)),
    }
}

fn percentage_of_mirror(route: &Object<'_>) -> Option<Percentage> {
    let newer = route.get("mirrorPercentage");
    let mut whole = None;
    for name in ["mirrorPercent", "mirror_percent"] {
        if let Some(field) = route.get(name) {
            field.warning(format!("using deprecated setting {name:?}, use \"mirrorPercentage\" instead"));
            whole = whole.or(percentage::read_whole(route, name));
        }
    }
    newer.map_or(whole, |field| percentage::read_of_mirror(&field))
}

fn read_policy(item: &Field<'_>, namespace: &Arc<str>) -> Option<Mirror> {
    let policy = item.object()?;
    let percentage = match policy.get("percentage") {
        Some(field) => percentage::read(&field)?,
        None => Percentage::ALL,
    };
    let Some(field) = policy.get("destination") else {
        item.error("destination is required for mirrors");
        return None;
    };
    Some(Mirror { destination: read_destination(&field, namespace)?, percentage })
}
