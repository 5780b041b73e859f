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
pub(crate) fn said(document: &str, stands: bool) -> String {
    let other = GOOD.replace("name: good", "name: other");
    let parsed = parse(&"f.yaml".into(), &format!("{document}\n---{GOOD}---{other}"), &"default".into());
    let said = shown(&parsed.diagnostics);
    let names: Vec<&str> = parsed.resources.iter().map(|resource| &**resource.meta().name()).collect();
    let expected: &[&str] = if stands { &["x", "good", "other"] } else { &["good", "other"] };
    assert_eq!(names, expected, "{document}\n{said}");
    said
}

#[track_caller]
pub(crate) fn check(document: &str, stands: bool, expected: &[&str]) {
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
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata: {mesh: '{}'}",
            "warning: ConfigMap istio holds MeshConfig, which does not act from here: --mesh-config names the file",
        ),
        (
            "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {meshConfig: {accessLogFile: ''}}",
            "warning: IstioOperator holds MeshConfig, which does not act from here",
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}",
            "skipped; who may use a host at the egress gateway is said by egress.interceptor.io/allow-from",
        ),
        (
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: a}",
            "skipped; the access log is turned on by --access-log",
        ),
        (
            "resources: [base/a.yaml]\npatches: [{path: p.yaml}]",
            "f.yaml:1:1: info: a kustomization is not read here: skipped; what `kustomize build`",
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
        (
            "apiVersion: v1\nkind: ServiceEntry",
            "error: there is no ServiceEntry in v1: expected apiVersion networking.istio.io/v1, v1beta1 or v1alpha3",
        ),
        (
            "apiVersion: networking.istio.io\nkind: Sidecar",
            "error: there is no Sidecar in networking.istio.io",
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: Gateway",
            "error: there is no Gateway in security.istio.io/v1",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway",
            "info: Gateway (gateway.networking.k8s.io/v1) is not read here: skipped",
        ),
        (
            &service_entry(
                "  hosts: [a.com.]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS\n",
            ),
            "invalid host a.com.: expected a name without a dot at its end",
        ),
        ("a: [*.example.com]", "f.yaml:1:5: error: a value that begins with `*` refers to an anchor"),
        (
            "a:\n  b: [{{ .Values.host }}]",
            "f.yaml:2:8: error: `{{ … }}` is no YAML: render the template first",
        ),
        ("{{- if .Values.on }}\na: 1\n{{- end }}", "error: `{{ … }}` is no YAML: render the template first"),
        ("outboundTrafficPolicy: {mode: ALLOW_ANY}", "MeshConfig is given with --mesh-config"),
    ] {
        check(document, false, &[expected]);
    }
}

#[test]
fn a_document_of_nothing_is_nothing() {
    for document in ["null", "~", "# off", "{}"] {
        check(document, false, &[]);
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
fn a_host_that_istio_refuses_is_told_and_stands() {
    let spec =
        "  hosts: [my_host.org]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS\n";
    let line = "spec.hosts[0]: host my_host.org acts here, but Istio refuses `_` in names";
    check(&service_entry(spec), true, &[line]);
    let routes = "  hosts: [my_host.org]\n  http: [{route: [{destination: {host: other_host.org}}]}]\n";
    let document = service_entry(routes).replace("ServiceEntry", "VirtualService");
    check(&document, true, &[line, "destination.host: host other_host.org acts here, but Istio refuses `_`"]);
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
    check(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\nspec:\nhosts: [a.test]\n",
        false,
        &[
            "f.yaml:4:1: error: ServiceEntry default/x: spec: nothing is below `spec`: indent `hosts` and what else",
            "`hosts` does not belong here: indent it below `spec`",
        ],
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
