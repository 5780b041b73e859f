//! What can go wrong between agent and kernel; each says what is missing and how to mend it.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error(
        "loading kernel programs, and reading their maps, needs {missing}: run as root, or with these capabilities"
    )]
    Privilege { missing: String },
    #[error("this kernel is {release}, but 5.15 or newer is needed: upgrade the kernel")]
    KernelVersion { release: String },
    #[error("the kernel refuses bpf(2) although the capabilities are there: {hint}")]
    Forbidden { hint: &'static str, source: Box<EbpfError> },
    #[error("this kernel is built without CONFIG_BPF_SYSCALL: use one that has it")]
    NoBpf { source: io::Error },
    #[error("the kernel could not load the maps and programs (it needs CONFIG_CGROUP_BPF and BTF): {source}")]
    Load { source: Box<EbpfError> },
    #[error(
        "the kernel's verifier refuses program {program}; please report this with the kernel's version ({release})"
    )]
    Program { program: String, release: String, source: Box<ProgramError> },
    #[error(
        "there is not enough for loading program {program}: raise the limit of memory (memory.max) or of open files"
    )]
    Exhausted { program: String, source: Box<ProgramError> },
    #[error(
        "this process gets signals or is stopped, again and again, while {what}: start it again when that has ended"
    )]
    Interrupted { what: String },
    #[error(
        "the BPF object has no {name}: it does not belong to this binary; rebuild it with `cargo xtask ebpf`"
    )]
    Missing { name: String },
    #[error("map {name} is not what this binary expects; rebuild the BPF object with `cargo xtask ebpf`")]
    Map { name: &'static str, source: MapError },
    #[error("can't attach {program} to the cgroup{hint}")]
    Attach { program: &'static str, hint: String, source: io::Error },
    #[error("can't write map {name}: {hint}")]
    Write { name: &'static str, hint: &'static str, source: MapError },
    #[error(
        "its policy speaks of {own} {what}, more than its part of those that map {name} holds for all pods of this node: shorten its lists"
    )]
    NoRoom { name: &'static str, own: usize, what: &'static str },
    #[error("can't read map {name}")]
    Read { name: &'static str, source: MapError },
    #[error(
        "{} is not on a bpf file system, where maps and links live on: mount one with `mount -t bpf bpf /sys/fs/bpf`, or name another directory", path.display()
    )]
    NoBpfFs { path: PathBuf },
    #[error("can't use the pin {}", path.display())]
    Pin { path: PathBuf, source: io::Error },
    #[error(
        "the pinned map {} is of another version of the interceptor: it is {found}, but this one needs {expected}; run that version, or remove everything it pinned with `interceptor cleanup`", path.display()
    )]
    Shape { path: PathBuf, found: String, expected: String },
    #[error(
        "can't read the pinned map {}: it may be of another version of the interceptor; look with the version whose agent runs here", path.display()
    )]
    PinnedMap { path: PathBuf, source: MapError },
    #[error("nothing is pinned in {}: no agent has run here, or `interceptor cleanup` has; name another directory with --pins", path.display())]
    NothingPinned { path: PathBuf },
    #[error("what is pinned in {} is of schema {found}, and this version reads {expected}: look with the version whose agent runs here", path.display())]
    OtherSchema { path: PathBuf, found: String, expected: String },
    #[error("can't enter the pods' network namespaces, which needs CAP_SYS_ADMIN")]
    Namespaces(#[source] io::Error),
    #[error("the kernel does not list sockets (it needs CONFIG_INET_DIAG)")]
    Sockets(#[source] io::Error),
    #[error("this datapath was loaded without pins")]
    NotPinned,
    #[error("a gate needs settings first: without them it would hold the node itself")]
    NoSettings,
    #[error("can't identify the cgroup")]
    Cgroup(#[source] io::Error),
    #[error("network namespace {netns_cookie} is not enrolled")]
    NotEnrolled { netns_cookie: u64 },
    #[error("can't watch the event buffer")]
    Events(#[source] io::Error),
}

impl DatapathError {
    /// Whether nothing is wrong but that the cgroup has been removed meanwhile, as happens to a pod that ends.
    pub fn cgroup_is_gone(&self) -> bool {
        matches!(self, Self::Attach { source, .. } if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)))
    }
}
