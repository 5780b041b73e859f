//! Whether a pinned map is one that this binary can use: the loader would take any, and a value that is larger than ours
//! would be written past the end of what we read it into.

use std::{fmt, path::Path};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, MapInfo},
};

use super::{DatapathError, pins::Pins};

/// Whatever of a map must not differ.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    kind: String,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl Shape {
    fn of(info: &MapInfo) -> Result<Self, MapError> {
        Ok(Self {
            kind: format!("{:?}", info.map_type()?),
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key_size, value_size, max_entries, flags } = self;
        write!(
            f,
            "{kind}, keys of {key_size} bytes, values of {value_size}, {max_entries} entries, flags {flags:#x}"
        )
    }
}

/// Fails for the first pinned map that differs from the one of the same name in `fresh`, whose maps the kernel has just
/// made from our object.
pub(super) fn compare(pins: &Pins, fresh: &Ebpf, names: &[&'static str]) -> Result<(), DatapathError> {
    for &name in names {
        let missing = || DatapathError::Missing { name: name.to_owned() };
        let expected = fresh.map(name).and_then(data).ok_or_else(missing)?;
        let expected = expected.info().and_then(|info| Shape::of(&info));
        let expected = expected.map_err(|source| DatapathError::Map { name, source })?;
        if let Some(found) = pinned(&pins.map(name), name)?
            && found != expected
        {
            let (found, expected) = (found.to_string(), expected.to_string());
            return Err(DatapathError::Shape { path: pins.map(name), found, expected });
        }
    }
    Ok(())
}

fn pinned(path: &Path, name: &'static str) -> Result<Option<Shape>, DatapathError> {
    if super::pins::get(path)?.is_none() {
        return Ok(None);
    }
    let found = MapInfo::from_pin(path).and_then(|info| Shape::of(&info));
    found.map(Some).map_err(|source| DatapathError::Read { name, source })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "aya lists every map type; the object has a few")]
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(map)
        | Map::HashMap(map)
        | Map::LpmTrie(map)
        | Map::PerCpuHashMap(map)
        | Map::SkStorage(map) => Some(map),
        _ => None,
    }
}
