//! What the agent knows of a pod, for whoever looks at the maps while no agent runs. Programs don't read it.

/// What became of a pod. The codes are what the map holds: never reuse one.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PodState {
    Enrolled = 1,
    /// What the pod says now can't be read, so what it said before holds.
    EnrolledWithMistake = 2,
    /// It should be enrolled, and is not yet.
    Pending = 3,
    NotSelected = 4,
    OptedOut = 5,
    HostNetwork = 16,
    Sandboxed = 17,
    OwnSidecar = 18,
}

impl PodState {
    pub const ALL: [Self; 8] = [
        Self::Enrolled,
        Self::EnrolledWithMistake,
        Self::Pending,
        Self::NotSelected,
        Self::OptedOut,
        Self::HostNetwork,
        Self::Sandboxed,
        Self::OwnSidecar,
    ];

    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    pub const fn code(self) -> u32 {
        self as u32
    }

    /// As metrics and JSON spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::EnrolledWithMistake => "enrolled_with_mistake",
            Self::Pending => "pending",
            Self::NotSelected => "not_selected",
            Self::OptedOut => "opted_out",
            Self::HostNetwork => "host_network",
            Self::Sandboxed => "sandboxed",
            Self::OwnSidecar => "own_sidecar",
        }
    }

    /// As a person reads it.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Enrolled => "its connections are intercepted",
            Self::EnrolledWithMistake => "intercepted as its annotations said before the last mistake",
            Self::Pending => "it is to be enrolled, and is not yet",
            Self::NotSelected => "its namespace is not enrolled",
            Self::OptedOut => "the pod opts out",
            Self::HostNetwork => "not interceptable: it shares the network of the node",
            Self::Sandboxed => "not interceptable: its sandbox has a kernel of its own",
            Self::OwnSidecar => "left alone: it has a sidecar of its own",
        }
    }
}

/// The value of one entry of PODS, found by the id of the pod's cgroup. Texts end at the first zero, or fill their
/// field; what is too long is cut.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// Of the pod's network namespace; 0: not known, or not the pod's own.
    pub netns_cookie: u64,
    pub state: u32,
    pub unused: u32,
    pub uid: [u8; 48],
    /// At most 63 bytes, as Kubernetes has it.
    pub namespace: [u8; 64],
    /// At most 253 bytes, as Kubernetes has it.
    pub name: [u8; 256],
    /// The mistake, or whatever else there is to say of the state.
    pub note: [u8; 256],
}

const _: () = assert!(size_of::<PodEntry>() == 640);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_and_names_are_distinct_and_found_again() {
        let codes: BTreeSet<_> = PodState::ALL.iter().map(|state| state.code()).collect();
        let names: BTreeSet<_> = PodState::ALL.iter().map(|state| state.name()).collect();
        assert_eq!((codes.len(), names.len()), (PodState::ALL.len(), PodState::ALL.len()));
        for state in PodState::ALL {
            assert_eq!(PodState::from_code(state.code()), Some(state));
        }
        assert_eq!(PodState::from_code(0), None);
    }
}
