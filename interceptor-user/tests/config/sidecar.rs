//! Sidecar: which one holds for a client, what it lets in, and what becomes of the rest.

use interceptor_user::compile::Client;
use interceptor_user::snapshot::ClusterName;

use crate::support::{Config, for_client_of_mesh};

fn entry(namespace: &str, name: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         hosts: [{host}]\n  ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 443, name: tls, protocol: TLS}}, \
         {{number: 8080, name: alt, protocol: HTTP}}]\n  resolution: DNS\n---\n"
    )
}

fn sidecar(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn entries() -> String {
    entry("web", "a", "a.example.com")
        + &entry("other", "b", "b.example.com")
        + &entry("third", "c", "c.other.org")
}

fn of_client(yaml: &str, client: Client) -> Config {
    for_client_of_mesh(yaml, "{}", client)
}

fn web(labels: &[(&str, &str)]) -> Client {
    let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Client { labels, ..Client::in_namespace("web") }
}

/// The hosts that a request on port 80 finds.
fn seen(config: &Config) -> Vec<&'static str> {
    let hosts = ["a.example.com", "b.example.com", "c.other.org"];
    let is_known = |host: &&str| {
        config.ask(&format!("203.0.113.9:80 http GET http://{host}/")).starts_with("outbound|80||")
    };
    hosts.into_iter().filter(is_known).collect()
}

#[test]
fn egress_hosts_decide_what_is_there() {
    let all = ["a.example.com", "b.example.com", "c.other.org"];
    for (spec, expected) in [
        ("{}", &all[..]),
        ("{egress: [{hosts: ['*/*']}]}", &all),
        ("{egress: [{hosts: ['./*']}]}", &all[..1]),
        ("{egress: [{hosts: ['other/*']}]}", &all[1..2]),
        ("{egress: [{hosts: ['*/*.example.com']}]}", &all[..2]),
        ("{egress: [{hosts: ['*/c.other.org', 'web/*']}]}", &["a.example.com", "c.other.org"]),
        ("{egress: [{hosts: ['other/a.example.com']}]}", &[]),
        ("{egress: [{hosts: ['~/*']}]}", &[]),
    ] {
        let config = of_client(&(entries() + &sidecar("web", "s", spec)), web(&[]));
        // Of nobody HTTP on port 80 remains when nothing is seen.
        let seen =
            if expected.is_empty() && config.snapshot.by_port.is_empty() { vec![] } else { seen(&config) };
        assert_eq!(seen, expected, "{spec}");
        let known =
            config.snapshot.clusters.keys().filter(|name| name.0.starts_with("outbound|443|")).count();
        assert_eq!(known, expected.len(), "{spec}");
    }
}

#[test]
fn what_is_not_exported_no_sidecar_brings_in() {
    let yaml = entries().replace("hosts: [b.example.com]", "exportTo: ['.']\n  hosts: [b.example.com]");
    let config = of_client(&(yaml + &sidecar("web", "s", "{egress: [{hosts: ['*/*']}]}")), web(&[]));
    assert_eq!(seen(&config), ["a.example.com", "c.other.org"]);
}

#[test]
fn the_nearest_sidecar_holds() {
    let only = |host: &str| format!("egress: [{{hosts: ['*/{host}']}}]");
    let of = |namespace: &str, name: &str, selector: &str, host: &str| {
        sidecar(namespace, name, &format!("{{{selector}{}}}", only(host)))
    };
    let app = "workloadSelector: {labels: {app: x}}, ";
    let root = of("istio-system", "r", "", "c.other.org");
    let whole = of("web", "n", "", "a.example.com");
    let selected = of("web", "s", app, "b.example.com");
    let other = of("third", "t", "", "c.other.org");
    for (sidecars, labels, expected) in [
        (root.clone(), &[][..], "c.other.org"),
        (root.clone() + &whole, &[], "a.example.com"),
        (root.clone() + &whole + &selected, &[("app", "x"), ("b", "c")], "b.example.com"),
        (root.clone() + &whole + &selected, &[("app", "y")], "a.example.com"),
        (root.clone() + &selected, &[("app", "y")], "c.other.org"),
        (whole + &other, &[], "a.example.com"),
        // With a selector the root namespace's is for its own workloads.
        (of("istio-system", "r", app, "a.example.com") + &root, &[("app", "x")], "c.other.org"),
    ] {
        let config = of_client(&(entries() + &sidecars), web(labels));
        assert_eq!(seen(&config), [expected], "{sidecars}");
    }
}

#[test]
fn of_two_that_fit_the_older_holds() {
    let of = |name: &str, time: &str, host: &str| {
        sidecar(
            "web",
            name,
            &format!("{{workloadSelector: {{labels: {{app: x}}}}, egress: [{{hosts: ['*/{host}']}}]}}"),
        )
        .replace("namespace: web}", &format!("namespace: web, creationTimestamp: '{time}'}}"))
    };
    let yaml = entries()
        + &of("a", "2021-01-01T00:00:00Z", "a.example.com")
        + &of("b", "2020-01-01T00:00:00Z", "b.example.com");
    assert_eq!(seen(&of_client(&yaml, web(&[("app", "x")]))), ["b.example.com"]);
}

#[test]
fn a_sidecars_outbound_policy_goes_before_the_meshs() {
    for (spec, expected) in [
        ("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}", "close"),
        ("{outboundTrafficPolicy: {mode: ALLOW_ANY}}", "PassthroughCluster"),
        ("{}", "PassthroughCluster"),
        // The enum's zero.
        ("{outboundTrafficPolicy: {}}", "close"),
    ] {
        let config = of_client(&(entries() + &sidecar("web", "s", spec)), web(&[]));
        assert_eq!(config.ask("203.0.113.9:9999 tcp"), expected, "{spec}");
    }
    let annotated =
        Client { policy: interceptor_user::resource::ClientPolicy::parse("ALLOW_ANY").unwrap(), ..web(&[]) };
    let yaml = sidecar("web", "s", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}");
    assert_eq!(of_client(&yaml, annotated).ask("203.0.113.9:9999 tcp"), "PassthroughCluster");
}

#[test]
fn registry_only_blocks_what_the_sidecar_leaves_out() {
    let spec = "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, egress: [{hosts: ['./*']}]}";
    let config = of_client(&(entries() + &sidecar("web", "s", spec)), web(&[]));
    for (connection, expected) in [
        ("203.0.113.9:80 http GET http://a.example.com/", "outbound|80||a.example.com default"),
        ("203.0.113.9:80 http GET http://b.example.com/", "502 block_all"),
        ("203.0.113.9:443 tls a.example.com", "outbound|443||a.example.com"),
        ("203.0.113.9:443 tls b.example.com", "close"),
    ] {
        assert_eq!(config.ask(connection), expected, "{connection}");
    }
}

#[test]
fn virtual_services_come_in_by_their_hosts_and_bring_their_destinations() {
    let route = |namespace: &str, host: &str, to: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs, namespace: {namespace}}}\nspec:\n  \
             hosts: [{host}]\n  http: [{{name: r, route: [{{destination: {{host: {to}}}}}]}}]\n---\n"
        )
    };
    let ask = |virtual_service: String, hosts: &str| {
        let yaml =
            entries() + &virtual_service + &sidecar("web", "s", &format!("{{egress: [{{hosts: {hosts}}}]}}"));
        let config = of_client(&yaml, web(&[]));
        (
            config.ask("203.0.113.9:80 http GET http://a.example.com/"),
            config.snapshot.clusters.contains_key(&ClusterName::outbound(80, "", "b.example.com")),
        )
    };
    let own = |cluster: &str| format!("outbound|80||{cluster}");
    for (virtual_service, hosts, expected) in [
        (route("web", "a.example.com", "b.example.com"), "['./*']", (own("b.example.com r"), true)),
        // Another namespace's VirtualService is not in scope.
        (route("other", "a.example.com", "b.example.com"), "['./*']", (own("a.example.com default"), false)),
        (
            route("other", "a.example.com", "b.example.com"),
            "['./*', 'other/a.example.com']",
            (own("b.example.com r"), true),
        ),
        (
            route("web", "'*.example.com'", "b.example.com"),
            "['./a.example.com']",
            (own("b.example.com r"), true),
        ),
        (
            route("web", "x.example.com", "b.example.com"),
            "['./a.example.com']",
            (own("a.example.com default"), false),
        ),
    ] {
        let shown = format!("{virtual_service} {hosts}");
        assert_eq!(ask(virtual_service, hosts), expected, "{shown}");
    }
    // The destination is reached through the route alone.
    let yaml = entries()
        + &route("web", "a.example.com", "b.example.com")
        + &sidecar("web", "s", "{egress: [{hosts: ['./*']}]}");
    let config = of_client(&yaml, web(&[]));
    assert_eq!(config.ask("203.0.113.9:80 http GET http://b.example.com/"), "PassthroughCluster allow_any");
    assert_eq!(config.ask("203.0.113.9:443 tls b.example.com"), "PassthroughCluster");
}

#[test]
fn listeners_with_a_port_bring_in_that_port() {
    let spec =
        "{egress: [{port: {number: 80, protocol: HTTP, name: http}, hosts: ['other/*']}, {hosts: ['./*']}]}";
    let config = of_client(&(entries() + &sidecar("web", "s", spec)), web(&[]));
    for (connection, expected) in [
        ("203.0.113.9:80 http GET http://b.example.com/", "outbound|80||b.example.com default"),
        // Port 80 is the first listener's alone.
        ("203.0.113.9:80 http GET http://a.example.com/", "PassthroughCluster allow_any"),
        ("203.0.113.9:8080 http GET http://a.example.com/", "outbound|8080||a.example.com default"),
        ("203.0.113.9:8080 http GET http://b.example.com/", "PassthroughCluster allow_any"),
        ("203.0.113.9:443 tls a.example.com", "outbound|443||a.example.com"),
        ("203.0.113.9:443 tls b.example.com", "PassthroughCluster"),
    ] {
        assert_eq!(config.ask(connection), expected, "{connection}");
    }
}

#[test]
fn a_listener_may_have_an_address_and_its_own_protocol() {
    let spec =
        "{egress: [{port: {number: 443, protocol: TCP, name: tcp}, bind: 10.9.9.9, hosts: ['other/*']}]}";
    let config = of_client(&(entries() + &sidecar("web", "s", spec)), web(&[]));
    assert_eq!(config.ask("10.9.9.9:443 tcp"), "outbound|443||b.example.com");
    assert_eq!(config.ask("203.0.113.9:443 tls b.example.com"), "PassthroughCluster");
    let spec =
        "{egress: [{port: {number: 80, protocol: HTTP, name: h}, bind: 10.9.9.9, hosts: ['other/*']}]}";
    let config = of_client(&(entries() + &sidecar("web", "s", spec)), web(&[]));
    assert_eq!(
        config.ask("10.9.9.9:80 http GET http://b.example.com/"),
        "outbound|80||b.example.com default"
    );
    assert_eq!(config.ask("203.0.113.9:80 tcp"), "PassthroughCluster");
    let spec = "{egress: [{port: {number: 80, protocol: HTTP, name: h}, bind: 127.0.0.1, captureMode: NONE, hosts: ['other/*']}]}";
    let config = of_client(&(entries() + &sidecar("web", "s", spec)), web(&[]));
    assert!(config.found().contains("are not taken over here"), "{}", config.found());
}

/// Where `proxy.example.com` is, and a Sidecar that sends what nobody declared there.
fn with_egress_proxy(policy: &str) -> String {
    let proxy = entry("web", "proxy", "proxy.example.com");
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: dr, namespace: web}\n\
                spec: {host: proxy.example.com, subsets: [{name: tls, trafficPolicy: {tls: {mode: SIMPLE}}}]}\n---\n";
    let tcp = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: tcp, namespace: web}\nspec:\n  \
               hosts: [tcp.example.com]\n  addresses: [192.0.2.0/24]\n  \
               ports: [{number: 5432, name: tcp, protocol: TCP}]\n---\n";
    entries() + &proxy + rule + tcp + &sidecar("web", "s", &format!("{{outboundTrafficPolicy: {policy}}}"))
}

#[test]
fn an_egress_proxy_gets_what_nobody_declared() {
    for (proxy, cluster) in [
        ("host: proxy.example.com, port: {number: 8080}", "outbound|8080||proxy.example.com"),
        ("host: proxy.example.com, port: {number: 443}, subset: tls", "outbound|443|tls|proxy.example.com"),
    ] {
        let yaml = with_egress_proxy(&format!("{{mode: ALLOW_ANY, egressProxy: {{{proxy}}}}}"));
        let config = of_client(&yaml, web(&[]));
        assert!(!config.found().contains("egressProxy"), "{}", config.found());
        let route = format!("{cluster} allow_any");
        for (connection, expected) in [
            // What is declared goes where it did.
            ("203.0.113.9:80 http GET http://a.example.com/", "outbound|80||a.example.com default"),
            ("203.0.113.9:443 tls a.example.com", "outbound|443||a.example.com"),
            ("192.0.2.1:5432 tcp", "outbound|5432||tcp.example.com"),
            ("203.0.113.9:80 http GET http://unknown.example.net/", &*route),
            ("203.0.113.9:80 tcp", cluster),
            ("203.0.113.9:443 tls unknown.example.net", cluster),
            ("203.0.113.9:443 tls -", cluster),
            ("203.0.113.9:5432 tcp", cluster),
            // Ports that nobody has: requests are opaque bytes there, as with Istio.
            ("203.0.113.9:7000 tcp", cluster),
            ("203.0.113.9:7000 tls a.example.com", cluster),
            ("203.0.113.9:7000 http GET http://unknown.example.net/", cluster),
        ] {
            assert_eq!(config.ask(connection), expected, "{connection}");
        }
        let catch_all = config.route("203.0.113.9:80 http GET http://unknown.example.net/").unwrap();
        let interceptor_user::snapshot::RouteAction::Forward(forward) = &catch_all.action else {
            panic!("{catch_all:?}")
        };
        assert_eq!((forward.timeout, &forward.retries), (None, &None));
    }
}

#[test]
fn whoever_overrides_the_sidecars_policy_overrides_its_proxy() {
    let yaml =
        with_egress_proxy("{mode: ALLOW_ANY, egressProxy: {host: proxy.example.com, port: {number: 8080}}}");
    let unknown = "203.0.113.9:80 http GET http://unknown.example.net/";
    for (policy, expected) in [
        ("", "outbound|8080||proxy.example.com allow_any"),
        ("strict", "outbound|8080||proxy.example.com allow_any"),
        ("ALLOW_ANY", "PassthroughCluster allow_any"),
        ("REGISTRY_ONLY", "502 block_all"),
    ] {
        let policy = interceptor_user::resource::ClientPolicy::parse(policy).unwrap();
        let config = of_client(&yaml, Client { policy, ..web(&[]) });
        assert_eq!(config.ask(unknown), expected, "{policy:?}");
    }
    // It is not theirs.
    assert_eq!(of_client(&yaml, Client::default()).ask(unknown), "PassthroughCluster allow_any");
}

#[test]
fn an_egress_proxy_that_is_not_there_is_told_and_lets_nothing_through() {
    let unknown = "203.0.113.9:80 http GET http://unknown.example.net/";
    for (proxy, egress, cluster) in [
        ("host: nobody.example.com, port: {number: 80}", "", "outbound|80||nobody.example.com"),
        ("host: proxy.example.com, port: {number: 81}", "", "outbound|81||proxy.example.com"),
        ("host: proxy.example.com, port: {number: 80}, subset: x", "", "outbound|80|x|proxy.example.com"),
        // Istio wants it imported like every host.
        (
            "host: proxy.example.com, port: {number: 80}",
            ", egress: [{hosts: ['*/a.example.com']}]",
            "outbound|80||proxy.example.com",
        ),
    ] {
        let yaml = with_egress_proxy(&format!("{{mode: ALLOW_ANY, egressProxy: {{{proxy}}}}}{egress}"));
        let config = of_client(&yaml, web(&[]));
        assert_eq!(config.ask(unknown), format!("{cluster}(missing) allow_any"));
        assert_eq!(config.ask("203.0.113.9:7000 tcp"), format!("{cluster}(missing)"));
        let found = config.found();
        let expected =
            format!("Sidecar web/s: spec.outboundTrafficPolicy.egressProxy: there is no cluster {cluster}: ");
        assert!(found.contains("[IST0101]") && found.contains(&expected), "{found}");
    }
}
