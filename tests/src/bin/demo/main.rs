//! `cargo xtask demo`: plays the scenarios on the terminal, in a throw-away pod with a throw-away internet, and
//! checks each against what it promises.
#![expect(clippy::print_stdout, reason = "the demo is what it prints")]

mod gateway_scenarios;
mod paint;
mod play;
mod scenarios;

use std::process::ExitCode;
use std::time::Instant;

use interceptor_tests::World;

use crate::paint::Paint;

fn main() -> ExitCode {
    match demo() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The number of calls that did not come out as promised.
fn demo() -> anyhow::Result<usize> {
    let started = Instant::now();
    let paint = Paint::for_terminal();
    println!(
        "\n{}\n\n  A pod (a network namespace of its own), joined to an internet of real servers on this machine:\n  \
         httpbin, nginx with TLS, a DNS server. Every curl below runs under `interceptor exec`: eBPF takes\n  \
         its connections over at connect(2), with no iptables, no sidecar and no change to curl.\n",
        paint.bold("interceptor: one command's egress, by Istio's rules")
    );
    let world = World::new()?;
    let (mut calls, mut failed) = (0, 0);
    let all = scenarios::all().iter().chain(gateway_scenarios::all());
    for (number, scenario) in all.enumerate() {
        play::title(&paint, number + 1, scenario);
        for call in scenario.calls {
            calls += 1;
            if !play::call(&paint, &world, scenario, call)? {
                failed += 1;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    if failed == 0 {
        println!("{} {calls} calls in {seconds:.0} s, all as promised.\n", paint.good("✓"));
        println!(
            "  Try it yourself:\n\n    sudo target/debug/interceptor exec --access-log - -- curl -I https://www.debian.org\n"
        );
    } else {
        println!("{} {failed} of {calls} calls did not come out as promised.", paint.bad("✗"));
    }
    Ok(failed)
}
