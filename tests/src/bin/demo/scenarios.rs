//! The scenarios as data: what is configured, what is sent, and what must come back.

/// One idea, shown by a few calls.
pub(crate) struct Scenario {
    pub(crate) title: &'static str,
    /// The resources that are loaded (tests/data/seeds).
    pub(crate) config: &'static [&'static str],
    /// What of them matters here.
    pub(crate) idea: &'static str,
    /// What the gateway's access log line must hold; empty: there is no gateway.
    pub(crate) gateway: &'static [&'static str],
    pub(crate) calls: &'static [Call],
}

/// One curl under `interceptor exec`.
pub(crate) struct Call {
    /// What to look at.
    pub(crate) says: &'static str,
    /// Resources in place of the scenario's.
    pub(crate) config: Option<&'static [&'static str]>,
    pub(crate) flags: &'static [&'static str],
    pub(crate) curl: &'static [&'static str],
    pub(crate) expect: Expect,
}

/// What must be seen.
pub(crate) struct Expect {
    /// curl's exit status.
    pub(crate) code: i32,
    /// Lines that curl must print (from their beginning); they are what is shown.
    pub(crate) answer: &'static [&'static str],
    /// What the last access log line must hold; empty: there must be no line.
    pub(crate) log: &'static [&'static str],
    /// How long it must take, in milliseconds.
    pub(crate) time_ms: std::ops::Range<u64>,
    /// The reason for which the kernel must have left the connection alone.
    pub(crate) bypassed: Option<&'static str>,
    pub(crate) server: Option<Server>,
}

/// What the web server itself must have seen.
pub(crate) struct Server {
    pub(crate) says: &'static str,
    pub(crate) requests: usize,
    /// Whether headers of a proxy arrived.
    pub(crate) through_proxy: bool,
    pub(crate) tls: bool,
}

pub(crate) const REGISTRY_ONLY: &[&str] = &["--outbound-traffic-policy", "REGISTRY_ONLY"];
const EXCLUDE: &[&str] =
    &["--outbound-traffic-policy", "REGISTRY_ONLY", "--exclude-ip-ranges", "10.10.0.4/32"];

pub(crate) const ANY_TIME: std::ops::Range<u64> = 0..20_000;

/// Those of one host; those with a gateway are apart.
pub(crate) fn all() -> &'static [Scenario] {
    &[
        Scenario {
            title: "Hosts that nobody registered",
            config: &["000-01-se-se"],
            idea: "kind: ServiceEntry   # httpbin.org and google.com; nothing about edition.cnn.com",
            gateway: &[],
            calls: &[
                Call {
                    says: "By default they pass (ALLOW_ANY), and the log says so.",
                    config: None,
                    flags: &[],
                    curl: &["-I", "http://edition.cnn.com/"],
                    expect: Expect {
                        code: 0,
                        answer: &["HTTP/1.1 301 Moved Permanently", "location: https://edition.cnn.com/"],
                        log: &[" 301 - via_upstream ", " PassthroughCluster ", " allow_any"],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: None,
                    },
                },
                Call {
                    says: "REGISTRY_ONLY answers plain HTTP with 502 …",
                    config: None,
                    flags: REGISTRY_ONLY,
                    curl: &["-I", "http://edition.cnn.com/"],
                    expect: Expect {
                        code: 0,
                        answer: &["HTTP/1.1 502 Bad Gateway"],
                        log: &[" 502 - direct_response ", " block_all"],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: None,
                    },
                },
                Call {
                    says: "… and closes TLS before the handshake; the log still has the name that was asked for.",
                    config: None,
                    flags: REGISTRY_ONLY,
                    curl: &["-I", "https://edition.cnn.com/"],
                    expect: Expect {
                        code: 35,
                        answer: &[],
                        log: &["\"- - -\" 0 UH ", " BlackHoleCluster ", " edition.cnn.com "],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: None,
                    },
                },
            ],
        },
        Scenario {
            title: "Registered hosts",
            config: &["000-01-se-se"],
            idea: "kind: ServiceEntry\nspec:\n  hosts: [httpbin.org]\n  ports: [80 HTTP, 443 HTTPS]\n  resolution: DNS",
            gateway: &[],
            calls: &[
                Call {
                    says: "The server sees which service was meant, and nothing about the pod.",
                    config: None,
                    flags: REGISTRY_ONLY,
                    curl: &["http://httpbin.org/headers"],
                    expect: Expect {
                        code: 0,
                        answer: &[
                            "HTTP/1.1 200 OK",
                            "x-envoy-upstream-service-time",
                            "\"X-Envoy-Decorator-Operation\": \"httpbin.org:80/*\"",
                        ],
                        log: &[" 200 - via_upstream ", " outbound|80||httpbin.org ", " default"],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: None,
                    },
                },
                Call {
                    says: "HTTPS is routed by its SNI and never opened: curl verifies google's own certificate.",
                    config: None,
                    flags: REGISTRY_ONLY,
                    curl: &["-I", "https://www.google.com/"],
                    expect: Expect {
                        code: 0,
                        answer: &["HTTP/2 200"],
                        log: &["\"- - -\" 0 - - - ", " outbound|443||www.google.com ", " www.google.com -"],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: None,
                    },
                },
            ],
        },
        Scenario {
            title: "A timeout on somebody else's service",
            config: &["000-01-se-se", "000-02-vs"],
            idea: "kind: VirtualService\nspec:\n  hosts: [httpbin.org]\n  http: [{timeout: 3s, route: [{destination: {host: httpbin.org}}]}]",
            gateway: &[],
            calls: &[Call {
                says: "The server would answer after five seconds.",
                config: None,
                flags: &[],
                curl: &["http://httpbin.org/delay/5"],
                expect: Expect {
                    code: 0,
                    answer: &[
                        "HTTP/1.1 504 Gateway Timeout",
                        "content-length: 24",
                        "upstream request timeout",
                    ],
                    log: &[" 504 UT upstream_response_timeout ", " outbound|80||httpbin.org "],
                    time_ms: 3000..3300,
                    bypassed: None,
                    server: None,
                },
            }],
        },
        Scenario {
            title: "TLS origination: the app says http, the server gets TLS",
            config: &["000-03-se", "000-04-vs", "000-05-dr"],
            idea: "kind: VirtualService    # *.apple.com, port 80 -> www.apple.com:443, subset tls-origination\nkind: DestinationRule   # that subset, port 443: tls: {mode: SIMPLE}",
            gateway: &[],
            calls: &[
                Call {
                    says: "Before, with the ServiceEntry alone: a redirect, so a second request.",
                    config: Some(&["000-03-se"]),
                    flags: &[],
                    curl: &["-I", "http://www.apple.com/"],
                    expect: Expect {
                        code: 0,
                        answer: &["HTTP/1.1 301 Moved Permanently", "location: https://www.apple.com/"],
                        log: &[" 301 - via_upstream ", " outbound|80||www.apple.com "],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: None,
                    },
                },
                Call {
                    says: "After: the answer at once.",
                    config: None,
                    flags: &[],
                    curl: &["-I", "http://www.apple.com/"],
                    expect: Expect {
                        code: 0,
                        answer: &["HTTP/1.1 200 OK"],
                        log: &[" 200 - via_upstream ", " outbound|443|tls-origination|www.apple.com "],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: Some(Server {
                            says: "one request arrived, over TLS",
                            requests: 1,
                            through_proxy: true,
                            tls: true,
                        }),
                    },
                },
                Call {
                    says: "The app's own HTTPS is not wrapped a second time.",
                    config: None,
                    flags: &[],
                    curl: &["-I", "https://www.apple.com/"],
                    expect: Expect {
                        code: 0,
                        answer: &["HTTP/2 200"],
                        log: &[" outbound|443||www.apple.com "],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: None,
                    },
                },
            ],
        },
        Scenario {
            title: "Only the ports that are registered",
            config: &["002-03-se"],
            idea: "kind: ServiceEntry\nspec:\n  hosts: [www.aliyun.com, hbchen.com]\n  ports: [80 HTTP]   # no 443\n  resolution: NONE   # to wherever the app was going",
            gateway: &[],
            calls: &[
                Call {
                    says: "Port 80 works.",
                    config: None,
                    flags: REGISTRY_ONLY,
                    curl: &["-I", "http://hbchen.com/"],
                    expect: Expect {
                        code: 0,
                        answer: &["HTTP/1.1 200 OK"],
                        log: &[" outbound|80||hbchen.com "],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: None,
                    },
                },
                Call {
                    says: "Port 443 of the same host does not, not even after a redirect.",
                    config: None,
                    flags: REGISTRY_ONLY,
                    curl: &["-I", "-L", "http://www.aliyun.com/"],
                    expect: Expect {
                        code: 35,
                        answer: &["HTTP/1.1 301 Moved Permanently", "location: https://www.aliyun.com/"],
                        log: &[" BlackHoleCluster ", " www.aliyun.com "],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: None,
                    },
                },
            ],
        },
        Scenario {
            title: "A range that is left alone",
            config: &["000-01-se-se"],
            idea: "traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.10.0.4/32   # here: --exclude-ip-ranges",
            gateway: &[],
            calls: &[
                Call {
                    says: "The kernel lets it go: no proxy, no log line, the client's own socket.",
                    config: None,
                    flags: EXCLUDE,
                    curl: &["-I", "http://10.10.0.4/"],
                    expect: Expect {
                        code: 0,
                        answer: &["HTTP/1.1 200 OK"],
                        log: &[],
                        time_ms: ANY_TIME,
                        bypassed: Some("excluded_range"),
                        server: Some(Server {
                            says: "curl's own socket, no header of a proxy",
                            requests: 1,
                            through_proxy: false,
                            tls: false,
                        }),
                    },
                },
                Call {
                    says: "Its neighbour is intercepted, and blocked.",
                    config: None,
                    flags: EXCLUDE,
                    curl: &["-I", "http://10.10.0.5/"],
                    expect: Expect {
                        code: 0,
                        answer: &["HTTP/1.1 502 Bad Gateway"],
                        log: &[" 502 - direct_response ", " block_all"],
                        time_ms: ANY_TIME,
                        bypassed: None,
                        server: None,
                    },
                },
            ],
        },
    ]
}
