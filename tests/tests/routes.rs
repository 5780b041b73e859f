//! VirtualService routes: matching on port, authority, uri, headers and method, and where they lead.

use interceptor_tests::World;

const CONFIG: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: sites}
spec:
  hosts: [hbchen.com, www.google.com, ilb.test, neighbour.test]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 8080, name: http-alt, protocol: HTTP}
  resolution: DNS
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: routes}
spec:
  hosts: [hbchen.com]
  http:
  - name: by-header
    match: [{headers: {x-canary: {exact: 'yes'}}}]
    route: [{destination: {host: ilb.test, port: {number: 80}}}]
  - name: by-method-and-path
    match: [{method: {exact: POST}, uri: {prefix: /api}}]
    route: [{destination: {host: neighbour.test, port: {number: 8080}}}]
  - name: by-regex
    match: [{uri: {regex: '/v[0-9]+/.*'}}]
    route: [{destination: {host: www.google.com, port: {number: 80}}}]
  - name: by-authority
    match: [{authority: {prefix: 'HBCHEN'}}, {uri: {exact: /exact}}]
    route: [{destination: {host: ilb.test, port: {number: 80}}}]
  - name: by-port
    match: [{port: 8080}]
    route: [{destination: {host: hbchen.com, port: {number: 80}}}]
  - name: rest
    route: [{destination: {host: hbchen.com}}]
";

#[test]
fn the_first_match_wins() -> anyhow::Result<()> {
    let world = World::shared()?;
    let rows: &[(&[&str], &str, &str)] = &[
        (&["http://hbchen.com/"], "rest", "outbound|80||hbchen.com"),
        (&["-H", "X-Canary: yes", "http://hbchen.com/"], "by-header", "outbound|80||ilb.test"),
        (&["-H", "X-Canary: yesyes", "http://hbchen.com/"], "rest", "outbound|80||hbchen.com"),
        (&["-d", "x", "http://hbchen.com/api/1"], "by-method-and-path", "outbound|8080||neighbour.test"),
        (&["http://hbchen.com/api/1"], "rest", "outbound|80||hbchen.com"),
        (&["http://hbchen.com/v12/x"], "by-regex", "outbound|80||www.google.com"),
        // A regex holds for the whole path.
        (&["http://hbchen.com/x/v12/x"], "rest", "outbound|80||hbchen.com"),
        (&["http://hbchen.com/exact"], "by-authority", "outbound|80||ilb.test"),
        (&["http://hbchen.com/exact?query=1"], "by-authority", "outbound|80||ilb.test"),
        (&["http://hbchen.com/exactly"], "rest", "outbound|80||hbchen.com"),
        (&["-H", "Host: HBCHEN.com", "http://hbchen.com/"], "by-authority", "outbound|80||ilb.test"),
        (&["http://hbchen.com:8080/"], "by-port", "outbound|80||hbchen.com"),
    ];
    let pod = world.pod()?;
    for (args, route, cluster) in rows {
        let run = pod.interceptor()?.config(CONFIG)?.registry_only().curl(args)?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status, 200, "{args:?}");
        let line = run.line()?;
        assert_eq!((line.route.as_str(), line.cluster.as_str()), (*route, *cluster), "{args:?}");
    }
    Ok(())
}

#[test]
fn the_port_in_host_does_not_matter() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(CONFIG)?.registry_only().curl(&[
        "-H",
        "Host: WWW.Google.com:80",
        "http://www.google.com/",
    ])?;
    run.expect_code(0)?;
    assert_eq!(run.line()?.cluster, "outbound|80||www.google.com");
    assert_eq!(run.line()?.authority, "WWW.Google.com:80");
    Ok(())
}

#[test]
fn tls_routes_by_name() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: sites}
spec:
  hosts: [www.apple.com, www.aliyun.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tls}
spec:
  hosts: [www.apple.com]
  tls:
  - match: [{port: 443, sniHosts: [www.apple.com]}]
    route: [{destination: {host: www.aliyun.com, port: {number: 443}}}]
";
    let run = pod.interceptor()?.config(config)?.registry_only().curl(&["https://www.apple.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.body, "www.aliyun.com says hello over https\n");
    let line = run.line()?;
    assert_eq!((line.cluster.as_str(), line.sni.as_str()), ("outbound|443||www.aliyun.com", "www.apple.com"));
    Ok(())
}

#[test]
fn dots_in_a_path_can_not_go_around_a_route() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: site}
spec:
  hosts: [hbchen.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: public}
spec:
  hosts: [hbchen.com]
  http:
  - match: [{uri: {prefix: /public/}}]
    route: [{destination: {host: hbchen.com}}]
  - directResponse: {status: 403}
";
    for (path, status) in [
        ("/public/x", 200),
        ("/public/a/../b", 200),
        ("/secret", 403),
        ("/public/../secret", 403),
        ("/public/%2e%2E/secret", 403),
        ("/public/./../secret", 403),
    ] {
        let url = format!("http://hbchen.com{path}");
        let run = pod.interceptor()?.config(config)?.curl(&["--path-as-is", &url])?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status, status, "{path}");
    }
    // The server gets the path that was judged.
    let paths: Vec<String> =
        world.nginx.wait_hits(&pod.address, 2)?.iter().map(|hit| hit.get("uri").to_owned()).collect();
    assert_eq!(paths, ["/public/x", "/public/b"]);
    Ok(())
}

#[test]
fn one_host_of_a_wildcard_goes_elsewhere() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ['*.apple.com']
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other}
spec:
  hosts: [www.aliyun.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tls}
spec:
  hosts: [www.apple.com]
  tls:
  - match: [{port: 443, sniHosts: [www.apple.com]}]
    route: [{destination: {host: www.aliyun.com, port: {number: 443}}}]
";
    let run = pod.interceptor()?.config(config)?.registry_only().curl(&["https://www.apple.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.line()?.cluster, "outbound|443||www.aliyun.com");
    Ok(())
}
