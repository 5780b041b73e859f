//! Scenario 5: only the ports of a ServiceEntry are open, and `resolution: NONE` goes where the app went.

use interceptor_tests::{World, seeds};

#[test]
fn port_80_only() -> anyhow::Result<()> {
    let world = World::shared()?;
    let config = seeds(&["002-03-se"])?;
    let get = |args: &[&str]| {
        let pod = world.pod()?;
        pod.interceptor()?.config(&config)?.registry_only().curl(args)
    };
    let run = get(&["-L", "http://hbchen.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status_line, "HTTP/1.1 200 OK");
    assert_eq!(run.line()?.cluster, "outbound|80||hbchen.com");

    // The redirect arrives, what it points to is blocked.
    let run = get(&["-L", "http://www.aliyun.com/"])?;
    run.expect_code(35)?;
    assert!(run.text().starts_with("HTTP/1.1 301 Moved Permanently\r\n"), "{}", run.text());
    let clusters: Vec<String> = run.lines()?.into_iter().map(|line| line.cluster).collect();
    assert_eq!(clusters, ["outbound|80||www.aliyun.com", "BlackHoleCluster"]);

    let run = get(&["https://www.aliyun.com/"])?;
    run.expect_code(35)?;
    assert_eq!(run.line()?.sni, "www.aliyun.com");
    Ok(())
}

#[test]
fn ports_80_and_443() -> anyhow::Result<()> {
    let world = World::shared()?;
    let config = seeds(&["002-04-se"])?;
    for args in [&["-L", "http://www.aliyun.com/"][..], &["https://www.aliyun.com/"][..]] {
        let pod = world.pod()?;
        let run = pod.interceptor()?.config(&config)?.registry_only().curl(args)?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status_line, "HTTP/2 200 ");
        let last = run.lines()?.pop().map(|line| line.cluster);
        assert_eq!(last.as_deref(), Some("outbound|443||www.aliyun.com"));
    }
    Ok(())
}

#[test]
fn resolution_none_goes_where_the_app_went() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&seeds(&["002-03-se"])?)?.registry_only().curl(&[
        "--connect-to",
        "::10.10.0.5:",
        "http://hbchen.com/",
    ])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.body, "neighbour.test says hello over http\n");
    let line = run.line()?;
    assert_eq!(
        (line.cluster.as_str(), line.upstream_host.as_str()),
        ("outbound|80||hbchen.com", "10.10.0.5:80")
    );
    Ok(())
}

#[test]
fn an_address_takes_every_host_on_its_port() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank}
spec:
  hosts: [bank.test]
  addresses: [10.10.0.0/29]
  ports: [{number: 8080, name: tcp, protocol: TCP}]
  location: MESH_EXTERNAL
  resolution: NONE
";
    let run = pod.interceptor()?.config(config)?.registry_only().curl(&["http://10.10.0.4:8080/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.body, "ilb.test says hello over http\n");
    let line = run.line()?;
    assert_eq!((line.cluster.as_str(), line.code), ("outbound|8080||bank.test", 0));
    let run = pod.interceptor()?.config(config)?.registry_only().curl(&["http://hbchen.com:8080/"])?;
    assert!([52, 56].contains(&run.code()), "exit {}", run.code());
    assert_eq!(run.line()?.cluster, "BlackHoleCluster");
    Ok(())
}
