//! The embedded object: which program sits where, and loading all of them.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData, MapError},
    programs::{Program, ProgramError},
};

use super::{Datapath, DatapathError, pins::Pins, preflight};

/// Built from interceptor-ebpf by `cargo xtask ebpf`, and committed so that users need no BPF toolchain.
#[cfg(not(feature = "log"))]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../interceptor-ebpf/bpf/interceptor.bpf.o"
));

/// Built by `cargo xtask ebpf --log`.
#[cfg(feature = "log")]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../interceptor-ebpf/target/interceptor-log.bpf.o"
));

/// How long signals may keep a program from being loaded.
const INTERRUPTED_MAX: Duration = Duration::from_secs(30);

pub(super) const WORKLOAD: &[&str] = &[
    // In front of the hooks that redirect, so that no redirected connection misses its hand-over.
    "sock_ops",
    "getpeername4",
    "getpeername6",
    "getsockname4",
    "getsockname6",
    "bind4",
    "bind6",
    "astray_egress",
    "connect4",
    "connect6",
];
/// On the common ancestor of all pods.
pub(super) const GATE: &[&str] = &["gate_connect4", "gate_connect6"];
/// Besides, on an enforced workload, and attached before all others: it judges what the application asked for, before a
/// hook of ours turns it elsewhere.
pub(super) const GUARD: &[&str] = &[
    "guard_egress",
    "guard_connect4",
    "guard_connect6",
    "guard_sendmsg4",
    "guard_sendmsg6",
    "guard_sock_create",
];
/// Besides, on a workload whose DNS is captured.
pub(super) const DNS: &[&str] = &[
    // In front of those that send queries to the relay, so that no answer shows it.
    "dns_recvmsg4",
    "dns_recvmsg6",
    "dns_getpeername4",
    "dns_getpeername6",
    "dns_sendmsg4",
    "dns_sendmsg6",
    "dns_connect4",
    "dns_connect6",
];
pub(super) const LISTENER: &[&str] = &["sock_ops"];
pub(super) const ORIGINAL_DST: &[&str] = &["sock_ops", "original_dst"];

/// The maps that outlive an agent. Not among them: EVENTS, which one process reads.
pub(super) const PINNED: &[&str] = &[
    "WORKLOADS",
    "PREFIXES",
    "PORTS",
    "COUNTERS",
    "HANDOVERS",
    "HANDOVERS_OPEN",
    "HANDOVERS_ALL",
    "NAME_SERVERS",
    "CONNECTING",
    "ACCEPTED",
    "GUARDED",
    "SETTINGS",
    "HEARTBEAT",
    "LEFT_ALONE",
    "PODS",
];

/// Every program that a pinned link may run, in the order in which they are attached.
pub(super) fn pinned_programs() -> Vec<&'static str> {
    [GUARD, WORKLOAD, DNS, GATE].concat()
}

/// The maps of the object; with `pins` those that are pinned there, and what is missing is made and pinned.
pub(super) fn make_maps(pins: Option<&Pins>) -> Result<Ebpf, DatapathError> {
    make_maps_told(pins, VerifierLogLevel::STATS)
}

/// As [`make_maps`]; of a program that is refused the kernel tells as much as `told` says.
fn make_maps_told(pins: Option<&Pins>, told: VerifierLogLevel) -> Result<Ebpf, DatapathError> {
    if knows_less_than_kernel() {
        return Err(DatapathError::Interrupted { what: "what the kernel can do is looked at".to_owned() });
    }
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(told);
    if let Some(pins) = pins {
        for name in PINNED {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader.load(OBJECT).map_err(explain)
}

/// Whether aya takes this kernel for an older one than it is. It tries once in a process, by loading small programs, and
/// one that a signal kept from being loaded is to it one that the kernel does not know.
pub fn knows_less_than_kernel() -> bool {
    let known = aya::features();
    // No signal keeps BTF from being loaded: without it nothing may be loaded here.
    known.btf().is_some() && !(known.bpf_name() && known.bpf_global_data())
}

/// Maps and programs.
pub(super) fn load(pins: Option<&Pins>) -> Result<Ebpf, DatapathError> {
    let mut ebpf = make_maps(pins)?;
    for (name, program) in ebpf.programs_mut() {
        let Err(error) = load_uninterrupted(program) else { continue };
        if is_interruption(&error) {
            return Err(DatapathError::Interrupted { what: format!("the kernel verifies program {name}") });
        }
        if is_exhaustion(&error) {
            return Err(DatapathError::Exhausted { program: name.to_owned(), source: Box::new(error) });
        }
        let source = Box::new(words_of_verifier(name).unwrap_or(error));
        return Err(DatapathError::Program {
            program: name.to_owned(),
            release: preflight::kernel_release(),
            source,
        });
    }
    #[cfg(feature = "log")]
    super::log::follow(&mut ebpf)?;
    Ok(ebpf)
}

/// Loads a program again that a signal has kept from being verified: EAGAIN, which is what a terminal that changes its
/// size, an ended child or a process that was stopped meanwhile come to. libbpf does the same, five times at most.
/// aya loads what has failed once more for the verifier's words, which must not be many: they take longer than the
/// verifying, and so would be broken off again and again.
fn load_uninterrupted(program: &mut Program) -> Result<(), ProgramError> {
    let started = Instant::now();
    loop {
        match load_program(program) {
            Err(error) if is_interruption(&error) && started.elapsed() < INTERRUPTED_MAX => {}
            other => return other,
        }
    }
}

fn is_interruption(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EAGAIN))
}

/// Nothing is wrong with the program, and the verifier has nothing to say.
fn is_exhaustion(error: &ProgramError) -> bool {
    let ProgramError::LoadError { io_error, .. } = error else { return false };
    matches!(io_error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// All that the verifier says of a program that it refuses.
fn words_of_verifier(name: &str) -> Option<ProgramError> {
    let mut ebpf = make_maps_told(None, VerifierLogLevel::default()).ok()?;
    load_uninterrupted(ebpf.program_mut(name)?).err().filter(|error| !is_interruption(error))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "aya lists every program type; the object has five")]
fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

impl Datapath {
    /// How many instructions the verifier followed in each program, by name: what loading costs, and how far it is
    /// from the verifier's limit. Kernels before 5.16 don't tell, and are left out.
    pub fn verified_instructions(&self) -> Result<BTreeMap<String, u32>, DatapathError> {
        let mut counts = BTreeMap::new();
        for (name, program) in self.ebpf.programs() {
            let info = program.info().map_err(|error| DatapathError::Program {
                program: name.to_owned(),
                release: preflight::kernel_release(),
                source: Box::new(error),
            })?;
            counts.extend(info.verified_instruction_count().map(|count| (name.to_owned(), count)));
        }
        Ok(counts)
    }
}

/// Where maps come from.
pub(super) enum Maps<'a> {
    /// What we have just loaded.
    Object(&'a mut Ebpf),
    /// What is pinned, for who only looks.
    Pinned(&'a Pins),
}

impl Maps<'_> {
    /// The map `name`, into the hands of its one owner.
    pub(super) fn take<M>(&mut self, name: &'static str) -> Result<M, DatapathError>
    where
        M: TryFrom<Map, Error = MapError>,
    {
        match self {
            Self::Object(ebpf) => {
                let map =
                    ebpf.take_map(name).ok_or_else(|| DatapathError::Missing { name: name.to_owned() })?;
                M::try_from(map).map_err(|source| DatapathError::Map { name, source })
            }
            Self::Pinned(pins) => {
                let path = pins.map(name);
                // The conversion compares the sizes that the kernel tells with those of our types.
                let map = MapData::from_pin(&path).and_then(Map::from_map_data).and_then(M::try_from);
                map.map_err(|source| DatapathError::PinnedMap { path, source })
            }
        }
    }
}

/// A second handle to the same map, for whoever reads it on another thread.
pub(super) fn duplicate<M>(name: &'static str, map: &MapData) -> Result<M, DatapathError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let duplicated = map.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError);
    let data = duplicated.and_then(MapData::from_fd).and_then(Map::from_map_data);
    data.and_then(M::try_from).map_err(|source| DatapathError::Map { name, source })
}

fn explain(error: EbpfError) -> DatapathError {
    let source = Box::new(error);
    let forbidden = errno(&*source) == Some(libc::EPERM);
    if forbidden {
        let hint = "a container or sandbox forbids it; run outside, or in a privileged container";
        return DatapathError::Forbidden { hint, source };
    }
    DatapathError::Load { source }
}

/// The system call's error at the bottom of a chain.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}
