//! Mistakes in VirtualServices, DestinationRules and Gateways.

use crate::mistakes::{check, said};

fn virtual_service(spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: x}}\nspec:\n{spec}")
}

#[test]
fn virtual_services() {
    let route = "route: [{destination: {host: b}}]";
    for (spec, expected) in [
        (
            format!("  gateways: [mesh]\n  http: [{{{route}}}]"),
            "delegate virtual service must have no gateways specified",
        ),
        (
            format!("  tls: [{{match: [{{sniHosts: [b.com]}}], {route}}}]"),
            "delegate virtual service must have no tls route specified",
        ),
        (format!("  tcp: [{{{route}}}]"), "delegate virtual service must have no tcp route specified"),
        ("  http: [{delegate: {name: other}}]".into(), "delegate HTTP route cannot contain delegate"),
        (
            format!("  hosts: [a.com]\n  http: [{{name: n, delegate: {{name: other}}, {route}}}]"),
            "root HTTP route n must not specify route",
        ),
        (
            "  hosts: [a.com]\n  http: [{delegate: {name: other}, redirect: {uri: /}}]".into(),
            "must not specify redirect",
        ),
        ("  hosts: [a.com]\n  http: [{delegate: {}}]".into(), "which VirtualService is meant?"),
        ("  hosts: [a.com]".into(), "http, tcp or tls must be provided in virtual service"),
        (
            format!("  hosts: ['*']\n  http: [{{{route}}}]"),
            "wildcard host * is not allowed for virtual services bound to the mesh gateway",
        ),
        (
            format!("  hosts: [a.b.com, '*.b.com']\n  http: [{{{route}}}]"),
            "duplicate hosts in virtual service: a.b.com & *.b.com",
        ),
        (
            "  hosts: [a.com]\n  http: [{timeout: 3s}]".into(),
            "HTTP route, redirect or direct_response is required",
        ),
        (
            format!("  hosts: [a.com]\n  http: [{{{route}, redirect: {{uri: /}}}}]"),
            "HTTP route cannot contain both route and redirect",
        ),
        (
            format!("  hosts: [a.com]\n  http: [{{{route}, directResponse: {{status: 200}}}}]"),
            "HTTP route cannot contain both route and direct_response",
        ),
        (
            format!("  hosts: [a.com]\n  http: [{{{route}, timeout: 3}}]"),
            "spec.http[0].timeout: expected a duration such as 3s, 100ms or 1h30m, found the number 3",
        ),
        (
            format!("  hosts: [a.com]\n  http: [{{{route}, timeout: 1us}}]"),
            "duration must be greater than 1ms",
        ),
        (
            format!(
                "  hosts: [a.com]\n  http: [{{{route}, retries: {{attempts: 1, retryOn: 'connect-failure,nonsense'}}}}]"
            ),
            "nonsense is not a valid retryOn value",
        ),
        (
            format!("  hosts: [a.com]\n  http: [{{{route}, retries: {{perTryTimeout: 1s}}}}]"),
            "http retry policy configured when attempts are set to 0 (disabled)",
        ),
        (
            "  hosts: [a.com]\n  http: [{route: [{destination: {host: b}}, {destination: {host: c}}]}]"
                .into(),
            "total destination weight = 0",
        ),
        (
            format!("  hosts: [a.com]\n  http: [{{match: [{{uri: {{regex: '('}}}}], {route}}}]"),
            "Istio uses RE2 style regex-based match",
        ),
        (
            format!("  hosts: [a.com]\n  http: [{{match: [{{uri: /x}}], {route}}}]"),
            "spec.http[0].match[0].uri: expected one of exact, prefix or regex",
        ),
        (
            format!("  hosts: [a.com]\n  http: [{{match: [{{uri: {{prefix: ''}}}}], {route}}}]"),
            "prefix must not be empty",
        ),
        (
            format!("  hosts: [a.com]\n  tls: [{{{route}}}]"),
            "TLS route must have at least one match condition",
        ),
        (
            format!("  hosts: [a.com]\n  tls: [{{match: [{{port: 443}}], {route}}}]"),
            "TLS match must have at least one SNI host",
        ),
        (
            format!("  hosts: [a.com]\n  tls: [{{match: [{{sniHosts: [b.com]}}], {route}}}]"),
            "SNI host b.com is not a compatible subset of the virtual service hosts",
        ),
        (
            format!(
                "  hosts: [a.com]\n  http: [{{{route}, headers: {{request: {{set: {{'bad name': x}}}}}}}}]"
            ),
            "is not a valid header name",
        ),
        (
            "  hosts: [a.com]\n  http: [{redirect: {uri: /, redirectCode: 304}}]".into(),
            "redirectCode must be one of 301, 302, 303, 307 and 308",
        ),
    ] {
        let said = said(&virtual_service(&spec), false);
        assert!(said.contains(expected), "{spec}: {said}");
    }
}

/// What a route does beside forwarding, and what cannot be done.
#[test]
fn http_routes() {
    for (parts, expected) in [
        ("fault: {}", "HTTP fault injection must have an abort and/or a delay"),
        (
            "fault: {abort: {httpStatus: 500, percentage: {value: 101}}}",
            "percentage 101 is neither 0.0, nor in range [0.0001, 100.0]",
        ),
        (
            "fault: {abort: {httpStatus: 500, percentage: {value: 0.00001}}}",
            "percentage 0.00001 is neither 0.0, nor in range [0.0001, 100.0]",
        ),
        (
            "fault: {abort: {httpStatus: 500, percentage: 10}}",
            "spec.http[0].fault.abort.percentage: expected a mapping such as {value: 10}",
        ),
        (
            "fault: {delay: {fixedDelay: 5, percentage: {value: 1}}}",
            "spec.http[0].fault.delay.fixedDelay: expected a duration such as 3s",
        ),
        ("fault: {delay: {fixedDelay: 1us, percentage: {value: 1}}}", "duration must be greater than 1ms"),
        ("fault: {delay: {percentage: {value: 1}}}", "`fixedDelay` is missing"),
        ("fault: {delay: {exponentialDelay: 1s}}", "exponentialDelay not supported yet"),
        ("fault: {abort: {httpStatus: 199}}", "HTTP status 199 is not in range 200-599"),
        ("fault: {abort: {httpStatus: 600}}", "HTTP status 600 is not in range 200-599"),
        ("fault: {abort: {grpcStatus: NOPE}}", "gRPC status \"NOPE\" is not supported"),
        ("fault: {abort: {http2Error: x}}", "HTTP/2 abort fault injection not supported yet"),
        ("mirrorPercentage: {value: 101}", "mirror_percentage must have a max value of 100 (it has 101)"),
        ("mirrorPercentage: {value: -1}", "mirror_percentage must have a min value of 0 (it has -1)"),
        ("mirrorPercent: 101", "expected a whole number from 0 to 100"),
        ("mirrors: [{percentage: {value: 5}}]", "destination is required for mirrors"),
        ("mirrors: [{destination: {host: b}, percentage: {value: 200}}]", "percentage 200 is neither 0.0"),
        (
            "mirror: {host: b}, mirrors: [{destination: {host: b}}]",
            "HTTP route cannot contain both mirror and mirrors",
        ),
        ("mirror: {subset: v1}", "spec.http[0].mirror: `host` is missing"),
        ("corsPolicy: {allowOrigins: [{exact: ''}]}", "'' is not a valid match type for CORS allow origins"),
        ("corsPolicy: {allowOrigins: [{}]}", "'' is not a valid match type for CORS allow origins"),
        ("corsPolicy: {allowOrigins: [{regex: '('}]}", "Istio uses RE2 style regex-based match"),
        ("corsPolicy: {allowMethods: [FETCH]}", "\"FETCH\" is not a supported HTTP method"),
        ("corsPolicy: {allowHeaders: ['a b']}", "header name \"a b\" is not a valid header name"),
        ("corsPolicy: {maxAge: 1500ms}", "max_age duration is accurate only to seconds precision"),
        ("corsPolicy: {unmatchedPreflights: DROP}", "`DROP` is not one of"),
        (
            "rewrite: {authority: a}, headers: {request: {set: {Host: b}}}",
            "authority header cannot be set multiple times: have \"a\", attempting to set \"b\"",
        ),
        ("match: [{sourceNamespace: Not_One}]", "sourceNamespace match Not_One is invalid"),
        ("match: [{headers: {x: {prefix: ''}}}]", "prefix must not be empty"),
    ] {
        let route = format!("{{route: [{{destination: {{host: b}}}}], {parts}}}");
        let said = said(&virtual_service(&format!("  hosts: [a.com]\n  http: [{route}]")), false);
        assert!(said.contains(expected), "{parts}: {said}");
    }
    for (route, expected) in [
        ("{route: []}", "HTTP route, redirect or direct_response is required"),
        ("{redirect: {uri: /a, uriPrefix: /b}}", "redirect cannot contain both uri and uriPrefix"),
        ("{redirect: {redirectCode: 302}}", "redirect must specify URI, authority, scheme, or port"),
        (
            "{directResponse: {status: 200}, rewrite: {uri: /}}",
            "HTTP route rule cannot contain both rewrite and direct_response",
        ),
        (
            "{directResponse: {status: 200}, fault: {abort: {httpStatus: 500, percentage: {value: 1}}}}",
            "HTTP route cannot contain both fault and direct_response",
        ),
        (
            "{redirect: {uri: /}, fault: {abort: {httpStatus: 500, percentage: {value: 1}}}}",
            "HTTP route cannot contain both fault and redirect",
        ),
    ] {
        let said = said(&virtual_service(&format!("  hosts: [a.com]\n  http: [{route}]")), false);
        assert!(said.contains(expected), "{route}: {said}");
    }
    for (parts, expected) in [
        (
            "fault: {abort: {httpStatus: 500}}",
            "warning: VirtualService default/x: spec.http[0].fault.abort: `percentage` is missing, which means 0",
        ),
        (
            "fault: {abort: {percentage: {value: 100}}}",
            "warning: VirtualService default/x: spec.http[0].fault.abort: abort configured, but error type not set",
        ),
        (
            "mirror: {host: b}, mirrorPercent: 5",
            "warning: VirtualService default/x: spec.http[0].mirrorPercent: using deprecated setting \"mirrorPercent\"",
        ),
    ] {
        let route = format!("{{route: [{{destination: {{host: b}}}}], {parts}}}");
        check(&virtual_service(&format!("  hosts: [a.com]\n  http: [{route}]")), true, &[expected]);
    }
    // Fields of old that change nothing are no mistakes.
    let harmless = "websocketUpgrade: true, retries: {attempts: 1, retryRemoteLocalities: true, \
                    retryIgnorePreviousHosts: false, retryOn: 'reset,retriable-headers,http3-post-connect-failure,503'}";
    let route = format!("{{route: [{{destination: {{host: b}}}}], {harmless}}}");
    check(&virtual_service(&format!("  hosts: [a.com]\n  http: [{route}]")), true, &[]);
}

fn destination_rule(spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: x}}\nspec:\n{spec}")
}

#[test]
fn destination_rules() {
    let said_of_selector = said(&destination_rule("  host: a.com\n  workloadSelector: {}"), true);
    assert!(said_of_selector.contains("workload selector specified without labels"), "{said_of_selector}");
    for (spec, expected) in [
        ("  subsets: [{name: a}]", "`host` is missing"),
        (
            "  host: a.com\n  workloadSelector: {matchLabels: {a: '*'}}",
            "wildcard is not supported in selector",
        ),
        ("  host: a.com\n  subsets: [{name: a}, {name: a}]", "duplicate subset names: a"),
        (
            "  host: a.com\n  trafficPolicy: {tls: {mode: SIMPEL}}",
            "`SIMPEL` is not one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL; did you mean `SIMPLE`?",
        ),
        // Left out, this would be plaintext.
        (
            "  host: a.com\n  trafficPolicy: {tls: {mod: SIMPLE}}",
            "error: DestinationRule default/x: spec.trafficPolicy.tls.mod: unknown field `mod`; did you mean `mode`?",
        ),
        (
            "  host: a.com\n  trafficPolicy: {tls: {mode: SIMPLE, credentialName: x, caCertificates: /x}}",
            "cannot specify client certificates or CA certificate or CA CRL If credentialName is set",
        ),
        (
            "  host: a.com\n  trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true, caCrl: /x}}",
            "cannot specify CaCrl when InsecureSkipVerify is set true",
        ),
        ("  host: a.com\n  trafficPolicy: {}", "traffic policy must have at least one field"),
        (
            "  host: a.com\n  trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}",
            "port traffic policy must have at least one field",
        ),
        (
            "  host: a.com\n  trafficPolicy: {portLevelSettings: [{port: {number: 80}, tunnel: {targetHost: a}}]}",
            "port traffic policy must have at least one field",
        ),
        (
            "  host: a.com\n  trafficPolicy: {connectionPool: {}}",
            "connection pool must have at least one field",
        ),
        (
            "  host: a.com\n  trafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}",
            "spec.trafficPolicy.connectionPool.tcp.maxConnections: max connections must be non-negative",
        ),
        (
            "  host: a.com\n  trafficPolicy: {connectionPool: {http: {http1MaxPendingRequests: -1}}}",
            "http1 max pending requests must be non-negative",
        ),
        (
            "  host: a.com\n  trafficPolicy: {connectionPool: {http: {http2MaxRequests: -1}}}",
            "http2 max requests must be non-negative",
        ),
        (
            "  host: a.com\n  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: -1}}}",
            "max requests per connection must be non-negative",
        ),
        (
            "  host: a.com\n  trafficPolicy: {connectionPool: {http: {maxRetries: -1}}}",
            "max retries must be non-negative",
        ),
        (
            "  host: a.com\n  trafficPolicy: {connectionPool: {http: {maxConcurrentStreams: -1}}}",
            "max concurrent streams must be non-negative",
        ),
        (
            "  host: a.com\n  trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}",
            "use client protocol must not be true when H2UpgradePolicy is UPGRADE",
        ),
        (
            "  host: a.com\n  trafficPolicy: {connectionPool: {tcp: {tcpKeepalive: {interval: 1us}}}}",
            "duration must be greater than 1ms",
        ),
        (
            "  host: a.com\n  trafficPolicy: {connectionPool: {tcp: {maxConnectionDuration: 0s}}}",
            "duration must be greater than 1ms",
        ),
        (
            "  host: a.com\n  trafficPolicy: {tunnel: {targetHost: a.com, targetPort: 1}, proxyProtocol: {version: V1}}",
            "tunnel and proxyProtocol must not be set together",
        ),
        (
            "  host: a.com\n  trafficPolicy: {tunnel: {protocol: GET, targetHost: a.com, targetPort: 1}}",
            "tunnel protocol must be \"CONNECT\" or \"POST\"",
        ),
        (
            "  host: a.com\n  trafficPolicy: {tunnel: {targetHost: '*.a.com', targetPort: 1}}",
            "tunnel target host must be valid FQDN or IP address",
        ),
        (
            "  host: a.com\n  trafficPolicy: {tunnel: {targetHost: a.com, targetPort: 0}}",
            "tunnel target port is invalid",
        ),
        ("  host: a.com\n  trafficPolicy: {proxyProtocol: {version: V3}}", "`V3` is not one of V1, V2"),
        (
            "  host: a.com\n  trafficPolicy: {retryBudget: {percent: 101}}",
            "percent must be a number from 0 to 100",
        ),
        (
            "  host: a.com\n  trafficPolicy: {portLevelSettings: [{port: 80, tls: {mode: SIMPLE}}]}",
            "spec.trafficPolicy.portLevelSettings[0].port: expected a mapping of fields, found the number 80",
        ),
    ] {
        let said = said(&destination_rule(spec), false);
        assert!(said.contains(expected), "{spec}: {said}");
    }
}

#[test]
fn gateways() {
    let gateway = |spec: &str| {
        format!("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: x}}\nspec:\n{spec}")
    };
    for (spec, expected) in [
        ("  selector: {a: b}", "gateway must have at least one server"),
        (
            "  servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: [a]}]",
            "server must have TLS settings for HTTPS/TLS protocols",
        ),
        (
            "  servers: [{port: {number: 80, name: http, protocol: HTTP}}]",
            "server config must contain at least one host",
        ),
    ] {
        let said = said(&gateway(spec), false);
        assert!(said.contains(expected), "{spec}: {said}");
    }
}
