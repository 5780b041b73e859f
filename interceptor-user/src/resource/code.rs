//! What a finding is about, as a code that lasts: Istio's own where its analyzer has one (`IST…`), else ours
//! (`EGR…`). docs/analyze.md lists the same.

use super::diagnostic::Level;

/// One code.
#[derive(Debug)]
pub struct Code {
    pub id: &'static str,
    /// As most of its findings have it.
    pub level: Level,
    /// Istio's name of the message, or ours in its style.
    pub name: &'static str,
    /// In one line.
    pub means: &'static str,
    /// What happens at run time, unless the finding says it.
    pub effect: &'static str,
    /// How to mend it, unless the finding says it.
    pub mend: &'static str,
}

impl Code {
    /// The code with this id.
    pub fn find(id: &str) -> Option<&'static Self> {
        let index = ALL.binary_search_by_key(&id, |code| code.id).ok()?;
        ALL.get(index).copied()
    }
}

macro_rules! codes {
    ($($id:ident $level:ident $name:ident: $means:literal, $effect:literal, $mend:literal;)*) => {
        $(pub static $id: Code = Code {
            id: stringify!($id),
            level: Level::$level,
            name: stringify!($name),
            means: $means,
            effect: $effect,
            mend: $mend,
        };)*

        /// Every code, sorted by id.
        pub static ALL: &[&Code] = &[$(&$id),*];
    };
}

codes! {
    EGR0101 Error HttpOnPort443:
        "port 443 is declared as plain HTTP",
        "one listener takes the whole port by Host: HTTPS of applications to every host on 443 is not recognised",
        "declare protocol HTTPS (or TLS), or give the service an address of its own";
    EGR0102 Info UdpPort:
        "a port of protocol UDP",
        "UDP is not intercepted: this port does nothing",
        "remove the port";
    EGR0103 Warning NoEndpoints:
        "a service without a single endpoint",
        "requests get 503 (UH), connections are closed",
        "list endpoints, correct the selector, or use resolution DNS";
    EGR0104 Error TlsImpossible:
        "TLS is asked for that can't be made",
        "requests get 503: what asks for TLS is never sent in clear",
        "give certificates as files: clientCertificate, privateKey, caCertificates";
    EGR0105 Warning TlsInsideTls:
        "TLS is put around what applications encrypt already",
        "the server sees TLS inside TLS: WRONG_VERSION_NUMBER, or 400",
        "move tls to a subset that only the plain HTTP route names, or to portLevelSettings of the HTTP port";
    EGR0106 Warning BoundToGatewaysOnly:
        "a VirtualService for a registered host is bound to gateways and not to mesh",
        "requests of applications don't follow it: they go directly, without its timeouts, retries and routes",
        "add `mesh` to gateways, or leave gateways out";
    EGR0107 Warning ActsOnPort80Only:
        "a VirtualService has a host that no ServiceEntry or Service declares",
        "its http routes act on port 80 only, and only when some service has HTTP there; tls and tcp routes never act",
        "declare the host with a ServiceEntry";
    EGR0108 Info NotExported:
        "a resource is not exported to where the client is",
        "it does not act for this client",
        "widen exportTo, if it should";
    EGR0109 Error PortKept:
        "a route leads to another port of a service with resolution NONE and without targetPort",
        "connections keep the port that the application asked for: they never reach the other one",
        "use resolution DNS, or set targetPort on the port";
    EGR0110 Error TcpPortTaken:
        "two TCP services want the same port, and nothing tells them apart",
        "the older one (then by name) takes every connection, the other one never gets any",
        "give each an address of its own (addresses)";
    EGR0111 Error TerminatedTlsWithHttpRoutes:
        "a gateway terminates TLS on a port of protocol TLS, and its VirtualService has http routes",
        "there is no filter chain: nothing listens, connections to the gateway are refused (503 UF at the client's proxy)",
        "declare the gateway's port with protocol HTTPS";
    EGR0112 Error WrongRoutesForServer:
        "a gateway's server asks for another block of routes than its VirtualService has",
        "the server has no routes: connections are reset, or requests get 404",
        "write the block that the server's protocol and TLS mode ask for";
    EGR0113 Error ResolutionNoneAtGateway:
        "a gateway's route leads to a service with resolution NONE",
        "a gateway knows no original destination: with Istio's, requests get 503 (UH); ours looks the name up",
        "use resolution DNS";
    EGR0114 Warning OutboundPolicyWithoutMode:
        "outboundTrafficPolicy without mode",
        "the enum's zero is REGISTRY_ONLY: hosts that nobody declared are blocked",
        "write mode: REGISTRY_ONLY or mode: ALLOW_ANY";
    EGR0115 Error ServerFirstPortShared:
        "MONGO or MYSQL shares a port with another service",
        "the server may speak first, so that nothing tells them apart: the later one is left out",
        "give one of them an address of its own";
    EGR0116 Warning ServerNamesLeftOver:
        "tls routes replace a service's own and leave server names without a route",
        "those names are treated as unknown hosts on that port",
        "add a rule with the missing names to sniHosts";
    EGR0117 Error GatewayPortClash:
        "servers of one gateway workload can't share a port",
        "the later server is left out",
        "give it another port, or other hosts";
    EGR0118 Info NotRead:
        "a resource or a part of a file that is not read",
        "it changes nothing here",
        "nothing to do, if that is meant";
    EGR0119 Warning NotApplied:
        "a field of Istio's API that does not act here",
        "the message says what happens instead",
        "do without it, or keep Istio's proxy for what needs it";
    EGR0120 Warning RepeatedResource:
        "a resource stands twice",
        "the later one is used, as kubectl apply would have it",
        "remove one";
    EGR0121 Warning UnusedDelegate:
        "a VirtualService without hosts that nobody delegates to",
        "its routes act nowhere",
        "delegate to it, or give it hosts";
    EGR0122 Warning DestinationRuleLeftOut:
        "a part of a DestinationRule is left out: an older rule for the same host, namespace and exportTo has it, too",
        "the older rule's part (then by name) holds as a whole, this one changes nothing",
        "write both into one rule";
    EGR0123 Warning DelegateConflict:
        "a delegate's route matches what the route that delegates to it does not",
        "this route is left out there",
        "make every match a special case of one of those of the route that delegates";
    EGR0124 Error UnixEndpointRefused:
        "an endpoint is a unix socket that the agent was not allowed to connect to",
        "the endpoint is left out; where no other is left, requests get 503 (UH)",
        "use an address, or start the agent with --allow-unix-endpoints and the socket's directory, if all who write resources may have what its server gives";
    EGR0125 Warning ServerWithoutRoutes:
        "what a server of a Gateway takes leads nowhere: no VirtualService has routes for it, or no service the host that clients name",
        "nobody listens on its port, unless another server of the port has routes",
        "bind a VirtualService with routes of the right kind to the Gateway";
    EGR0126 Error GatewayRouteLeadsBack:
        "a route of a gateway leads to the gateway itself",
        "the gateway refuses it: 503 (UH), or a reset",
        "match gateways: [mesh] where it is meant for applications, and lead on by a route for the gateway";
    EGR0127 Warning AllowFromWithoutIdentity:
        "who may use a host is asked where nobody shows who he is",
        "the gateway refuses everybody: 403, or a reset (UAEX)",
        "use tls.mode ISTIO_MUTUAL for the server (protocol HTTPS or TLS), and for the gateway's Service in a DestinationRule";
    EGR0128 Warning AllowFromWithoutGateway:
        "who may use a host is never asked: no gateway leads there",
        "it keeps nobody out: workloads reach the hosts themselves",
        "lead the hosts through an egress gateway, and have pods use it (egress.interceptor.io/enforce: gateway)";
    IST0101 Error ReferencedResourceNotFound:
        "something that is referred to does not exist",
        "requests that are sent there get 503 (NC)",
        "declare it, or refer to what is there";
    IST0106 Error SchemaValidationError:
        "a value can't be used, or the text is not YAML",
        "the resource is left out; when it was good before, its last good form goes on acting",
        "write it as the message says";
    IST0107 Warning MisplacedAnnotation:
        "an annotation stands on a kind that it does nothing on",
        "it has no effect",
        "move it to where it is read, for a Deployment its pod template";
    IST0108 Warning UnknownAnnotation:
        "an annotation of istio.io or egress.interceptor.io that does not exist",
        "it has no effect",
        "correct its name";
    IST0109 Error ConflictingMeshGatewayVirtualServiceHosts:
        "two VirtualServices bound to mesh have the same host",
        "for HTTP only the older one (then by name) is asked",
        "merge them into one";
    IST0110 Error ConflictingSidecarWorkloadSelectors:
        "two Sidecars select the same workload",
        "the older one (then by name) holds for it",
        "make the selectors disjoint";
    IST0111 Error MultipleSidecarsWithoutWorkloadSelectors:
        "two Sidecars of a namespace have no workloadSelector",
        "the older one (then by name) holds, the other never does",
        "keep one, or give the other a workloadSelector";
    IST0112 Error VirtualServiceDestinationPortSelectorRequired:
        "a destination with several ports is named without a port",
        "the port of the connection is used: where the destination has no such port, requests get 503 (NC)",
        "name the port in the destination";
    IST0118 Info PortNameIsNotUnderNamingConvention:
        "the name of a Service's port tells no protocol",
        "the protocol is found out by the first bytes of each connection",
        "name it <protocol>[-suffix], for example http-web, or set appProtocol";
    IST0125 Warning InvalidAnnotation:
        "the value of an annotation can't be used",
        "Istio refuses to create the pod; here the pod's policy can't be made",
        "write it as the message says";
    IST0127 Warning NoMatchingWorkloadsFound:
        "a workloadSelector selects no workload",
        "the resource acts on nobody",
        "correct the labels";
    IST0128 Warning NoServerCertificateVerificationDestinationLevel:
        "the server's certificate is not verified",
        "anybody between can read and change what is sent; without insecureSkipVerify the system's CAs are used",
        "remove insecureSkipVerify; give caCertificates when the server's CA is none of the system's";
    IST0129 Warning NoServerCertificateVerificationPortLevel:
        "the server's certificate is not verified on a port",
        "anybody between can read and change what is sent; without insecureSkipVerify the system's CAs are used",
        "remove insecureSkipVerify; give caCertificates when the server's CA is none of the system's";
    IST0130 Warning VirtualServiceUnreachableRule:
        "a rule of a VirtualService is never reached",
        "earlier rules take everything that it matches",
        "remove it, or move it up";
    IST0131 Info VirtualServiceIneffectiveMatch:
        "a match is repeated in a later rule",
        "it never matches: the earlier rule takes it",
        "remove it";
    IST0132 Warning VirtualServiceHostNotFoundInGateway:
        "no server of the gateway has a host of the VirtualService",
        "the gateway does not use this VirtualService: requests get 404, TLS is reset",
        "add the host to a server of the gateway";
    IST0133 Warning SchemaWarning:
        "a field that does not exist, or a value that hardly means what it says",
        "the message says what becomes of it; the rest of the resource stands, unless another finding leaves it out",
        "write it as the message says";
    IST0134 Warning ServiceEntryAddressesRequired:
        "a TCP (or unset) port without addresses",
        "it takes every connection to any address on that port that nothing else does",
        "give it addresses";
    IST0135 Info DeprecatedAnnotation:
        "an annotation is deprecated",
        "it may stop working",
        "use what replaces it";
    IST0136 Info AlphaAnnotation:
        "an annotation is of an alpha feature",
        "it may change or go away",
        "nothing to do, if that is accepted";
    IST0138 Warning GatewayDuplicateCertificate:
        "two gateways use the same certificate",
        "clients that reuse an HTTP/2 connection for another host get 404",
        "use one gateway, or a certificate for each host";
    IST0140 Warning IngressRouteRulesNotAffected:
        "another VirtualService's subsets of the destination don't act behind a gateway",
        "the gateway sends to the destination as a whole",
        "name the subset in this VirtualService, too";
    IST0144 Warning InvalidApplicationUID:
        "a pod runs as user 1337",
        "with Istio's proxy it bypasses interception; here it does not",
        "run it as another user";
    IST0145 Error ConflictingGateways:
        "two Gateways have the same selector, port and hosts",
        "only one of them is used for these hosts",
        "merge them, or make the hosts disjoint";
    IST0150 Warning ExternalNameServiceTypeInvalidPortName:
        "a port of an ExternalName Service tells no protocol, or TCP",
        "it may take every connection on that port",
        "name the port http-…, https-… or tls-…";
    IST0161 Error InvalidGatewayCredential:
        "the secret of a gateway's server lacks what the server needs",
        "the server has no certificate: TLS is reset",
        "put tls.crt and tls.key (and ca.crt for MUTUAL) into the secret";
    IST0162 Warning GatewayPortNotDefinedOnService:
        "no Service of the gateway's pods has the port of a server",
        "the port can't be reached through the Service",
        "add the port to the Service";
    IST0165 Warning ReferencedInternalGateway:
        "a VirtualService names a gateway that Istio makes from the Gateway API",
        "the name is internal and may change",
        "attach an HTTPRoute to the Gateway API's gateway, or write a Gateway";
    IST0167 Warning IneffectivePolicy:
        "a resource that acts on proxies of pods selects pods in ambient mode",
        "it has no effect",
        "remove it, or take the workload out of ambient mode";
    IST0173 Error DestinationRuleSubsetNotSelectPods:
        "a subset's labels select no pod and no endpoint",
        "requests for the subset get 503 (UH)",
        "correct the labels; leave them out to select every endpoint";
    IST0174 Warning UnknownDestinationRuleHost:
        "a DestinationRule has a host that nothing declares",
        "the rule acts on nothing",
        "correct the host, with its namespace when it is a short name";
    IST0177 Warning ConflictingServiceEntryProtocol:
        "a host has one port with two protocols",
        "the protocol of the entry that comes first holds; HTTP and TCP on one port make the proxy find out by the first bytes",
        "declare one protocol";
}

#[cfg(test)]
mod tests {
    use super::{ALL, Code};

    #[test]
    fn codes_are_sorted_and_found() {
        assert!(ALL.is_sorted_by_key(|code| code.id));
        for code in ALL {
            assert!(std::ptr::eq(Code::find(code.id).expect("found"), *code));
        }
        assert!(Code::find("IST9999").is_none());
    }
}
