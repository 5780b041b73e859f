//! Bad input gets a clear error, and harms nothing else (scenario 8).

use interceptor_tests::{Finished, World, seeds};

const GOOD: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: good}
spec:
  hosts: [www.google.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";

/// Runs with bad resources beside a good one; the good one must work.
fn with(bad: &str) -> anyhow::Result<Finished> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod
        .interceptor()?
        .config(&format!("{GOOD}---\n{bad}"))?
        .registry_only()
        .curl(&["http://www.google.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 200, "the good resource does not work beside:\n{bad}\n{}", run.stderr);
    Ok(run)
}

#[test]
fn mistakes_name_line_column_and_field() -> anyhow::Result<()> {
    let rows = [
        // (the document, its line and column in the file, what must be named)
        (
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad}\nspec:\n  hosts: [b.test]\n  ports: [{number: 80, name: http, protocol: HTTPX}]\n",
            ":15:",
            &["protocol", "HTTPX"][..],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad}\nspec:\n  hosts: [b.test]\n  port: []\n",
            ":15:3",
            &["port"],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad}\nspec:\n  hosts: [b.test]\n  resolution: DSN\n",
            ":15:",
            &["resolution", "DSN"],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad}\nspec:\n  hosts: [b.test]\n  ports: [{number: 70000, name: http, protocol: HTTP}]\n",
            ":15:",
            &["number", "70000"],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad}\nspec:\n  hosts: [b.test]\n  addresses: [10.0.0.0/33]\n",
            ":15:",
            &["addresses", "10.0.0.0/33"],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad}\nspec:\n  hosts: [b.test]\n  http:\n  - timeout: 3 seconds\n    route: [{destination: {host: b.test}}]\n",
            ":16:",
            &["timeout", "3 seconds"],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: bad}\nspec:\n  host: b.test\n  trafficPolicy: {tls: {mode: SIMPEL}}\n",
            ":15:",
            &["mode", "SIMPEL"],
        ),
    ];
    for (bad, at, words) in rows {
        let run = with(bad)?;
        assert!(
            run.stderr.contains(&format!("config.yaml{at}")),
            "no config.yaml{at} in:\n{}\nfor\n{bad}",
            run.stderr
        );
        for word in words {
            assert!(run.stderr.contains(word), "no {word} in:\n{}", run.stderr);
        }
    }
    Ok(())
}

#[test]
fn broken_yaml_keeps_the_documents_before_it() -> anyhow::Result<()> {
    for broken in
        ["kind: [ServiceEntry\n", "a: b: c\n", "\tx: 1\n", "*unknown\n", "&a [*a]\n", "kind: \u{0}\n"]
    {
        let run = with(broken)?;
        assert!(run.stderr.contains("config.yaml:"), "{broken:?}: {}", run.stderr);
    }
    Ok(())
}

#[test]
fn other_kinds_are_skipped_with_a_note() -> anyhow::Result<()> {
    let run = with("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {}\n")?;
    assert!(run.stderr.contains("ConfigMap"), "{}", run.stderr);
    Ok(())
}

#[test]
fn an_alias_bomb_costs_nothing() -> anyhow::Result<()> {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let before = level - 1;
        bomb.push_str(&format!("a{level}: &a{level} [*a{before}, *a{before}, *a{before}, *a{before}]\n"));
    }
    let run = with(&bomb)?;
    assert!(run.elapsed.as_secs() < 10, "{:?}", run.elapsed);
    let deep = format!("{}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    with(&deep)?;
    Ok(())
}

/// Fails unless it stopped before CMD, with one clear sentence that holds these words.
fn assert_stopped(run: &Finished, codes: &[i32], words: &[&str]) {
    assert!(codes.contains(&run.code()), "exit {}: {}", run.code(), run.stderr);
    assert_eq!(run.text(), "", "CMD was started");
    for word in words {
        assert!(run.stderr.contains(word), "no {word:?} in {}", run.stderr);
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

#[test]
fn bad_flags_stop_before_the_command() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    for (flags, words) in [
        (&["--exclude-ip-ranges", "10.0.0.0/33"][..], &["exclude-ip-ranges", "10.0.0.0/33"][..]),
        (&["--exclude-ip-ranges", "10.0.0.1"], &["10.0.0.1"]),
        (&["--exclude-ip-ranges", "10.0.0.0/8, 11.0.0.0/8"], &[" 11.0.0.0/8"]),
        (&["--exclude-ip-ranges", "*"], &["*"]),
        (&["--include-ip-ranges", "*,10.0.0.0/8"], &["*"]),
        (&["--exclude-ip-ranges", "fe80::1%eth0/64"], &["fe80::1%eth0/64"]),
        (&["--exclude-ports", "80-90"], &["80-90"]),
        (&["--exclude-ports", "65536"], &["65536"]),
        (&["--exclude-ports", "http"], &["http"]),
        (&["--outbound-traffic-policy", "DENY"], &["DENY", "REGISTRY_ONLY"]),
        (&["--user", "nobody-has-this-name"], &["nobody-has-this-name"]),
    ] {
        let run = pod.interceptor()?.flags(flags).run(&["echo", "started"])?;
        assert_stopped(&run, &[1, 2], words);
    }
    Ok(())
}

#[test]
fn files_that_are_not_there() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.flags(&["-c", "/nonexistent/config.yaml"]).run(&["echo", "started"])?;
    assert_stopped(&run, &[1, 2], &["/nonexistent/config.yaml"]);
    let run =
        pod.interceptor()?.flags(&["--mesh-config", "/nonexistent/mesh.yaml"]).run(&["echo", "started"])?;
    assert_stopped(&run, &[1, 2], &["/nonexistent/mesh.yaml"]);
    let run = pod
        .interceptor()?
        .no_access_log()
        .flags(&["--access-log", "/nonexistent/log"])
        .run(&["echo", "started"])?;
    assert_stopped(&run, &[1, 2], &["/nonexistent/log"]);
    Ok(())
}

#[test]
fn every_block_of_the_tutorials_loads() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let mut count = 0;
    for entry in std::fs::read_dir(interceptor_tests::seeds_dir())? {
        let path = entry?.path();
        let run = pod.interceptor()?.flag("-c").flag(&path).run(&["echo", "started"])?;
        run.expect_code(0)?;
        assert_eq!(run.text(), "started\n");
        // Notes and warnings are welcome. What needs a cluster can't work here, and says so.
        let is_error = |line: &&str| line.contains("error:") || line.contains("unknown field");
        let errors: Vec<&str> = run.stderr.lines().filter(is_error).collect();
        let closed = errors.iter().all(|line| line.contains("never sent in clear"));
        assert!(closed, "{}: {errors:?}", path.display());
        count += 1;
    }
    assert_eq!(count, 22);
    Ok(())
}

#[test]
fn the_tutorials_together() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod
        .interceptor()?
        .flag("-c")
        .flag(interceptor_tests::seeds_dir())
        .registry_only()
        .curl(&["http://www.google.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 200, "{}", run.stderr);
    assert_eq!(run.line()?.cluster, "outbound|80||www.google.com");
    Ok(())
}

#[test]
fn an_egress_gateway_that_is_not_there_is_a_reason() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // These resources load here and act elsewhere: the route leads to a gateway that no registry holds.
    let config = seeds(&["003-01-se", "003-02-gw-vs"])?;
    let run = pod.interceptor()?.config(&config)?.registry_only().curl(&["http://httpbin.org/headers"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 503);
    assert_eq!(run.line()?.flags, "NC");
    Ok(())
}
