//! Istio's own formats, and the names of Envoy's operators and of headers that records have.

use super::{Address, ClientFact, ClientTlsFact, Header, Operator, Part};

/// Istio's `EnvoyTextLogFormat` (pilot/pkg/model/telemetry_logging.go), since 1.9.
pub const DEFAULT_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's `EnvoyJSONLogFormatIstio`.
pub const DEFAULT_JSON: &str = r#"{
    "start_time": "%START_TIME%", "route_name": "%ROUTE_NAME%", "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%", "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%", "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%", "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%", "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%", "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%"
}"#;

pub(super) const OPERATORS: [(&str, Operator); 23] = [
    ("PROTOCOL", Operator::Protocol),
    ("RESPONSE_CODE", Operator::ResponseCode),
    ("RESPONSE_CODE_DETAILS", Operator::ResponseCodeDetails),
    ("RESPONSE_FLAGS", Operator::ResponseFlags),
    ("CONNECTION_TERMINATION_DETAILS", Operator::ConnectionTerminationDetails),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Operator::UpstreamTransportFailureReason),
    ("DOWNSTREAM_TRANSPORT_FAILURE_REASON", Operator::DownstreamTransportFailureReason),
    ("DOWNSTREAM_TLS_VERSION", Operator::ClientTls(ClientTlsFact::Version)),
    ("DOWNSTREAM_PEER_SUBJECT", Operator::ClientTls(ClientTlsFact::Subject)),
    ("DOWNSTREAM_PEER_ISSUER", Operator::ClientTls(ClientTlsFact::Issuer)),
    ("DOWNSTREAM_PEER_SERIAL", Operator::ClientTls(ClientTlsFact::Serial)),
    ("DOWNSTREAM_PEER_FINGERPRINT_256", Operator::ClientTls(ClientTlsFact::Fingerprint)),
    ("DOWNSTREAM_PEER_URI_SAN", Operator::ClientTls(ClientTlsFact::UriNames)),
    ("DOWNSTREAM_PEER_DNS_SAN", Operator::ClientTls(ClientTlsFact::DnsNames)),
    ("BYTES_RECEIVED", Operator::BytesReceived),
    ("BYTES_SENT", Operator::BytesSent),
    ("DURATION", Operator::Duration),
    ("UPSTREAM_CLUSTER", Operator::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", Operator::UpstreamCluster),
    ("REQUESTED_SERVER_NAME", Operator::RequestedServerName),
    ("ROUTE_NAME", Operator::RouteName),
    ("UPSTREAM_HOST", Operator::Address(Address::Upstream, Part::Whole)),
    ("START_TIME", Operator::StartTime(None)),
];

const ADDRESSES: [(&str, Address); 5] = [
    ("UPSTREAM_REMOTE", Address::Upstream),
    ("UPSTREAM_LOCAL", Address::UpstreamLocal),
    ("DOWNSTREAM_LOCAL", Address::DownstreamLocal),
    ("DOWNSTREAM_REMOTE", Address::DownstreamRemote),
    ("DOWNSTREAM_DIRECT_REMOTE", Address::DownstreamRemote),
];

/// Under which Istio's proxies keep what they know of a client, by version (istio/proxy: metadata_object.h).
const CLIENT: [&str; 2] = ["downstream_peer", "downstream_peer_obj"];

/// Istio's fields of it, and the service account.
const CLIENT_FACTS: [(&str, ClientFact); 9] = [
    ("namespace", ClientFact::Namespace),
    ("name", ClientFact::Pod),
    ("service_account", ClientFact::ServiceAccount),
    ("workload", ClientFact::Workload),
    ("service", ClientFact::CanonicalService),
    ("revision", ClientFact::CanonicalRevision),
    ("app", ClientFact::App),
    ("version", ClientFact::Version),
    ("cluster", ClientFact::Cluster),
];

/// Beginnings of Envoy's operators that have no value here.
pub(super) const UNKNOWN: [&str; 34] = [
    "ACCESS_LOG_TYPE",
    "BYTES_RETRANSMITTED",
    "CEL",
    "CLUSTER_METADATA",
    "COMMON_DURATION",
    "CONNECTION_ID",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_",
    "DYNAMIC_METADATA",
    "EMIT_TIME",
    "ENVIRONMENT",
    "FILTER_CHAIN_NAME",
    "FILTER_STATE",
    "GRPC_STATUS",
    "HOSTNAME",
    "LOCAL_REPLY_BODY",
    "METADATA",
    "PACKETS_RETRANSMITTED",
    "PATH",
    "QUERY_PARAM",
    "REQUEST_",
    "RESPONSE_DURATION",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "RESPONSE_TX_DURATION",
    "ROUNDTRIP_DURATION",
    "STREAM_ID",
    "TLS_JA",
    "TRACE_ID",
    "TRAILER",
    "UNIQUE_ID",
    "UPSTREAM_",
    "VIRTUAL_CLUSTER_NAME",
];

/// `downstream_peer:FIELD:NAME`.
pub(super) fn client_fact(state: &str) -> Option<ClientFact> {
    let (_, name) = state.split_once(":FIELD:").filter(|(state, _)| CLIENT.contains(state))?;
    CLIENT_FACTS.iter().find(|(known, _)| *known == name).map(|(_, fact)| *fact)
}

pub(super) fn request_header(name: &str) -> Option<Header> {
    Some(match name.to_ascii_lowercase().as_str() {
        ":method" => Header::Method,
        ":path" => Header::Path,
        ":authority" | "host" => Header::Authority,
        "user-agent" => Header::UserAgent,
        "x-forwarded-for" => Header::ForwardedFor,
        "x-request-id" => Header::RequestId,
        // The path is the original one always; a client's header is not.
        "x-envoy-original-path" | ":scheme" => Header::Never,
        name => Header::Other(name.parse().ok()?),
    })
}

pub(super) fn response_header(name: &str) -> Option<Header> {
    Some(match name.to_ascii_lowercase().as_str() {
        ":status" => Header::Status,
        "x-envoy-upstream-service-time" => Header::UpstreamServiceTime,
        name => Header::Other(name.parse().ok()?),
    })
}

pub(super) fn address(name: &str) -> Option<Operator> {
    ADDRESSES.iter().find_map(|(beginning, address)| {
        let part = match name.strip_prefix(beginning)? {
            "_ADDRESS" => Part::Whole,
            "_ADDRESS_WITHOUT_PORT" => Part::WithoutPort,
            "_PORT" => Part::Port,
            _ => return None,
        };
        Some(Operator::Address(*address, part))
    })
}
