//! Every map, with its capacity. Keys and values are interceptor-common's; the agent writes what programs only read.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, PerCpuHashMap, RingBuf},
};
use interceptor_common::{
    addr::Ip16,
    name_server::NameServerKey,
    pod::PodEntry,
    policy::{
        Connecting, CounterKey, HANDOVERS_MAX, HandoverKey, OriginalDestination, PORTS_MAX, PREFIXES_MAX,
        PortFlags, PortKey, PrefixFlags, PrefixKey, WorkloadEntry,
    },
    settings::Settings,
};

const WORKLOADS_MAX: u32 = 4096;

/// Agent → programs: workloads by network namespace cookie.
#[map]
pub static WORKLOADS: HashMap<u64, WorkloadEntry> =
    HashMap::with_max_entries(WORKLOADS_MAX, BPF_F_NO_PREALLOC);

/// Agent → programs: what the policies say about addresses.
#[map]
pub static PREFIXES: LpmTrie<PrefixKey, PrefixFlags> =
    LpmTrie::with_max_entries(PREFIXES_MAX, BPF_F_NO_PREALLOC);

/// Agent → programs: what the policies say about ports.
#[map]
pub static PORTS: HashMap<PortKey, PortFlags> = HashMap::with_max_entries(PORTS_MAX, BPF_F_NO_PREALLOC);

/// Agent → programs: one entry.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Agent → programs: when the agent was last alive, in nanoseconds of CLOCK_MONOTONIC. One entry.
#[map]
pub static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);

/// Agent → programs: the cgroups of pods that are not ours, which the gate lets be.
#[map]
pub static LEFT_ALONE: HashMap<u64, u32> = HashMap::with_max_entries(WORKLOADS_MAX, BPF_F_NO_PREALLOC);

/// Agent → whoever looks: pods by cgroup id. No program reads it.
#[map]
pub static PODS: HashMap<u64, PodEntry> = HashMap::with_max_entries(WORKLOADS_MAX, BPF_F_NO_PREALLOC);

/// Programs → agent: connections per workload and reason.
#[map]
pub static COUNTERS: PerCpuHashMap<CounterKey, u64> =
    PerCpuHashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// Programs → agent. Its size bounds the rate of events; what does not fit is counted.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// Connections between TCP_CONNECT and PASSIVE_ESTABLISHED.
#[map]
pub static HANDOVERS: HashMap<HandoverKey, OriginalDestination> =
    HashMap::with_max_entries(HANDOVERS_MAX, BPF_F_NO_PREALLOC);

/// How many entries of HANDOVERS each network namespace holds, so that one workload can't fill it for the others.
#[map]
pub static HANDOVERS_OPEN: HashMap<u64, u64> = HashMap::with_max_entries(WORKLOADS_MAX, BPF_F_NO_PREALLOC);

/// How many entries HANDOVERS has, so that several workloads together can't fill it either. One entry.
#[map]
pub static HANDOVERS_ALL: Array<u64> = Array::with_max_entries(1, 0);

/// Programs → agent: the name servers that workloads whose DNS is captured have asked, each in the slot that its stand-in
/// on loopback names. An entry stays as it is.
#[map]
pub static NAME_SERVERS: HashMap<NameServerKey, Ip16> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// Storage of connecting sockets.
#[btf_map]
pub static CONNECTING: SkStorage<Connecting> = SkStorage::new();

/// Storage of accepted sockets: what the agent reads by file descriptor.
#[btf_map]
pub static ACCEPTED: SkStorage<OriginalDestination> = SkStorage::new();

/// Storage of the sockets of guarded workloads: the network namespace's cookie, for packets, whose programs can't ask for
/// it before Linux 6.15.
#[btf_map]
pub static GUARDED: SkStorage<u64> = SkStorage::new();
