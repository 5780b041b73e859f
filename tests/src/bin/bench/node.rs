//! A node: one agent, which carries what the connections of few pods or of many send.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use interceptor_tests::{BpfFs, Cgroup, Daemon, Dir, Netns};

use crate::client::{Answer, Order};
use crate::job::Job;
use crate::lab::{HOST, Lab, Place, Rules};
use crate::report::Figures;
use crate::row::{self, Places, Row, Running};
use crate::window::Window;
use crate::workload::{Effort, Measured};

/// The rows: few pods with as many connections as many. Fewer could not have them where a process may have 20,000
/// files: an agent lets a pod have an eighth of that.
const PODS: [u16; 2] = [5, 200];
const CONNECTIONS: u16 = 10_000;

const NAMESPACE: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio-injection: enabled}}\n";

#[derive(Debug)]
struct Pod {
    place: Place,
    container: PathBuf,
    /// Holds the namespace, as a runtime's does for each sandbox.
    _pause: Daemon,
}

/// One round.
pub(crate) fn round(lab: &Lab, places: &Places, effort: Effort) -> Vec<(String, anyhow::Result<Measured>)> {
    let mut few_us = None;
    let row = |count: u16| {
        let mut measured = measure(lab, places, count, effort);
        if let Ok(Measured { figures, .. }) = &mut measured
            && let Some(cpu_us) = figures.get("cpu_us").copied()
        {
            match few_us {
                None => few_us = Some(cpu_us),
                Some(few_us) => drop(figures.insert("of_few", cpu_us / few_us)),
            }
        }
        (format!("{count} pods"), measured)
    };
    PODS.into_iter().map(row).collect()
}

fn measure(lab: &Lab, places: &Places, count: u16, effort: Effort) -> anyhow::Result<Measured> {
    let place = places.of(Row::Interceptor);
    let bpf = BpfFs::new()?;
    let cgroup = Cgroup::new()?;
    let dir = Dir::new()?;
    let resources = dir.join("resources");
    fs::create_dir(&resources).context("cannot make a directory")?;
    dir.write("resources/bench.yaml", row::resources(lab, Job::Plain))?;
    dir.write("resources/namespace.yaml", NAMESPACE)?;
    let pods = (0..count).map(|number| Pod::start(lab, &cgroup, &dir, number));
    let pods: Vec<Pod> = pods.collect::<anyhow::Result<_>>()?;

    let own = cgroup.child("agent")?;
    let mut agent = inside(&place.netns, own.path());
    agent.arg(row::interceptor()?).args(["-v", "agent", "--admin-address", "off"]);
    agent.args(["--outbound-traffic-policy", "REGISTRY_ONLY", "--drain", "0s", "-c"]).arg(resources);
    agent.arg("--allow-tls-files").arg(lab.ca.root().parent().context("a root without directory")?);
    agent.arg("--credentials-dir").arg(dir.join("credentials")).arg("--pins").arg(bpf.pins());
    agent.arg("--cgroup-root").arg(cgroup.path()).arg("--agent-socket").arg(dir.join("agent.sock"));
    let log = dir.join("agent.log");
    let enrolled = || {
        fs::read_to_string(&log).is_ok_and(|said| said.matches(": enrolled").count() >= usize::from(count))
    };
    let agent = Daemon::spawn(&mut agent, &log)?.wait_ready("every pod to be enrolled", enrolled)?;

    let mut running = Running::start(row::client(place)?, lab, place, Some(agent), Some(own), dir)?;
    let (address, host) = (Job::Plain.address(Row::Interceptor), HOST.to_owned());
    let accepted = || pods.iter().map(|pod| pod.place.accepted()).sum::<anyhow::Result<f64>>();
    let before = accepted()?;
    for pod in &pods {
        let (netns, cgroup) = (pod.place.netns.path(), pod.container.clone());
        running.client.order(&Order::Enter { netns, cgroup })?;
        let count = usize::from(CONNECTIONS / count);
        running.client.order(&Order::Hold { address, host: host.clone(), count })?;
    }
    let redirected = accepted()? - before;
    ensure!(redirected >= f64::from(CONNECTIONS), "only {redirected} connections of pods were redirected");
    let order = |seconds| Order::Busy { host: host.clone(), seconds };
    running.client.order(&order(1))?;
    let window = Window::begin([&running])?;
    let answer = running.client.order(&order(effort.seconds))?;
    let seen = window.end([&running])?;
    let Answer::Timed { count, p50_us, p99_us } = answer else { bail!("the client answered {answer:?}") };
    let requests_per_s = count / f64::from(effort.seconds);
    let mut figures = Figures::from([
        ("requests_per_s", requests_per_s),
        ("p50_us", p50_us),
        ("p99_us", p99_us),
        ("redirected", redirected),
    ]);
    seen.cpu_per(count, &mut figures);
    Ok(Measured { seen, figures })
}

impl Pod {
    fn start(lab: &Lab, root: &Cgroup, dir: &Dir, number: u16) -> anyhow::Result<Self> {
        let uid = format!("{number:08x}-0000-4000-8000-000000000000");
        let container = root.path().join(format!("kubepods/burstable/pod{uid}/container"));
        fs::create_dir_all(&container).with_context(|| format!("cannot make {}", container.display()))?;
        dir.write(
            &format!("resources/pod-{number}.yaml"),
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: pod-{number}, namespace: shop, uid: {uid}}}\n\
                 spec: {{containers: [{{name: app}}]}}\n"
            ),
        )?;
        let place = lab.place(Rules::None)?;
        let mut pause = inside(&place.netns, &container);
        let _pause = Daemon::spawn(pause.args(["sleep", "infinity"]), &dir.join("pause.log"))?;
        Ok(Self { place, container, _pause })
    }
}

/// Enters the namespace, then the cgroup, and becomes the command that follows.
fn inside(netns: &Netns, cgroup: &std::path::Path) -> Command {
    let mut command = netns.command("sh");
    command.args(["-c", "echo 0 >\"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"]).arg(cgroup);
    command
}
