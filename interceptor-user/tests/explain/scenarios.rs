//! The tutorials' scenarios: what is told of each, whole where the text matters, else who takes it and what is logged.

use interceptor_user::explain::Spoken;

use crate::support::{Case, logged, same_text};

#[test]
fn a_timeout_is_told_with_the_rule_that_sets_it() {
    let explanation = Case::seeds(&["000-01", "000-02"]).ask("http://httpbin.org/delay/5");
    same_text(
        &explanation.to_string(),
        "
http://httpbin.org/delay/5 from namespace default
address       any: not known without --address or --resolve
protocol      HTTP, by the target's scheme

kernel        redirected to the proxy: the destination is in an included outbound IP range (*)
listener      0.0.0.0_80: services on port 80 share it, whatever the address
                by ServiceEntry default/external-httpbin spec.ports[0] (000-01.yaml:27:5)
                one more service has the port
chain         HTTP: requests are routed by Host, in route table 80
virtual host  httpbin.org:80: it has httpbin.org
                by ServiceEntry default/external-httpbin spec.hosts[0] (000-01.yaml:25:5)
route         -: to outbound|80||httpbin.org
                by VirtualService default/httpbin-org spec.http[0] (000-02.yaml:11:5)
cluster       outbound|80||httpbin.org
                by ServiceEntry default/external-httpbin spec.hosts[0] (000-01.yaml:25:5)
                requests go as HTTP/1.1; load balancing LEAST_REQUEST; connect timeout 10s
endpoints     every address of httpbin.org:80
                ServiceEntry default/external-httpbin has resolution DNS
tls           none is added: what the application sends goes out as it is
limits        timeout 3s; retries: 2 more tries on connect-failure,refused-stream,unavailable,cancelled
                by VirtualService default/httpbin-org spec.http[0] (000-02.yaml:11:5)
client sees   what the server answers, through the proxy
access log    cluster outbound|80||httpbin.org, route -, flags -, details via_upstream
",
    );
    assert!(explanation.is_carried());
}

#[test]
fn tls_origination_is_told_with_its_subset_and_port() {
    let explanation = Case::seeds(&["000-03", "000-04", "000-05"]).ask("http://www.apple.com:80/");
    same_text(
        &explanation.to_string(),
        "
http://www.apple.com:80/ from namespace default
address       any: not known without --address or --resolve
protocol      HTTP, by the target's scheme

kernel        redirected to the proxy: the destination is in an included outbound IP range (*)
listener      0.0.0.0_80: services on port 80 share it, whatever the address
                by ServiceEntry default/apple-com spec.ports[0] (000-03.yaml:10:5)
chain         HTTP: requests are routed by Host, in route table 80
virtual host  www.apple.com:80: it has www.apple.com
                by ServiceEntry default/apple-com spec.hosts[1] (000-03.yaml:8:5)
route         -: to outbound|443|tls-origination|www.apple.com
                by VirtualService default/apple-com spec.http[0].match[0] (000-04.yaml:10:7)
cluster       outbound|443|tls-origination|www.apple.com
                by ServiceEntry default/apple-com spec.hosts[1] (000-03.yaml:8:5)
                by DestinationRule default/apple-com (000-05.yaml:1:1)
                requests go as HTTP/1.1; load balancing LEAST_REQUEST; connect timeout 10s
endpoints     every address of www.apple.com:443
                ServiceEntry default/apple-com has resolution DNS
tls           SIMPLE: TLS is put around what is sent; server name: the request's Host
                by DestinationRule default/apple-com spec.subsets[0].trafficPolicy.portLevelSettings[port 443].tls \
(000-05.yaml:16:11)
                the server's certificate must be valid for the request's Host, by the system's roots
limits        timeout none; retries: 2 more tries on connect-failure,refused-stream,unavailable,cancelled
                by VirtualService default/apple-com spec.http[0].match[0] (000-04.yaml:10:7)
client sees   what the server answers, through the proxy
access log    cluster outbound|443|tls-origination|www.apple.com, route -, flags -, details via_upstream
",
    );
}

#[test]
fn a_host_that_nobody_registered_is_told_with_the_policy() {
    let case = Case::seeds(&["001-01", "001-02"]).registry_only();
    same_text(
        &case.ask("http://edition.cnn.com/").to_string(),
        "
http://edition.cnn.com/ from namespace default
address       any: not known without --address or --resolve
protocol      HTTP, by the target's scheme

kernel        redirected to the proxy: the destination is in an included outbound IP range (*)
listener      0.0.0.0_80: services on port 80 share it, whatever the address
                by ServiceEntry default/httpbin-ext spec.ports[0] (001-01.yaml:10:5)
chain         HTTP: requests are routed by Host, in route table 80
virtual host  block_all: no service on this port has edition.cnn.com
                the policy is that of --outbound-traffic-policy
route         block_all: answered with 502
client sees   502 Bad Gateway from the proxy, with an empty body
access log    cluster -, route block_all, flags -, details direct_response
",
    );
    same_text(
        &case.ask("https://edition.cnn.com").to_string(),
        "
https://edition.cnn.com from namespace default
address       any: not known without --address or --resolve
protocol      TLS, by the target's scheme

kernel        redirected to the proxy: the destination is in an included outbound IP range (*)
listener      0.0.0.0_443: services on port 443 share it, whatever the address
                by ServiceEntry default/google spec.ports[0] (001-02.yaml:10:5)
chain         TLS for edition.cnn.com: no chain takes it, so that the policy decides (REGISTRY_ONLY): closed
                the policy is that of --outbound-traffic-policy
                server names of this listener: 1, none fits edition.cnn.com
client sees   the connection is reset before the handshake
access log    cluster BlackHoleCluster, route -, flags UH, details -
",
    );
}

#[test]
fn an_excluded_range_is_told_with_the_range() {
    let case = Case::seeds(&["004-01"]).annotated("excludeOutboundIPRanges", "10.0.0.0/8,10.10.0.4/32");
    let explanation = case.ask("http://10.10.0.4/");
    same_text(
        &explanation.to_string(),
        "
http://10.10.0.4/ from namespace default
address       10.10.0.4, as in the target
protocol      HTTP, by the target's scheme

kernel        left alone: the destination is in an excluded outbound IP range (10.10.0.4/32)
client sees   what the destination answers, as without interception: the destination is in an excluded outbound IP range
access log    nothing
",
    );
    assert!(explanation.is_carried());
}

/// Files don't tell a pod's routes.
#[test]
fn an_excluded_interface_is_told_of_as_far_as_it_is_known() {
    let case = Case::seeds(&["004-01"]).annotated("excludeInterfaces", "net1,net2");
    let text = case.ask("http://10.10.0.4/").to_string();
    let note =
        "what leaves by net1, net2 would be left alone (excludeInterfaces); no route by it is known here";
    assert!(text.contains("redirected to the proxy") && text.contains(note), "{text}");
}

/// A row: seeds, policy, target, what the log will say.
#[test]
fn what_the_tutorials_see() {
    let rows: &[(&[&str], bool, &str, &str)] = &[
        (&["000-01"], false, "http://google.com/", "outbound|80||google.com default - via_upstream"),
        (&["000-01"], false, "http://apple.com/", "PassthroughCluster allow_any - via_upstream"),
        (&["000-01"], false, "https://www.google.com", "outbound|443||www.google.com - - -"),
        (&["000-01"], false, "https://apple.com", "PassthroughCluster - - -"),
        (&["000-01"], false, "tcp://apple.com:5000", "PassthroughCluster - - -"),
        (&["000-01"], true, "http://apple.com:8080/", "BlackHoleCluster - UH - refused"),
        (&["001-01", "001-02"], true, "https://www.google.com", "outbound|443||www.google.com - - -"),
        (&["002-03"], true, "http://hbchen.com/", "outbound|80||hbchen.com default - via_upstream"),
        (
            &["002-05"],
            true,
            "http://www.aliyun.com/",
            "outbound|443|originate-tls|www.aliyun.com - - via_upstream",
        ),
        (&["002-05"], true, "https://www.aliyun.com/", "outbound|443||www.aliyun.com - - -"),
        // The gateway's service is declared nowhere: its cluster does not exist.
        (&["002-06", "002-07"], true, "http://www.aliyun.com/", "- - NC cluster_not_found refused"),
        (&["003-01", "003-03"], true, "https://httpbin.org", "- - NC - refused"),
    ];
    for (seeds, registry_only, target, expected) in rows {
        let case = Case::seeds(seeds);
        let case = if *registry_only { case.registry_only() } else { case };
        let explanation = case.ask(target);
        assert_eq!(logged(&explanation), *expected, "{target}\n{explanation}");
        assert_eq!(explanation.is_carried(), !expected.contains("refused"), "{target}");
    }
}

#[test]
fn what_is_spoken_follows_the_registry_where_the_target_does_not_say() {
    let case = Case::seeds(&["000-01"]);
    for (target, expected, because) in [
        ("google.com:80", Spoken::Http, "as ServiceEntry default/external-google declares port 80"),
        ("www.google.com:443", Spoken::Tls, "as ServiceEntry default/external-google declares port 443"),
        ("cnn.com:443", Spoken::Tls, "as is usual on port 443"),
        ("cnn.com:80", Spoken::Http, "as is usual on port 80"),
        ("cnn.com:5432", Spoken::Tcp, "nothing says otherwise"),
    ] {
        let explanation = case.ask(target);
        assert_eq!(explanation.protocol, expected, "{target}");
        assert!(
            explanation.protocol_because.starts_with(because),
            "{target}: {}",
            explanation.protocol_because
        );
    }
}
