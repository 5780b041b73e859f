//! Plays one call: sends it, shows what came back, and compares it with what was promised.

use interceptor_tests::{Finished, Gateway, Pod, World, seeds};

use crate::paint::Paint;
use crate::scenarios::{Call, Expect, Scenario};

/// curl's last line: how long its transfer took, in seconds.
const TIME_FORMAT: &str = "\ntime: %{time_total}";

pub(crate) fn title(paint: &Paint, number: usize, scenario: &Scenario) {
    println!("{}", paint.bold(&format!("{number}. {}", scenario.title)));
    for line in scenario.idea.lines() {
        println!("   {}", paint.dim(line));
    }
    if !scenario.gateway.is_empty() {
        let shown =
            "interceptor gateway -c config.yaml --namespace istio-system --labels istio=egressgateway";
        println!("\n   On another host:\n   $ {}", paint.command(shown));
    }
    println!();
}

/// Whether it came out as promised. Each call has a pod of its own, so that servers can tell them apart.
pub(crate) fn call(paint: &Paint, world: &World, scenario: &Scenario, call: &Call) -> anyhow::Result<bool> {
    println!("   {}", call.says);
    let flags: String = call.flags.iter().map(|flag| format!(" {flag}")).collect();
    let shown = format!("interceptor exec -c config.yaml{flags} -- curl {}", call.curl.join(" "));
    println!("   $ {}", paint.command(&shown));
    let mut config = seeds(call.config.unwrap_or(scenario.config))?;
    let (pod, gateway) = if scenario.gateway.is_empty() {
        (world.pod()?, None)
    } else {
        let host = world.joined_pod()?;
        let gateway = Gateway::start(&host, &config)?;
        config += &gateway.service(&[("http2", 80), ("tls", 443)]);
        (world.joined_pod()?, Some((host, gateway)))
    };
    let timed = ["-w", TIME_FORMAT].iter().chain(call.curl).copied().collect::<Vec<_>>();
    let run = pod.interceptor()?.config(&config)?.stats().flags(call.flags).curl(&timed)?;
    let mut wrong = compare(world, &pod, &run, &call.expect);
    show(paint, &run, call);
    if let Some((_host, gateway)) = gateway {
        let line = gateway.line()?.line;
        println!("     {} {}", paint.dim("gateway's log:"), marked(paint, &line, scenario.gateway));
        let missing = scenario.gateway.iter().filter(|part| !line.contains(**part));
        wrong.extend(missing.map(|part| format!("no {part:?} in the gateway's access log")));
    }
    for what in &wrong {
        println!("     {} {what}", paint.bad("✗"));
    }
    if !wrong.is_empty() {
        println!("       stdout: {}\n       stderr: {}", run.text().trim_end(), run.stderr.trim_end());
    }
    println!();
    Ok(wrong.is_empty())
}

fn show(paint: &Paint, run: &Finished, call: &Call) {
    let text = run.text();
    for line in text.lines().map(str::trim) {
        let promised =
            |promised: &&&str| line.to_ascii_lowercase().starts_with(&promised.to_ascii_lowercase());
        if call.expect.answer.iter().find(promised).is_some() {
            println!("     {}", paint.good(line.trim_end_matches(',')));
        }
    }
    if call.expect.code != 0 {
        let reason = run.stderr.lines().find(|line| line.starts_with("curl:")).unwrap_or_default();
        println!("     {}  {}", paint.good(&format!("exit status {}", run.code())), paint.dim(reason));
    }
    if call.expect.time_ms.start > 0 {
        println!("     {}", paint.good(&format!("after {:.2} s", seconds(run))));
    }
    match run.log.lines().last() {
        Some(line) => println!("     {} {}", paint.dim("access log:"), marked(paint, line, call.expect.log)),
        None => println!("     {} nothing", paint.dim("access log:")),
    }
    if let Some(reason) = call.expect.bypassed {
        println!("     {} bypassed {reason}: {}", paint.dim("the kernel counted:"), bypassed(run, reason));
    }
    if let Some(server) = &call.expect.server {
        println!("     {} {}", paint.dim("the server saw:"), server.says);
    }
}

/// The line with its telling parts in bold.
fn marked(paint: &Paint, line: &str, parts: &[&str]) -> String {
    parts.iter().fold(line.to_owned(), |line, part| {
        let part = part.trim();
        line.replacen(part, &paint.bold(part), 1)
    })
}

fn seconds(run: &Finished) -> f64 {
    let text = run.text();
    let time = text.rsplit("time: ").next().unwrap_or_default();
    time.trim().parse().unwrap_or(f64::NAN)
}

/// How many connections the kernel left alone for this reason.
fn bypassed(run: &Finished, reason: &str) -> u64 {
    let count = |stats: serde_json::Value| stats["kernel"]["bypassed"][reason].as_u64();
    run.stats().ok().and_then(count).unwrap_or_default()
}

/// What is not as promised.
fn compare(world: &World, pod: &Pod, run: &Finished, expect: &Expect) -> Vec<String> {
    let mut wrong = Vec::new();
    if run.code() != expect.code {
        wrong.push(format!("exit status {} instead of {}", run.code(), expect.code));
    }
    let text = run.text().to_ascii_lowercase();
    for line in expect.answer {
        let wanted = line.to_ascii_lowercase();
        if !text.lines().any(|have| have.trim().starts_with(&wanted)) {
            wrong.push(format!("no line {line:?} in the answer"));
        }
    }
    let last = run.log.lines().last().unwrap_or_default();
    for part in expect.log {
        if !last.contains(part) {
            wrong.push(format!("no {part:?} in the access log"));
        }
    }
    if expect.log.is_empty() && !last.is_empty() {
        wrong.push("there is an access log line".to_owned());
    }
    let took = std::time::Duration::from_secs_f64(seconds(run).max(0.0)).as_millis();
    if !expect.time_ms.contains(&u64::try_from(took).unwrap_or(u64::MAX)) {
        wrong.push(format!("took {took} ms"));
    }
    if let Some(reason) = expect.bypassed
        && bypassed(run, reason) != 1
    {
        wrong.push(format!("the kernel counted {} connections bypassed for {reason}", bypassed(run, reason)));
    }
    if let Some(server) = &expect.server {
        match world.nginx.wait_hits(&pod.address, server.requests) {
            Ok(hits) => {
                if hits.len() != server.requests {
                    wrong.push(format!("the server saw {} requests", hits.len()));
                }
                if hits.iter().any(|hit| hit.through_proxy() != server.through_proxy) {
                    wrong.push("the server saw the wrong headers".to_owned());
                }
                if hits.iter().any(|hit| hit.get("tls").is_empty() == server.tls) {
                    wrong.push("the server saw the wrong transport".to_owned());
                }
            }
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    wrong
}
