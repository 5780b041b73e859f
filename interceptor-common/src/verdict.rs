//! What is decided about a connection, and why: one vocabulary for programs, counters, `explain` and docs.

/// What came of a connection, for those who count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    Redirected,
    Bypassed,
    Refused,
    /// Let through because nobody has decided about the pod yet.
    Undecided,
    /// None of a connection's: an event was lost.
    EventDropped,
}

impl Effect {
    /// As metrics and JSON spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::Bypassed => "bypassed",
            Self::Refused => "refused",
            Self::Undecided => "undecided",
            Self::EventDropped => "event_dropped",
        }
    }
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The kernel carries it as if we were not there.
    Bypass(Reason),
    /// It goes to the workload's listener.
    Redirect(Reason),
    /// The call fails.
    Deny(Reason),
}

/// Why. The codes are what maps and events hold: never reuse one.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    ExcludedPort = 1,
    Loopback = 2,
    Unspecified = 3,
    Multicast = 4,
    LinkLocal = 5,
    OwnAddress = 6,
    ExcludedRange = 7,
    NotIncluded = 8,
    NameServersFull = 9,
    NameServerBoundToDevice = 10,
    AgentDown = 11,
    UndecidedAllowed = 12,
    OwnNameServer = 13,
    ExcludedInterface = 14,

    IncludedPort = 16,
    IncludedRange = 17,
    NameServer = 18,
    Enforced = 19,

    UnknownWorkload = 32,
    NoRoute = 33,
    NoListener = 34,
    HandoverFull = 35,
    OutOfMemory = 36,
    BoundToDevice = 37,
    ListenerPort = 38,
    PolicyMissing = 39,
    UndecidedRefused = 40,
    EnforcedProtocol = 41,
    EnforcedDatagram = 42,
    EnforcedQuic = 43,
    EnforcedNameServer = 44,
    EnforcedPacket = 45,
    AstrayPacket = 46,

    EventDropped = 48,
}

impl Reason {
    pub const ALL: [Self; 34] = [
        Self::ExcludedPort,
        Self::Loopback,
        Self::Unspecified,
        Self::Multicast,
        Self::LinkLocal,
        Self::OwnAddress,
        Self::ExcludedRange,
        Self::NotIncluded,
        Self::NameServersFull,
        Self::NameServerBoundToDevice,
        Self::AgentDown,
        Self::UndecidedAllowed,
        Self::OwnNameServer,
        Self::ExcludedInterface,
        Self::IncludedPort,
        Self::IncludedRange,
        Self::NameServer,
        Self::Enforced,
        Self::UnknownWorkload,
        Self::NoRoute,
        Self::NoListener,
        Self::HandoverFull,
        Self::OutOfMemory,
        Self::BoundToDevice,
        Self::ListenerPort,
        Self::PolicyMissing,
        Self::UndecidedRefused,
        Self::EnforcedProtocol,
        Self::EnforcedDatagram,
        Self::EnforcedQuic,
        Self::EnforcedNameServer,
        Self::EnforcedPacket,
        Self::AstrayPacket,
        Self::EventDropped,
    ];

    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    #[inline(always)]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// As metrics and JSON spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExcludedPort => "excluded_port",
            Self::Loopback => "loopback",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::LinkLocal => "link_local",
            Self::OwnAddress => "own_address",
            Self::ExcludedRange => "excluded_range",
            Self::NotIncluded => "not_included",
            Self::NameServersFull => "name_servers_full",
            Self::NameServerBoundToDevice => "name_server_bound_to_device",
            Self::AgentDown => "agent_down",
            Self::UndecidedAllowed => "undecided_allowed",
            Self::OwnNameServer => "own_name_server",
            Self::ExcludedInterface => "excluded_interface",
            Self::IncludedPort => "included_port",
            Self::IncludedRange => "included_range",
            Self::NameServer => "name_server",
            Self::Enforced => "enforced",
            Self::UnknownWorkload => "unknown_workload",
            Self::NoRoute => "no_route",
            Self::NoListener => "no_listener",
            Self::HandoverFull => "handover_full",
            Self::OutOfMemory => "out_of_memory",
            Self::BoundToDevice => "bound_to_device",
            Self::ListenerPort => "listener_port",
            Self::PolicyMissing => "policy_missing",
            Self::UndecidedRefused => "undecided_refused",
            Self::EnforcedProtocol => "enforced_protocol",
            Self::EnforcedDatagram => "enforced_datagram",
            Self::EnforcedQuic => "enforced_quic",
            Self::EnforcedNameServer => "enforced_name_server",
            Self::EnforcedPacket => "enforced_packet",
            Self::AstrayPacket => "astray_packet",
            Self::EventDropped => "event_dropped",
        }
    }

    /// As a person reads it.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::ExcludedPort => "the port is one of the excluded outbound ports",
            Self::Loopback => "the destination is a loopback address",
            Self::Unspecified => "the unspecified address means this host",
            Self::Multicast => "the destination is a multicast address",
            Self::LinkLocal => "the destination is a link-local address",
            Self::OwnAddress => "the destination is the workload's own address",
            Self::ExcludedRange => "the destination is in an excluded outbound IP range",
            Self::NotIncluded => "neither its port nor its IP range is included",
            Self::NameServersFull => "more name servers are asked than can be told apart",
            Self::NameServerBoundToDevice => "the name server is asked from a socket bound to a device",
            Self::AgentDown => "the agent is down, and is to be passed by then",
            Self::UndecidedAllowed => "the pod is not decided yet, and is let through meanwhile",
            Self::OwnNameServer => "it goes to a name server of the workload's own",
            Self::ExcludedInterface => "the workload's routes lead there by an excluded interface",
            Self::IncludedPort => "the port is one of the included outbound ports",
            Self::IncludedRange => "the destination is in an included outbound IP range",
            Self::NameServer => "the datagram is for a name server, and DNS is captured",
            Self::Enforced => "the workload is enforced: all that leaves it goes through the proxy",
            Self::UnknownWorkload => "the socket's network namespace is not enrolled",
            Self::NoRoute => "the workload has no address of this IP family, so no route either",
            Self::NoListener => "the proxy has no listener for this IP family",
            Self::HandoverFull => "too many of the workload's connections wait to be accepted",
            Self::OutOfMemory => "the kernel had no memory for the connection's original destination",
            Self::BoundToDevice => "the socket is bound to a device and its owner may not unbind it",
            Self::ListenerPort => "the port belongs to the proxy's listener",
            Self::PolicyMissing => "the workload's policy was replaced twice while it was asked",
            Self::UndecidedRefused => "the pod is not decided yet, and is held meanwhile",
            Self::EnforcedProtocol => {
                "the workload is enforced, and sockets of this kind go around the proxy"
            }
            Self::EnforcedDatagram => "the workload is enforced, and UDP goes around the proxy",
            Self::EnforcedQuic => "the workload is enforced, and QUIC goes around the proxy: TCP does not",
            Self::EnforcedNameServer => "the workload is enforced, and the name server is none of its own",
            Self::EnforcedPacket => {
                "the workload is enforced, and the packet was about to leave around the proxy"
            }
            Self::AstrayPacket => "a TCP connection was about to leave for elsewhere than its address says",
            Self::EventDropped => "the event buffer was full",
        }
    }

    pub const fn effect(self) -> Effect {
        match self {
            Self::IncludedPort | Self::IncludedRange | Self::NameServer | Self::Enforced => {
                Effect::Redirected
            }
            Self::ExcludedPort
            | Self::Loopback
            | Self::Unspecified
            | Self::Multicast
            | Self::LinkLocal
            | Self::OwnAddress
            | Self::ExcludedRange
            | Self::NotIncluded
            | Self::NameServersFull
            | Self::NameServerBoundToDevice
            | Self::AgentDown
            | Self::OwnNameServer
            | Self::ExcludedInterface => Effect::Bypassed,
            Self::UnknownWorkload
            | Self::NoRoute
            | Self::NoListener
            | Self::HandoverFull
            | Self::OutOfMemory
            | Self::BoundToDevice
            | Self::ListenerPort
            | Self::PolicyMissing
            | Self::UndecidedRefused
            | Self::EnforcedProtocol
            | Self::EnforcedDatagram
            | Self::EnforcedQuic
            | Self::EnforcedNameServer
            | Self::EnforcedPacket
            | Self::AstrayPacket => Effect::Refused,
            Self::UndecidedAllowed => Effect::Undecided,
            Self::EventDropped => Effect::EventDropped,
        }
    }

    /// Whether a connection that ends so is worth an event: what policy or failure decided, not what is never ours.
    pub const fn is_reported(self) -> bool {
        match self {
            Self::Loopback | Self::Unspecified | Self::Multicast | Self::LinkLocal | Self::OwnAddress => {
                false
            }
            Self::IncludedPort | Self::IncludedRange | Self::NameServer | Self::EventDropped => false,
            Self::Enforced | Self::OwnNameServer | Self::EnforcedPacket | Self::AstrayPacket => false,
            Self::ExcludedPort | Self::ExcludedRange | Self::ExcludedInterface | Self::NotIncluded => true,
            Self::NameServersFull | Self::NameServerBoundToDevice => true,
            Self::AgentDown | Self::UndecidedAllowed | Self::UndecidedRefused => true,
            Self::UnknownWorkload | Self::NoRoute | Self::NoListener | Self::HandoverFull => true,
            Self::OutOfMemory | Self::BoundToDevice | Self::ListenerPort | Self::PolicyMissing => true,
            Self::EnforcedProtocol
            | Self::EnforcedDatagram
            | Self::EnforcedQuic
            | Self::EnforcedNameServer => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_and_names_are_distinct_and_found_again() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!((codes.len(), names.len()), (Reason::ALL.len(), Reason::ALL.len()));
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(Reason::from_code(0), None);
    }
}
