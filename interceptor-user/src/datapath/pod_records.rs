//! What the agent tells about pods to whoever looks at the maps, also when it is dead.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};
use interceptor_common::pod::{PodEntry, PodState};

use super::{
    CgroupId, Datapath, DatapathError,
    programs::Maps,
    sys::Raw,
    workloads::{absent_is_fine, read_failed, write_failed},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// Of the pod's network namespace; 0: not known, or not the pod's own.
    pub netns_cookie: u64,
    pub state: PodState,
    /// The mistake, or whatever else there is to say of the state; cut after 256 bytes.
    pub note: String,
}

pub(super) struct PodRecords {
    map: HashMap<MapData, u64, Raw<PodEntry>>,
}

impl PodRecords {
    pub(super) fn take(maps: &mut Maps<'_>) -> Result<Self, DatapathError> {
        Ok(Self { map: maps.take("PODS")? })
    }

    pub(super) fn read(&self) -> Result<BTreeMap<CgroupId, PodRecord>, DatapathError> {
        let mut pods = BTreeMap::new();
        for entry in self.map.iter() {
            let (cgroup, Raw(entry)) = entry.map_err(read_failed("PODS"))?;
            pods.extend(PodRecord::read(&entry).map(|record| (CgroupId(cgroup), record)));
        }
        Ok(pods)
    }
}

impl Datapath {
    /// Says what became of the pod with this cgroup.
    pub fn describe(&mut self, pod: CgroupId, record: &PodRecord) -> Result<(), DatapathError> {
        self.pod_records.map.insert(pod.0, Raw(record.entry()), 0).map_err(write_failed("PODS"))
    }

    /// The pod is gone.
    pub fn forget(&mut self, pod: CgroupId) -> Result<(), DatapathError> {
        absent_is_fine("PODS", self.pod_records.map.remove(&pod.0))
    }

    /// Every pod that was described and not forgotten, whoever did it.
    pub fn described(&self) -> Result<BTreeMap<CgroupId, PodRecord>, DatapathError> {
        self.pod_records.read()
    }
}

impl PodRecord {
    fn entry(&self) -> PodEntry {
        PodEntry {
            netns_cookie: self.netns_cookie,
            state: self.state.code(),
            unused: 0,
            uid: field(&self.uid),
            namespace: field(&self.namespace),
            name: field(&self.name),
            note: field(&self.note),
        }
    }

    /// None for a state that this version does not know.
    fn read(entry: &PodEntry) -> Option<Self> {
        Some(Self {
            uid: text(&entry.uid),
            namespace: text(&entry.namespace),
            name: text(&entry.name),
            netns_cookie: entry.netns_cookie,
            state: PodState::from_code(entry.state)?,
            note: text(&entry.note),
        })
    }
}

fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut end = text.len().min(N);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(text.bytes().take(end)) {
        *to = from;
    }
    field
}

fn text(field: &[u8]) -> String {
    let text = field.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = PodRecord {
            uid: "0d6f7a3c-9f6e-4b0e-8f0a-0d8e6a1f2b3c".to_owned(),
            namespace: "n".repeat(63),
            name: "p".repeat(253),
            netns_cookie: 4711,
            state: PodState::EnrolledWithMistake,
            note: "\"10.0.0.0/33\" has a wrong prefix length".to_owned(),
        };
        assert_eq!(PodRecord::read(&record.entry()), Some(record.clone()));
        assert_eq!(PodRecord::read(&PodEntry { state: 0, ..record.entry() }), None);
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(text(&field::<8>("12345678")), "12345678");
        assert_eq!(text(&field::<8>("123456789")), "12345678");
        assert_eq!(text(&field::<8>("1234567ü")), "1234567");
        assert_eq!(text(&field::<8>("")), "");
    }
}
