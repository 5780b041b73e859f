//! The scenarios with an egress gateway, on a host of its own: what the logs of both hops show.

use crate::scenarios::{ANY_TIME, Call, Expect, REGISTRY_ONLY, Scenario};

pub(crate) fn all() -> &'static [Scenario] {
    &[
        Scenario {
            title: "Through an egress gateway",
            config: &["002-06-se", "002-07-gw-dr-vs"],
            idea: "kind: Gateway          # port 80 HTTP, www.aliyun.com\nkind: VirtualService   # mesh -> istio-egressgateway:80; istio-egressgateway -> www.aliyun.com:80",
            gateway: &[" 301 - via_upstream ", " outbound|80||www.aliyun.com "],
            calls: &[Call {
                says: "The application's side sends it to the gateway, the gateway sends it on: a line in each log.",
                config: None,
                flags: REGISTRY_ONLY,
                curl: &["-I", "http://www.aliyun.com/"],
                expect: Expect {
                    code: 0,
                    answer: &["HTTP/1.1 301 Moved Permanently", "location: https://www.aliyun.com/"],
                    log: &[
                        " 301 - via_upstream ",
                        " outbound|80|aliyun|istio-egressgateway.istio-system.svc.cluster.local ",
                    ],
                    time_ms: ANY_TIME,
                    bypassed: None,
                    server: None,
                },
            }],
        },
        Scenario {
            title: "HTTPS through the gateway, unopened",
            config: &["003-01-se", "003-03-gw-vs"],
            idea: "kind: Gateway          # port 443 TLS, httpbin.org, tls: {mode: PASSTHROUGH}\nkind: VirtualService   # tls: sniHosts [httpbin.org]",
            gateway: &["\"- - -\" 0 - ", " outbound|443||httpbin.org ", " httpbin.org -"],
            calls: &[Call {
                says: "Both hops go by the server name; curl verifies httpbin's own certificate.",
                config: None,
                flags: REGISTRY_ONLY,
                curl: &["https://httpbin.org/headers"],
                expect: Expect {
                    code: 0,
                    answer: &["HTTP/"],
                    log: &[
                        "\"- - -\" 0 - ",
                        " outbound|443||istio-egressgateway.istio-system.svc.cluster.local ",
                        " httpbin.org -",
                    ],
                    time_ms: ANY_TIME,
                    bypassed: None,
                    server: None,
                },
            }],
        },
        Scenario {
            title: "TLS that begins at the gateway",
            config: &["002-06-se", "002-08-gw-dr-vs-dr"],
            idea: "kind: VirtualService    # istio-egressgateway -> www.aliyun.com:443, subset originate-tls\nkind: DestinationRule   # that subset, port 443: tls: {mode: SIMPLE}",
            gateway: &[" 200 - via_upstream ", " outbound|443|originate-tls|www.aliyun.com "],
            calls: &[Call {
                says: "The app says http, the gateway speaks TLS with the server.",
                config: None,
                flags: REGISTRY_ONLY,
                curl: &["http://www.aliyun.com/"],
                expect: Expect {
                    code: 0,
                    answer: &["HTTP/1.1 200 OK", "www.aliyun.com says hello over https"],
                    log: &[
                        " 200 - via_upstream ",
                        " outbound|80|aliyun|istio-egressgateway.istio-system.svc.cluster.local ",
                    ],
                    time_ms: ANY_TIME,
                    bypassed: None,
                    server: None,
                },
            }],
        },
    ]
}
