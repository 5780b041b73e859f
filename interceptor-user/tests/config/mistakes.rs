//! Mistakes: each is named with file, line, column and field, and leaves everything else working.

use interceptor_user::resource::{mesh_config, parse};

use crate::support::shown;

const GOOD: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: good}
spec:
  hosts: [good.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";

/// What is said about `document`, which stands between two good ones that stay good. `stands`: whether
/// its own resource is used.
#[track_caller]
fn said(document: &str, stands: bool) -> String {
    let other = GOOD.replace("name: good", "name: other");
    let parsed = parse(&"f.yaml".into(), &format!("{document}\n---{GOOD}---{other}"), &"default".into());
    let said = shown(&parsed.diagnostics);
    let names: Vec<&str> = parsed.resources.iter().map(|resource| &**resource.meta().name()).collect();
    let expected: &[&str] = if stands { &["x", "good", "other"] } else { &["good", "other"] };
    assert_eq!(names, expected, "{document}\n{said}");
    said
}

#[track_caller]
fn check(document: &str, stands: bool, expected: &[&str]) {
    let said = said(document, stands);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{document}\n{said}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{document}\n{line}\ndoes not contain\n{expected}");
    }
}

fn service_entry(spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: x}}\nspec:\n{spec}")
}

#[test]
fn yaml() {
    for (document, expected) in [
        ("a: [1, 2", "f.yaml:2:1: error: this is not YAML"),
        ("a:\n\tb: 1", "f.yaml:2:2: error: a tab is not allowed as indentation: use spaces"),
        ("\u{1}\u{2}garbage: [", "f.yaml:"),
        ("- a\n- b", "f.yaml:1:1: error: expected a mapping of fields, found a list"),
        ("just text", "f.yaml:1:1: error: expected a mapping of fields, found `just text`"),
        ("a: 1", "f.yaml:1:1: error: expected a resource, but `kind` is missing"),
        ("kind: ServiceEntry", "f.yaml:1:1: error: expected a resource, but `apiVersion` is missing"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}",
            "info: ConfigMap web (v1) is not read here: skipped",
        ),
        ("apiVersion: apps/v2\nkind: Deploy", "info: Deploy (apps/v2) is not read here: skipped"),
        (
            "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: e}",
            "EnvoyFilter e does not act here: skipped",
        ),
        ("apiVersion: networking.istio.io/v1\nkind: ServicEntry", "error: unknown kind ServicEntry"),
        (
            "apiVersion: networking.istio.io/v2\nkind: ServiceEntry",
            "error: unknown version networking.istio.io/v2",
        ),
        ("outboundTrafficPolicy: {mode: ALLOW_ANY}", "MeshConfig is given with --mesh-config"),
    ] {
        check(document, false, &[expected]);
    }
}

#[test]
fn several_mistakes_are_all_named() {
    check(
        &service_entry(
            "  hosts: [x.example.com]\n  ports:\n  - {number: 99999, name: http, protocol: HTPP}\n  - {number: 80, name: 80, protocl: HTTP}\n  resolution: DSN\n",
        ),
        false,
        &[
            "f.yaml:7:14: error: ServiceEntry default/x: spec.ports[0].number: expected a whole number from 1 to 65535, found the number 99999",
            "f.yaml:7:43: error: ServiceEntry default/x: spec.ports[0].protocol: unsupported protocol: HTPP; expected one of HTTP",
            "f.yaml:8:24: error: ServiceEntry default/x: spec.ports[1].name: expected text, found the number 80: write it in quotes: \"80\"",
            "f.yaml:8:28: warning: ServiceEntry default/x: spec.ports[1].protocl: unknown field `protocl`, left out; did you mean `protocol`?",
            "f.yaml:9:15: error: ServiceEntry default/x: spec.resolution: `DSN` is not one of NONE, STATIC, DNS, DNS_ROUND_ROBIN, DYNAMIC_DNS",
        ],
    );
}

#[test]
fn unknown_fields_are_warnings_and_the_rest_stands() {
    let document = service_entry(
        "  hosts: [x.example.com]\n  adresses: [1.1.1.1]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS\n",
    );
    check(
        &document,
        true,
        &[
            "f.yaml:6:3: warning: ServiceEntry default/x: spec.adresses: unknown field `adresses`, left out; did you mean `addresses`?",
        ],
    );
    check(
        &format!("{document}extra: 1\n"),
        true,
        &["spec.adresses", "f.yaml:9:1: warning: ServiceEntry default/x: extra: unknown field"],
    );
}

#[test]
fn duplicate_keys() {
    check(
        &service_entry(
            "  hosts: [x.example.com]\n  hosts: [y.example.com]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS\n",
        ),
        false,
        &["f.yaml:6:3: error: hosts: `hosts` stands here for the second time in one mapping"],
    );
    // What asks for TLS is never sent in clear.
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: x}\n\
                spec: {host: a.test, host: a.test, trafficPolicy: {tls: {mode: SIMPLE}}}\n";
    let parsed = parse(&"f.yaml".into(), rule, &"default".into());
    assert!(parsed.refused[0].instead.is_some(), "{}", shown(&parsed.diagnostics));
}

#[test]
fn metadata() {
    let document = |metadata: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {metadata}\nspec: {{hosts: [x.example.com]}}\n"
        )
    };
    check(&document("{namespace: web}"), false, &["metadata: `name` is missing"]);
    check(
        &document("{name: Not_a_name}"),
        false,
        &["f.yaml:3:18: error: metadata.name: `Not_a_name` is not a name"],
    );
    check(
        &document("{name: Not_a_name}").replace("x.example.com]", "x.example.com], resolution: DSN"),
        false,
        &[
            "f.yaml:3:18: error: metadata.name: `Not_a_name` is not a name",
            "error: spec.resolution: `DSN` is not one of",
        ],
    );
    check(&document("[]"), false, &["metadata: expected a mapping of fields, found a list"]);
    check(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\n",
        false,
        &["ServiceEntry default/x: `spec` is missing"],
    );
}

/// What machines write for fields that nobody has set (protobuf's zeros).
#[test]
fn zeros_are_as_good_as_absent() {
    let istio = |kind: &str, spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, labels: {{}}, annotations: {{}}}}\nspec: {spec}\n"
        )
    };
    for (kind, spec) in [
        (
            "ServiceEntry",
            "{hosts: [x.test], addresses: [], exportTo: [], ports: [{number: 80, name: http, protocol: HTTP, targetPort: 0}, {number: 81, \
             name: x, protocol: ''}], resolution: STATIC, subjectAltNames: [], endpoints: [{address: 1.2.3.4, network: '', locality: '', \
             weight: 0, serviceAccount: '', labels: {}, ports: {}}]}",
        ),
        (
            "VirtualService",
            "{hosts: [x.test], gateways: [], exportTo: [], tls: [], tcp: [], http: [{name: '', match: [{uri: {prefix: /a}, headers: {}, \
             port: 0, sourceLabels: {}, sourceNamespace: '', gateways: [], name: '', statPrefix: '', ignoreUriCase: false}], route: \
             [{destination: {host: x.test, subset: '', port: {number: 80}}, weight: 0, headers: {}}], timeout: 0s, retries: {attempts: 0, \
             retryOn: ''}, rewrite: {uri: '', authority: x}, headers: {request: {set: {}, add: {}, remove: []}}, corsPolicy: \
             {allowOrigins: [], maxAge: 0s}}]}",
        ),
        (
            "VirtualService",
            "{hosts: [x.test], http: [{retries: {attempts: 2, retryOn: ''}, route: [{destination: {host: x.test}}]}]}",
        ),
        (
            "VirtualService",
            "{hosts: [x.test], tcp: [{match: [{port: 0, destinationSubnets: [], sourceLabels: {}, gateways: [], sourceNamespace: ''}], \
             route: [{destination: {host: x.test}, weight: 0}]}]}",
        ),
        (
            "DestinationRule",
            "{host: x.test, exportTo: [], trafficPolicy: {loadBalancer: {simple: UNSPECIFIED}, connectionPool: {tcp: {maxConnections: 0}, http: \
             {http1MaxPendingRequests: 0, maxRetries: 0, h2UpgradePolicy: DEFAULT, useClientProtocol: false}}, outlierDetection: \
             {consecutiveErrors: 0, consecutive5xxErrors: 0, maxEjectionPercent: 0}, tls: {mode: DISABLE, sni: '', caCertificates: '', \
             credentialName: '', subjectAltNames: [], insecureSkipVerify: false}, portLevelSettings: []}, subsets: []}",
        ),
        (
            "Gateway",
            "{selector: {}, servers: [{port: {number: 80, name: http, protocol: HTTP, targetPort: 0}, bind: '', hosts: ['*'], name: ''}]}",
        ),
        (
            "Sidecar",
            "{workloadSelector: {}, egress: [{port: {number: 80, protocol: HTTP, name: http, targetPort: 0}, hosts: ['*/*'], bind: '', \
             captureMode: DEFAULT}]}",
        ),
    ] {
        check(&istio(kind, spec), true, &[]);
    }
}

/// Istio's own words, which people look for.
#[test]
fn service_entries() {
    let http = "  ports: [{number: 80, name: http, protocol: HTTP}]\n";
    for (spec, expected) in [
        ("  resolution: DNS", "service entry must have at least one host"),
        ("  hosts: ['*']\n", "hostname cannot be wildcard"),
        ("  hosts: [a.*.com]\n", "invalid host a.*.com: `*` may stand only at its start"),
        ("  hosts: ['http://x.com']\n", "invalid host http://x.com"),
        (
            "  hosts: [x.com]\n  addresses: [10.0.0.0/8]\n  resolution: DNS\n",
            "CIDR addresses are allowed only for NONE/STATIC resolution types",
        ),
        (
            "  hosts: [x.com]\n  addresses: [10.0.0.0/33]\n",
            "spec.addresses[0]: `10.0.0.0/33` is not an IP address or a range",
        ),
        (
            "  hosts: [x.com]\n  ports: [{number: 80, name: a, protocol: HTTP}, {number: 80, name: b, protocol: HTTP}]\n",
            "service entry port 80 already defined",
        ),
        (
            "  hosts: [x.com]\n  ports: [{number: 80, name: a, protocol: HTTP}, {number: 81, name: a, protocol: HTTP}]\n",
            "service entry port name \"a\" already defined",
        ),
        ("  hosts: [x.com]\n  ports: [{number: 80, name: Web, protocol: HTTP}]\n", "invalid port name: Web"),
        ("  hosts: []\n", "service entry must have at least one host"),
        (
            "  hosts: [x.com]\n  ports: [{number: 80, name: a}, {number: 80, name: b}]\n",
            "port number cannot be duplicated",
        ),
        ("  hosts: [x.com]\n  endpoints: [{address: 1.1.1.1}]\n", "NONE mode cannot set endpoints"),
        (
            "  hosts: [x.com]\n  endpoints: [{address: 1.1.1.1}]\n",
            "no endpoints should be provided for resolution type none",
        ),
        (
            "  hosts: [x.com]\n  resolution: DNS_ROUND_ROBIN\n  endpoints: [{address: a.x.com}, {address: b.x.com}]\n",
            "DNS_ROUND_ROBIN mode cannot have multiple endpoints",
        ),
        (
            "  hosts: [x.com]\n  resolution: STATIC\n  workloadSelector: {labels: {a: b}}\n  endpoints: [{address: 1.1.1.1}]\n",
            "only one of WorkloadSelector or Endpoints can be set",
        ),
        (
            "  hosts: ['*.x.com']\n  resolution: DNS\n",
            "hosts must be FQDN or contain only prefix wildcards if no endpoints are provided for resolution mode DNS",
        ),
        (
            "  hosts: [x.com]\n  resolution: DNS_ROUND_ROBIN\n  endpoints: [{address: a.x.com}, {address: b.x.com}]\n",
            "there must only be 0 or 1 endpoint for resolution mode DNS_ROUND_ROBIN",
        ),
        (
            "  hosts: [x.com]\n  resolution: DNS\n  endpoints: [{address: a.x.com, ports: {web: 80}}]\n",
            "endpoint port web is not defined by the service entry",
        ),
        (
            "  hosts: [x.com]\n  resolution: STATIC\n  workloadSelector: {labels: {a: b}}\n  endpoints: [{address: 1.1.1.1}]\n",
            "only one of WorkloadSelector or Endpoints is allowed",
        ),
        (
            "  hosts: [x.com]\n  resolution: STATIC\n  endpoints: [{address: a.x.com}]\n",
            "`a.x.com` is neither an IP address nor unix:///path/to/socket, as resolution STATIC needs",
        ),
        ("  hosts: [x.com]\n  resolution: STATIC\n  endpoints: [{address: 'unix:///run/a.sock'}]\n", ""),
        ("  hosts: [x.com]\n  resolution: STATIC\n  endpoints: [{address: 'unix://@a'}]\n", ""),
        (
            "  hosts: [x.com]\n  resolution: STATIC\n  endpoints: [{address: 'unix://run/a.sock'}]\n",
            "run/a.sock is not an absolute path to a file: write unix:///path/to/socket, or unix://@name",
        ),
        (
            "  hosts: [x.com]\n  resolution: STATIC\n  endpoints: [{address: 'unix:///run/'}]\n",
            "/run/ is not an absolute path to a file",
        ),
        (
            "  hosts: [x.com]\n  resolution: STATIC\n  endpoints: [{address: 'unix://'}]\n",
            "unix address must not be empty",
        ),
        (
            "  hosts: [x.com]\n  resolution: STATIC\n  endpoints: [{address: 'unix:/run/a.sock'}]\n",
            "`unix:/run/a.sock` is neither a host name nor an IP address nor unix:///path/to/socket",
        ),
        (
            "  hosts: [x.com]\n  resolution: STATIC\n  endpoints: [{address: 'unix:///run/a.sock', ports: {http: 80}}]\n",
            "unix endpoint unix:///run/a.sock must not include ports",
        ),
        (
            "  hosts: [x.com]\n  resolution: DNS\n  endpoints: [{address: 'unix:///run/a.sock'}]\n",
            "resolution DNS looks up names; a unix socket needs resolution STATIC",
        ),
        (
            "  hosts: [x.com]\n  resolution: NONE\n  endpoints: [{address: 'unix:///run/a.sock'}]\n",
            "no endpoints should be provided for resolution type none",
        ),
        (
            "  hosts: [x.com]\n  resolution: STATIC\n  ports: [{number: 80, name: a, protocol: HTTP}, {number: 81, name: b, protocol: HTTP}]\n  endpoints: [{address: 10.0.0.1}, {address: 'unix:///run/a.sock'}]\n",
            "spec.endpoints[1]: exactly 1 service port required for unix endpoints",
        ),
        ("  hosts: [x.com]\n  exportTo: ['*', web]\n", "`*` and `~` may only stand alone in exportTo"),
        ("  hosts: [x.com]\n  resolution: DYNAMIC_DNS\n", "resolution DYNAMIC_DNS takes wildcard hosts only"),
    ] {
        let document = service_entry(&if spec.contains("ports: [{number") {
            spec.to_owned()
        } else {
            format!("{http}{spec}")
        });
        let said = said(&document, expected.is_empty());
        assert!(said.contains(expected), "{spec}: {said}");
        assert_eq!(said.is_empty(), expected.is_empty(), "{spec}: {said}");
    }
    let tcp =
        |rest: &str| service_entry(&format!("  ports: [{{number: 99, name: tcp, protocol: TCP}}]\n{rest}"));
    check(&tcp("  hosts: [x.com]\n  resolution: DNS\n"), true, &[]);
    assert!(
        said(&tcp("  hosts: [x.com, y.com]\n  resolution: DNS\n"), false)
            .contains("multiple hosts provided with non-HTTP, non-TLS ports")
    );
}

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

#[test]
fn mesh_configurations() {
    let parse = |text: &str| {
        let (config, findings) = mesh_config::parse(&"mesh.yaml".into(), text);
        (config, shown(&findings))
    };
    let plain = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\naccessLogFile: /dev/stdout\naccessLogEncoding: JSON\ndnsRefreshRate: 5s\n";
    let indented = plain.replace("\n", "\n    ");
    let config_map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio}}\ndata:\n  mesh: |-\n    {indented}\n"
    );
    let operator = format!(
        "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec:\n  profile: demo\n  meshConfig:\n    {indented}\n"
    );
    for text in [plain, &config_map, &operator] {
        let (config, said) = parse(text);
        let config = config.unwrap_or_else(|| panic!("{text}\n{said}"));
        assert_eq!(
            config.outbound_traffic_policy,
            Some(mesh_config::OutboundTrafficPolicyMode::RegistryOnly)
        );
        assert_eq!(config.access_log_file.as_deref(), Some("/dev/stdout"));
        assert!(config.access_log_json && config.dns_refresh_rate.as_secs() == 5);
        assert!(said.is_empty(), "{said}");
    }
    let (config, said) = parse(
        "defaultConfig: {proxyHeaders: {server: {value: envoy}, requestId: {disabled: true}}}\ntrustDomain: x\n",
    );
    let config = config.expect("a configuration");
    assert!(
        config.proxy_headers.server.as_deref() == Some("envoy") && config.proxy_headers.request_id_disabled
    );
    assert_eq!(said, "mesh.yaml:2:14: info: MeshConfig: trustDomain: `trustDomain` is not used here");
    for (text, expected) in [
        // Left out, it would let through what it blocks.
        (
            "outboundTraficPolicy: {mode: REGISTRY_ONLY}",
            "error: MeshConfig: outboundTraficPolicy: unknown field `outboundTraficPolicy`; did you mean `outboundTrafficPolicy`?; \
             `exec`, `explain` and `config` refuse to start",
        ),
        (
            "conectTimeout: 5s",
            "warning: MeshConfig: conectTimeout: unknown field `conectTimeout`, left out; did you mean",
        ),
        ("serviceEntryVisibility: {}", "`serviceEntryVisibility` is not applied yet: exportTo alone says"),
        ("defaultServiceExportTo: ['*', a]", "may only stand alone in exportTo"),
        (
            "defaultTrafficPolicy: {tls: {mode: SIMPLE}}",
            "TLS for every service can't be meant for hosts outside: ask for it in a DestinationRule",
        ),
    ] {
        let (_, findings) = mesh_config::parse(&"mesh.yaml".into(), text);
        let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|line| line.contains(expected)), "{text}: {said:?}");
    }
    let (config, said) = parse("outboundTrafficPolicy: {}\n");
    let policy = config.and_then(|config| config.outbound_traffic_policy);
    assert_eq!(policy, Some(mesh_config::OutboundTrafficPolicyMode::RegistryOnly));
    assert!(said.contains("`mode` is missing, which means REGISTRY_ONLY"), "{said}");
    for (text, expected) in [
        (
            "outboundTrafficPolicy: {mode: REGISTRY}",
            "mesh.yaml:1:31: error: MeshConfig: outboundTrafficPolicy.mode: `REGISTRY` is not one of",
        ),
        ("connectTimeout: 10", "expected a duration"),
        ("kind: Deployment", "expected MeshConfig, a ConfigMap or an IstioOperator, found kind Deployment"),
        ("", "expected one document with MeshConfig, found 0"),
        ("a: [", "this is not YAML"),
        (
            "apiVersion: v1\nkind: ConfigMap\ndata:\n  mesh: |\n    connectTimeout: x\n",
            "mesh.yaml:5:21: error: MeshConfig: connectTimeout: expected a duration",
        ),
    ] {
        let (config, said) = parse(text);
        assert!(config.is_none() && said.contains(expected), "{text}: {said}");
    }
}

/// Whatever is thrown at it, what is kept about it stays small.
#[test]
fn many_mistakes_are_counted() {
    let fields: String = (0..10_000).map(|index| format!("  f{index}: 1\n")).collect();
    let parsed = parse(&"f.yaml".into(), &service_entry(&fields), &"default".into());
    assert!(parsed.diagnostics.len() < 110, "{}", parsed.diagnostics.len());
    assert!(shown(&parsed.diagnostics).contains("more like these"));
    let documents = "nothing\n---\n".repeat(10_000);
    let parsed = parse(&"f.yaml".into(), &documents, &"default".into());
    assert!(parsed.diagnostics.len() < 1010, "{}", parsed.diagnostics.len());
    assert!(shown(&parsed.diagnostics).contains("more findings about this file are not shown"));
}
