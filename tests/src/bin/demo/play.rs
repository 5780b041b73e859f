//! Plays one call: sends it, shows what came back, and compares it with what was promised.

use interceptor_tests::{Finished, Pod, World, seeds};

use crate::paint::Paint;
use crate::scenarios::{Call, Expect, Scenario};

pub(crate) fn title(paint: &Paint, number: usize, scenario: &Scenario) {
    println!("{}", paint.bold(&format!("{number}. {}", scenario.title)));
    for line in scenario.idea.lines() {
        println!("   {}", paint.dim(line));
    }
    println!();
}

/// Whether it came out as promised. Each call has a pod of its own, so that servers can tell them apart.
pub(crate) fn call(paint: &Paint, world: &World, scenario: &Scenario, call: &Call) -> anyhow::Result<bool> {
    println!("   {}", call.says);
    let flags: String = call.flags.iter().map(|flag| format!(" {flag}")).collect();
    let shown = format!("interceptor exec -c config.yaml{flags} -- curl {}", call.curl.join(" "));
    println!("   $ {}", paint.command(&shown));
    let pod = world.pod()?;
    let config = seeds(call.config.unwrap_or(scenario.config))?;
    let run = pod.interceptor()?.config(&config)?.flags(call.flags).curl(call.curl)?;
    let wrong = compare(world, &pod, &run, &call.expect);
    show(paint, &run, call);
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
        println!("     {}", paint.good(&format!("after {:.2} s", run.elapsed.as_secs_f64())));
    }
    match run.log.lines().last() {
        Some(line) => println!("     {} {}", paint.dim("access log:"), line),
        None => println!("     {} nothing", paint.dim("access log:")),
    }
    if let Some(server) = &call.expect.server {
        println!("     {} {}", paint.dim("the server saw:"), server.says);
    }
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
    let elapsed = u64::try_from(run.elapsed.as_millis()).unwrap_or(u64::MAX);
    if !expect.time_ms.contains(&elapsed) {
        wrong.push(format!("took {elapsed} ms"));
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
