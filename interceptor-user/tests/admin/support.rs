//! A server in this process, what it shows, and clients: curl, and the commands.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use interceptor_user::admin::{Admin, AdminRequest, Heartbeat, Listener, serve};
use interceptor_user::agent::view::{
    Check, Compiled, PodState, PodView, SharedView, SourceState, SourceStatus, View,
};
use interceptor_user::compile::{Client, CompileSettings, compile};
use interceptor_user::explain::redirect_places;
use interceptor_user::resource::{Pod, World, parse};
use interceptor_user::telemetry::Flows;
use interceptor_user::telemetry::logging::LogFilter;
use interceptor_user::workload::RedirectPolicy;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::EnvFilter;

/// Two pods that are enrolled, and what they get.
pub(crate) const RESOURCES: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: shop}
spec:
  hosts: [www.example.com]
  exportTo: ['.']
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.7}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: slow, namespace: shop}
spec:
  hosts: [www.example.com]
  http: [{timeout: 3s, route: [{destination: {host: www.example.com}}]}]
---
apiVersion: v1
kind: Pod
metadata:
  name: cart-5d5f9b7c9d-abcde
  namespace: shop
  labels: {app: cart}
  annotations: {traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.0.0.0/8}
spec: {containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-5d5f9b7c9d-fghij, namespace: shop, labels: {app: cart}}
spec: {containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: bank, namespace: money}
spec: {containers: [{name: c}]}
";

pub(crate) const CART: &str = "shop/cart-5d5f9b7c9d-abcde";

/// The resources as a file called `name`, with every Pod of it enrolled.
pub(crate) fn view_of(name: &str, yaml: &str) -> View {
    let mut world = World::default();
    let parsed = parse(&name.into(), yaml, &"default".into());
    assert!(parsed.refused.is_empty(), "{:#?}", parsed.diagnostics);
    for resource in parsed.resources {
        world.resources.insert(resource);
    }
    let pods: Vec<Arc<Pod>> = world.pods().cloned().collect();
    let pods = pods.iter().map(|pod| Arc::new(enrolled(&world, pod))).collect();
    View {
        world: Arc::new(world),
        diagnostics: parsed.diagnostics.into(),
        pods,
        checks: vec![Check::holds("hooks"), Check::holds("pods")],
        sources: vec![SourceStatus { name: "ServiceEntry".into(), state: SourceState::Following }],
    }
}

fn enrolled(world: &World, pod: &Pod) -> PodView {
    let client = Client { labels: pod.meta.labels.clone(), ..Client::in_namespace(pod.meta.namespace()) };
    let settings = CompileSettings { client, ..CompileSettings::default() };
    let (snapshot, _) = compile(world, &settings);
    let annotations = pod.meta.annotations.iter().map(|(name, annotation)| (&**name, &*annotation.value));
    PodView {
        namespace: Arc::clone(pod.meta.namespace()),
        name: Arc::clone(pod.meta.name()),
        uid: format!("uid-of-{}", pod.meta.name()).into(),
        state: PodState::Enrolled,
        netns_cookie: Some(4242),
        listener_port: Some(15001),
        redirect: RedirectPolicy::from_annotations(annotations).unwrap(),
        redirect_by: redirect_places(&pod.meta, &pod.meta.annotations),
        annotation_mistakes: Vec::new(),
        not_enforced: None,
        compiled: Some(Arc::new(Compiled { settings, snapshot: Arc::new(snapshot), configured: None })),
    }
}

/// A pod that is in this state.
pub(crate) fn pod_that_is(namespace: &str, name: &str, state: PodState) -> Arc<PodView> {
    Arc::new(PodView {
        namespace: namespace.into(),
        name: name.into(),
        uid: format!("uid-of-{name}").into(),
        state,
        netns_cookie: None,
        listener_port: None,
        redirect: RedirectPolicy::default(),
        redirect_by: Vec::new(),
        annotation_mistakes: Vec::new(),
        not_enforced: None,
        compiled: None,
    })
}

/// A server, gone when this is.
pub(crate) struct Agent {
    directory: TempDir,
    pub(crate) view: SharedView,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) workers_alive: Arc<AtomicBool>,
    pub(crate) tcp: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What curl was told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) text: String,
}

impl Told {
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Agent {
    pub(crate) fn start(view: View) -> Self {
        Self::with_loop(view, drop)
    }

    pub(crate) fn with_flows(view: View, flows: Flows) -> Self {
        let (requests, asked) = mpsc::channel(1);
        Self::serve(view, requests, flows, async move {
            let _kept = asked;
            std::future::pending().await
        })
    }

    /// `answer` is the control loop.
    pub(crate) fn with_loop(view: View, mut answer: impl FnMut(AdminRequest) + Send + 'static) -> Self {
        let (requests, mut asked) = mpsc::channel(8);
        Self::serve(view, requests, Flows::default(), async move {
            while let Some(request) = asked.recv().await {
                answer(request);
            }
        })
    }

    /// One request finds room before the loop.
    pub(crate) fn with_idle_loop(view: View) -> Self {
        Self::with_flows(view, Flows::default())
    }

    fn serve(
        view: View,
        requests: mpsc::Sender<AdminRequest>,
        flows: Flows,
        control_loop: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shared = View::shared();
        shared.store(Arc::new(view));
        let heartbeat = Heartbeat::new();
        let workers_alive = Arc::new(AtomicBool::new(true));
        let (log_filter, layer) = LogFilter::new(EnvFilter::new("warn"));
        let alive = Arc::clone(&workers_alive);
        let admin = Admin {
            view: Arc::clone(&shared),
            heartbeat: heartbeat.clone(),
            workers_alive: Box::new(move || alive.load(Ordering::Relaxed)),
            log_filter,
            metrics: vec![Box::new(|out| out.push_str("# TYPE added_total counter\nadded_total 7\n"))],
            requests,
            flows,
        };
        let socket = directory.path().join("agent.sock");
        let (stop, stopped) = oneshot::channel();
        let (started, start) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _kept_for_the_filter = layer;
            runtime.block_on(async {
                let unix = Listener::unix(&socket).unwrap();
                let tcp = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
                let Listener::Tcp(listening) = &tcp else { panic!("{tcp:?}") };
                started.send(listening.local_addr().unwrap()).unwrap();
                tokio::select! {
                    error = serve(admin, vec![unix, tcp]) => panic!("{error}"),
                    () = control_loop => {}
                    _ = stopped => {}
                }
            });
        });
        let tcp = start.recv().unwrap();
        Self {
            directory,
            view: shared,
            heartbeat,
            workers_alive,
            tcp,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub(crate) fn get(&self, path: &str) -> Told {
        curl(&self.socket(), path, &[])
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Told {
        curl(&self.socket(), path, &["--data-binary", body])
    }

    pub(crate) fn over_tcp(&self, path: &str, more: &[&str]) -> Told {
        finish(Command::new("curl").args(more).arg(format!("http://{}{path}", self.tcp)))
    }

    /// `interceptor WORDS --agent-socket …`.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let socket = self.socket();
        run(&[words, &["--agent-socket", socket.to_str().unwrap()]].concat())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

pub(crate) fn curl(socket: &Path, path: &str, more: &[&str]) -> Told {
    let mut command = Command::new("curl");
    command.arg("--unix-socket").arg(socket).args(more).arg(format!("http://agent{path}"));
    finish(&mut command)
}

fn finish(curl: &mut Command) -> Told {
    let output = curl.args(["-sS", "-i", "--max-time", "20"]).output().unwrap();
    assert!(output.status.success(), "{curl:?}: {}", String::from_utf8_lossy(&output.stderr));
    let all = String::from_utf8(output.stdout).unwrap();
    let (headers, text) = all.split_once("\r\n\r\n").unwrap();
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    Told { status, headers: headers.to_owned(), text: text.to_owned() }
}

pub(crate) fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_interceptor")).args(words).stdin(Stdio::null()).output().unwrap()
}

/// Standard output of a command that went well.
#[track_caller]
pub(crate) fn stdout(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{:?}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
