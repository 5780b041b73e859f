//! What the clients of this node get, compiled on a thread of its own: a large world takes longer than a pod may wait.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use tokio::sync::mpsc::UnboundedSender;

use crate::analysis::{self, Audience, Flags};
use crate::compile::gateway::concern;
use crate::compile::{Client, CompileSettings, Compiler, Role};
use crate::datapath;
use crate::exec::findings::Findings;
use crate::proxy::upstream::look_at_files;
use crate::resource::{Diagnostic, World};
use crate::snapshot::Snapshot;
use crate::source::Texts;
use crate::source::kubernetes::Reporter;

/// What the thread tells.
#[derive(Debug)]
pub(crate) enum Told {
    Compiled(Box<Compiled>),
    /// All that is wrong now.
    Findings(Arc<[Diagnostic]>),
}

/// What a client gets from now on.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) client: Client,
    pub(crate) snapshot: Snapshot,
}

enum Request {
    World(Arc<World>),
    /// Those of the pods that there are; others are forgotten.
    Clients(HashMap<Client, ()>),
    Tell(Vec<Diagnostic>, Box<Texts>),
    ReportTo(Option<Reporter>),
    OwnAddresses(BTreeSet<IpAddr>),
}

/// A handle to the thread, which ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Configurations {
    requests: Sender<Request>,
}

impl Configurations {
    /// `settings` are those of every client; the directories of its client are those above every client's.
    pub(crate) fn start(settings: CompileSettings, compiled: UnboundedSender<Told>) -> io::Result<Self> {
        let (requests, received) = mpsc::channel();
        let compile = Compile {
            settings,
            world: Arc::default(),
            compilers: HashMap::new(),
            compiled,
            known: Vec::new(),
            texts: Box::default(),
            told: Findings::default(),
            reporter: None,
            of_servers: Vec::new(),
            unselected: None,
        };
        thread::Builder::new().name("compile".into()).spawn(move || compile.run(&received))?;
        Ok(Self { requests })
    }

    pub(crate) fn world(&self, world: Arc<World>) {
        self.send(Request::World(world));
    }

    pub(crate) fn clients(&self, clients: HashMap<Client, ()>) {
        self.send(Request::Clients(clients));
    }

    /// What the source found wrong with what it read.
    pub(crate) fn tell(&self, diagnostics: Vec<Diagnostic>, texts: Texts) {
        self.send(Request::Tell(diagnostics, Box::new(texts)));
    }

    /// Who writes Events about what is wrong.
    pub(crate) fn report_to(&self, reporter: Option<Reporter>) {
        self.send(Request::ReportTo(reporter));
    }

    /// Those that a gateway has from now on.
    pub(crate) fn own_addresses(&self, addresses: BTreeSet<IpAddr>) {
        self.send(Request::OwnAddresses(addresses));
    }

    fn send(&self, request: Request) {
        // The thread ends by a panic only, which the process's end follows.
        drop(self.requests.send(request));
    }
}

struct Compile {
    settings: CompileSettings,
    world: Arc<World>,
    compilers: HashMap<Client, Compiler>,
    compiled: UnboundedSender<Told>,
    known: Vec<Diagnostic>,
    texts: Box<Texts>,
    told: Findings,
    reporter: Option<Reporter>,
    /// Of a gateway: what compiling found about its servers, which nobody else can tell.
    of_servers: Vec<Diagnostic>,
    /// Of a gateway that no Gateway means: what was told of it last.
    unselected: Option<String>,
}

impl Compile {
    fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            let mut changed = false;
            // Of several worlds only the last one counts.
            for request in std::iter::once(request).chain(requests.try_iter()) {
                match request {
                    Request::World(world) => {
                        self.world = world;
                        changed = true;
                    }
                    Request::Clients(clients) => {
                        self.compilers.retain(|client, _| clients.contains_key(client));
                        for client in clients.into_keys() {
                            self.welcome(client);
                        }
                    }
                    Request::Tell(diagnostics, texts) => {
                        self.known = diagnostics;
                        self.texts = texts;
                    }
                    Request::ReportTo(reporter) => self.reporter = reporter,
                    Request::OwnAddresses(own_addresses) => {
                        self.settings.role = Role::Gateway { own_addresses };
                        let clients = std::mem::take(&mut self.compilers).into_keys();
                        clients.for_each(|client| self.welcome(client));
                    }
                }
            }
            if changed {
                self.compile_all();
            }
            self.report();
            datapath::release_free_memory();
        }
    }

    fn welcome(&mut self, client: Client) {
        if self.compilers.contains_key(&client) {
            return;
        }
        let settings = CompileSettings { client: client.clone(), ..self.settings.clone() };
        let mut compiler = Compiler::new(settings);
        let (snapshot, found) = compiler.compile(&self.world);
        self.keep_those_of_servers(found);
        self.compilers.insert(client.clone(), compiler);
        self.publish(client, snapshot);
    }

    fn compile_all(&mut self) {
        let world = Arc::clone(&self.world);
        let compiled: Vec<(Client, (Snapshot, Vec<Diagnostic>))> = self
            .compilers
            .iter_mut()
            .map(|(client, compiler)| (client.clone(), compiler.compile(&world)))
            .collect();
        for (client, (snapshot, found)) in compiled {
            self.keep_those_of_servers(found);
            self.publish(client, snapshot);
        }
        self.compilers.values_mut().for_each(Compiler::let_go);
    }

    fn keep_those_of_servers(&mut self, mut found: Vec<Diagnostic>) {
        if let Role::Gateway { .. } = self.settings.role {
            found.retain(|finding| finding.resource.starts_with("Gateway "));
            self.of_servers = found;
        }
    }

    fn publish(&self, client: Client, snapshot: Snapshot) {
        // An error is the control loop gone.
        drop(self.compiled.send(Told::Compiled(Box::new(Compiled { client, snapshot }))));
    }

    /// Once per change; before there is a client, nobody knows the Gateways.
    fn tell_unselected(&mut self) {
        if self.compilers.is_empty() {
            return;
        }
        let unselected = concern::unselected(&self.world, &self.settings.client);
        if let Some(why) = unselected.as_ref().filter(|_| unselected != self.unselected) {
            tracing::warn!("{why}");
        }
        self.unselected = unselected;
    }

    /// What is wrong, once snapshots are on their way: nothing waits for it.
    fn report(&mut self) {
        let mut findings = BTreeSet::new();
        let flags = Flags::of(&self.settings);
        findings.extend(analysis::find(&self.world, Audience::Mesh(flags)));
        if let Role::Gateway { .. } = self.settings.role {
            findings.extend(analysis::unusable_files(&self.world, flags, |tls| look_at_files(tls).err()));
            findings.extend(self.of_servers.iter().cloned());
        }
        let mut read: BTreeSet<Diagnostic> = self.known.iter().cloned().collect();
        findings.retain(|finding| !read.contains(finding));
        if let Role::Gateway { .. } = self.settings.role {
            let others = concern::of_others(&self.world, &self.settings.client);
            let is_own = |finding: &Diagnostic| !others.contains(&*finding.resource);
            findings.retain(is_own);
            read.retain(is_own);
            self.tell_unselected();
        }
        let [read, found] = [read, findings].map(|findings| findings.into_iter().collect::<Vec<_>>());
        let findings = [&*read, &*found].concat();
        if let Some(reporter) = &self.reporter {
            reporter.resources(&findings);
        }
        // An error is the control loop gone.
        drop(self.compiled.send(Told::Findings(findings.into())));
        self.told.tell(read, found, &self.texts);
    }
}
