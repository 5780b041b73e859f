//! Two gateways behind one Service: one dies or is replaced while requests go through, and nobody gets a wrong answer.

use std::io::Write;

use anyhow::Context;
use interceptor_tests::{Gateway, LogLine, Origin, Pod, Running, World, eventually, python, read_head};
use rustix::process::Signal;

const SERVICE: &str = "istio-egressgateway.istio-system.svc.cluster.local";

fn origin(world: &World) -> anyhow::Result<Origin> {
    world.origin(80, |mut socket| {
        read_head(&mut socket)?;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    })
}

/// What leads `origin`'s name through the gateway. GET is sent again also when a connection ends without an answer.
fn resources(origin: &Origin) -> String {
    let name = origin.name();
    let to_gateway = format!("route: [{{destination: {{host: {SERVICE}, port: {{number: 80}}}}}}]");
    format!(
        "{}---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: egress}}\nspec:\n  \
         selector: {{istio: egressgateway}}\n  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [{name}]}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: through}}\nspec:\n  hosts: [{name}]\n  \
         gateways: [egress, mesh]\n  http:\n  \
         - {{match: [{{gateways: [mesh], method: {{exact: GET}}}}], {to_gateway}, retries: {{attempts: 2, retryOn: 'connect-failure,reset'}}}}\n  \
         - {{match: [{{gateways: [mesh]}}], {to_gateway}}}\n  \
         - {{match: [{{gateways: [egress]}}], route: [{{destination: {{host: {name}}}}}]}}\n",
        origin.service_entry("HTTP")
    )
}

/// The gateway's Service as applications see it, with these endpoints; by HTTP/2, as the chart has it.
fn service(endpoints: &[&Pod]) -> String {
    let addresses: Vec<String> =
        endpoints.iter().map(|pod| format!("{{address: {}}}", pod.address)).collect();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: gateways}}\nspec:\n  \
         hosts: [{SERVICE}]\n  ports: [{{number: 80, name: http2, protocol: HTTP2}}]\n  resolution: STATIC\n  \
         endpoints: [{}]\n",
        addresses.join(", ")
    )
}

/// Four clients with a GET and a POST after the other until the file `stop` is there. Each answer is a line.
fn load(app: &Pod, name: &str, config: &str) -> anyhow::Result<Load> {
    let interceptor = app.interceptor()?.config(config)?.registry_only();
    let stop = interceptor.dir().join("stop");
    let script = format!(
        "import http.client, os, threading\n\
         def client():\n  while not os.path.exists({stop:?}):\n    for method in ('GET', 'POST'):\n      \
         connection = http.client.HTTPConnection('{name}', 80, timeout=20)\n      \
         connection.request(method, '/')\n      \
         sys.stdout.write(f'{{method}} {{connection.getresponse().status}}\\n'); sys.stdout.flush()\n      \
         connection.close()\n\
         threads = [threading.Thread(target=client) for _ in range(4)]\n\
         for thread in threads: thread.start()\n\
         for thread in threads: thread.join()\n"
    );
    Ok(Load { running: interceptor.spawn(&python(&script)?)?, stop })
}

struct Load {
    running: Running,
    stop: std::path::PathBuf,
}

impl Load {
    fn lines(&self) -> anyhow::Result<Vec<LogLine>> {
        let log = self.running.log();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole.lines().map(LogLine::parse).collect()
    }

    /// Waits until so many more requests have been answered, the last `count` of them by exactly these gateways.
    fn goes_through(&self, gateways: &[&Pod]) -> anyhow::Result<()> {
        const COUNT: usize = 40;
        let before = self.lines()?.len();
        let is_from_them = || {
            let Ok(lines) = self.lines() else { return false };
            let Some(last) = lines.len().checked_sub(COUNT).filter(|from| *from >= before) else {
                return false;
            };
            let last = &lines[last..];
            let is_of = |line: &LogLine, pod: &Pod| line.upstream_host == format!("{}:80", pod.address);
            gateways.iter().all(|pod| last.iter().any(|line| line.code == 200 && is_of(line, pod)))
                && last.iter().all(|line| line.code == 200 && gateways.iter().any(|pod| is_of(line, pod)))
        };
        eventually("requests go through these gateways alone", is_from_them)
            .with_context(|| format!("{}\n{}", self.running.log(), self.running.stderr()))
    }

    /// All that was answered, and the log of it.
    fn end(self) -> anyhow::Result<(Vec<String>, Vec<LogLine>)> {
        std::fs::write(&self.stop, "")?;
        let finished = self.running.finish()?;
        finished.expect_code(0)?;
        Ok((finished.text().lines().map(str::to_owned).collect(), finished.lines()?))
    }
}

#[test]
fn a_gateway_that_is_killed_costs_at_most_what_may_not_be_repeated() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, first, second) = (world.joined_pod()?, world.joined_pod()?, world.joined_pod()?);
    let origin = origin(world)?;
    let resources = resources(&origin);
    let (one, _two) = (Gateway::start(&first, &resources)?, Gateway::start(&second, &resources)?);
    let load = load(&app, &origin.name(), &(resources.clone() + &service(&[&first, &second])))?;
    load.goes_through(&[&first, &second])?;
    one.signal(Signal::KILL)?;
    load.goes_through(&[&second])?;
    drop(one);
    let _again = Gateway::start(&first, &resources)?;
    load.goes_through(&[&first, &second])?;
    let (answers, lines) = load.end()?;
    let gets: Vec<&String> = answers.iter().filter(|answer| answer.starts_with("GET")).collect();
    // Three times forty requests were waited for; every other one is a GET.
    assert!(gets.len() >= 50 && gets.iter().all(|answer| *answer == "GET 200"), "{gets:?}");
    let is_expected = |answer: &String| matches!(&**answer, "GET 200" | "POST 200" | "POST 503");
    assert!(answers.iter().all(is_expected), "{answers:?}");
    for line in lines.iter().filter(|line| line.code != 200) {
        assert!(
            line.method == "POST" && matches!(&*line.flags, "UC" | "UF" | "URX,UF" | "UF,URX"),
            "{}",
            line.line
        );
    }
    let was_refused = answers.iter().filter(|answer| **answer == "POST 503").count();
    assert!(was_refused <= 4, "more than were under way: {was_refused}");
    Ok(())
}

#[test]
fn a_gateway_that_is_replaced_costs_nothing() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, first, second) = (world.joined_pod()?, world.joined_pod()?, world.joined_pod()?);
    let origin = origin(world)?;
    let resources = resources(&origin);
    let (mut one, _two) = (Gateway::start(&first, &resources)?, Gateway::start(&second, &resources)?);
    let load = load(&app, &origin.name(), &(resources.clone() + &service(&[&first, &second])))?;
    load.goes_through(&[&first, &second])?;
    load.running.reconfigure(&(resources.clone() + &service(&[&second])))?;
    load.goes_through(&[&second])?;
    one.signal(Signal::TERM)?;
    assert!(one.ended()?, "{}", one.said());
    drop(one);
    let _again = Gateway::start(&first, &resources)?;
    load.running.reconfigure(&(resources + &service(&[&first, &second])))?;
    load.goes_through(&[&first, &second])?;
    let (answers, lines) = load.end()?;
    assert!(answers.len() > 120 && answers.iter().all(|answer| answer.ends_with(" 200")), "{answers:?}");
    assert!(lines.iter().all(|line| line.flags == "-"), "{lines:?}");
    Ok(())
}
