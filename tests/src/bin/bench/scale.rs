//! What many services cost: starting, memory, a change until it is in effect, and each request.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use interceptor_tests::Dir;

use crate::carry::{self, Keep};
use crate::client::{Answer, Order};
use crate::cpu;
use crate::job::Job;
use crate::lab::Lab;
use crate::row::{Places, Row, Running};
use crate::window::Window;
use crate::workload::{Effort, Measured};

/// The rows.
pub(crate) const SERVICES: [usize; 2] = [10, 10_000];

/// Services in one file.
const PER_FILE: usize = 100;
/// How often a service is changed: each change until its effect is seen.
const CHANGES: u16 = 5;
/// What the changed service answers at first; each change adds one.
const STATUS: u16 = 200;
/// The service whose rule is changed.
const RULED: &str = "ruled.example.com";
/// What it answers while its route leads to a subset that its rule does not have.
const WITHOUT_SUBSET: u16 = 503;

pub(crate) fn measure(lab: &Lab, places: &Places, count: usize, effort: Effort) -> anyhow::Result<Measured> {
    let dir = Dir::new()?;
    // The last file, so that whoever reads them in order reads all others first.
    let last = count.div_ceil(PER_FILE) - 1;
    for file in 0..last {
        dir.write(&file_name(file), services(file, count, STATUS))?;
    }
    dir.write(&file_name(last), services(last, count, STATUS) + &ruled(true))?;
    let path = dir.path().to_owned();
    let started = Instant::now();
    let mut running = Running::configured(lab, places, dir)?;
    let start_ms = started.elapsed().as_secs_f64() * 1e3;
    let memory = cpu::memory(&running.proxy)?;

    let file = path.join(file_name(last));
    let route = |change| {
        let status = STATUS + change;
        (services(last, count, status) + &ruled(true), host(last * PER_FILE), status)
    };
    let (change_ms, change_cpu_ms) = changes(&mut running, &file, route)?;
    let added =
        |change| (services(last, count, STATUS) + &ruled(true) + &added(change), added_host(change), STATUS);
    let (added_ms, added_cpu_ms) = changes(&mut running, &file, added)?;
    let rule = |change: u16| {
        let has_subset = change.is_multiple_of(2);
        let status = if has_subset { STATUS } else { WITHOUT_SUBSET };
        (services(last, count, STATUS) + &ruled(has_subset) + &self::added(CHANGES), RULED.to_owned(), status)
    };
    let (ruled_ms, ruled_cpu_ms) = changes(&mut running, &file, rule)?;

    let mut measured = carry::requests(running, Row::Interceptor, Job::Plain, Keep::Open, effort)?;
    measured.figures.extend([
        ("start_ms", start_ms),
        ("rss_mib", memory.rss_kib / 1024.0),
        ("pss_mib", memory.pss_kib / 1024.0),
        ("change_ms", change_ms),
        ("change_cpu_ms", change_cpu_ms),
        ("added_ms", added_ms),
        ("added_cpu_ms", added_cpu_ms),
        ("ruled_ms", ruled_ms),
        ("ruled_cpu_ms", ruled_cpu_ms),
    ]);
    Ok(measured)
}

/// Changes a file to what `change` gives, until the host that it gives too answers with the status that it gives; several
/// times. Returns milliseconds of time and of the proxy's CPU for each.
fn changes(
    running: &mut Running<'_>,
    file: &Path,
    change: impl Fn(u16) -> (String, String, u16),
) -> anyhow::Result<(f64, f64)> {
    let next = file.with_extension("next");
    let window = Window::begin([&*running])?;
    let mut milliseconds = 0.0;
    for number in 1..=CHANGES {
        let (text, host, status) = change(number);
        std::fs::write(&next, text).context("cannot write a file")?;
        let began = Instant::now();
        std::fs::rename(&next, file).context("cannot rename a file")?;
        let address = Job::Plain.address(Row::Interceptor);
        match running.client.order(&Order::Until { address, host, status })? {
            Answer::Held => milliseconds += began.elapsed().as_secs_f64() * 1e3 / f64::from(CHANGES),
            other @ (Answer::Ready { .. }
            | Answer::Connected { .. }
            | Answer::Timed { .. }
            | Answer::Loaded(_)
            | Answer::Downloaded { .. }
            | Answer::Failed(_)) => bail!("the client answered {other:?}"),
        }
    }
    let seen = window.end([&*running])?;
    Ok((milliseconds, seen.proxy.total_us() / 1e3 / f64::from(CHANGES)))
}

fn file_name(file: usize) -> String {
    format!("services-{file:05}.yaml")
}

fn host(number: usize) -> String {
    format!("service-{number}.example.com")
}

fn added_host(change: u16) -> String {
    format!("added-{change}.example.com")
}

/// One more service.
fn added(change: u16) -> String {
    with_subset(&format!("added-{change}"), &added_host(change), true)
}

/// With an endpoint that answers.
fn entry(name: &str, host: &str) -> String {
    let address = Job::Plain.address(Row::Interceptor);
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: {name}\nspec:\n  hosts:\n  - \
         {host}\n  ports:\n  - number: {}\n    name: http\n    protocol: HTTP\n  resolution: STATIC\n  endpoints:\n  - \
         address: {}\n",
        address.port(),
        address.ip()
    )
}

/// The service whose rule is changed.
fn ruled(has_subset: bool) -> String {
    with_subset("ruled", RULED, has_subset)
}

/// A service whose route leads to a subset, and the rule that has it or not.
fn with_subset(name: &str, host: &str, has_subset: bool) -> String {
    let subsets = if has_subset { "\n  - name: chosen" } else { " []" };
    let entry = entry(name, host);
    format!(
        "{entry}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {name}\nspec:\n  hosts:\n  - \
         {host}\n  http:\n  - route:\n    - destination:\n        host: {host}\n        subset: chosen\n---\napiVersion: \
         networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: {name}\nspec:\n  host: {host}\n  \
         subsets:{subsets}\n"
    )
}

/// The resources of one file's services; the first of them answers with `status` itself.
fn services(file: usize, count: usize, status: u16) -> String {
    let first = file * PER_FILE;
    let mut text = String::new();
    for number in first..count.min(first + PER_FILE) {
        let host = host(number);
        let routes = if number == first {
            format!("  - directResponse: {{status: {status}}}\n")
        } else {
            format!(
                "  - match:\n    - uri:\n        prefix: /v1\n    timeout: 3s\n    route:\n    - destination:\n        \
                 host: {host}\n        subset: tls\n        port:\n          number: 443\n  - timeout: 5s\n    route:\n    \
                 - destination:\n        host: {host}\n        port:\n          number: 80\n"
            )
        };
        let written = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: service-{number}\nspec:\n  \
             hosts:\n  - {host}\n  ports:\n  - number: 80\n    name: http\n    protocol: HTTP\n  - number: 443\n    name: \
             https\n    protocol: HTTPS\n  resolution: DNS\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata:\n  name: service-{number}\nspec:\n  hosts:\n  - {host}\n  http:\n{routes}---\napiVersion: \
             networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: service-{number}\nspec:\n  host: {host}\n  \
             subsets:\n  - name: tls\n    trafficPolicy:\n      portLevelSettings:\n      - port:\n          number: 443\n        \
             tls:\n          mode: SIMPLE\n"
        );
        written.expect("a String takes what is written");
    }
    text
}
