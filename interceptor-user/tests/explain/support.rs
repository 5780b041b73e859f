//! Reads and compiles YAML, and asks.

use std::fs;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use interceptor_user::compile::{Client, CompileSettings, NodePaths, Role, compile};
use interceptor_user::explain::{Explanation, LookUp, Question, ServerFiles, Spoken, explain, parse_peer};
use interceptor_user::proxy::upstream::{EndpointsNow, InUse};
use interceptor_user::resource::{World, parse};
use interceptor_user::snapshot::{
    CaSource, ClusterName, OutboundTrafficPolicy, Snapshot, TlsTerminationMode,
};
use interceptor_user::workload::RedirectPolicy;

/// Resources, and the client that they are compiled for.
pub(crate) struct Case {
    pub(crate) world: World,
    pub(crate) settings: CompileSettings,
    redirect: RedirectPolicy,
    port: Option<u16>,
    sni: Option<String>,
    peer: Option<String>,
    spoken: Option<Spoken>,
    address: Option<String>,
    resolved: Option<Vec<IpAddr>>,
    look_up: Option<LookUp>,
    in_use: InUse,
    method: Method,
    headers: HeaderMap,
    is_proxy_here: bool,
}

impl Case {
    pub(crate) fn new(yaml: &str) -> Self {
        Self::of_files(&[("a.yaml", yaml.to_owned())])
    }

    /// The tutorials' files of these names.
    pub(crate) fn seeds(names: &[&str]) -> Self {
        let file = |name: &&str| {
            let path = format!("{}/tests/data/seeds/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        let texts: Vec<(String, String)> =
            names.iter().map(|name| (format!("{name}.yaml"), file(name))).collect();
        let texts: Vec<(&str, String)> = texts.iter().map(|(name, text)| (&**name, text.clone())).collect();
        Self::of_files(&texts)
    }

    pub(crate) fn of_files(files: &[(&str, String)]) -> Self {
        let mut world = World::default();
        for (name, text) in files {
            let parsed = parse(&(*name).into(), text, &"default".into());
            assert!(parsed.refused.is_empty(), "{:#?}", parsed.diagnostics);
            for resource in parsed.resources {
                world.resources.insert(resource);
            }
        }
        Self {
            world,
            settings: CompileSettings {
                unix_endpoints: NodePaths::Any,
                tls_files: NodePaths::Any,
                ..CompileSettings::default()
            },
            redirect: RedirectPolicy::default(),
            port: None,
            sni: None,
            peer: None,
            spoken: None,
            address: None,
            resolved: None,
            look_up: None,
            in_use: InUse::new(),
            method: Method::GET,
            headers: HeaderMap::new(),
            is_proxy_here: false,
        }
    }

    /// Names of endpoints are looked up.
    pub(crate) fn looking_up(mut self, look_up: LookUp) -> Self {
        self.look_up = Some(look_up);
        self
    }

    /// A proxy knows this of a cluster's endpoints.
    pub(crate) fn knows(mut self, cluster: ClusterName, now: EndpointsNow) -> Self {
        self.in_use.insert(cluster, now);
        self
    }

    /// Asked of a proxy that runs.
    pub(crate) fn of_proxy(mut self) -> Self {
        self.is_proxy_here = true;
        self
    }

    pub(crate) fn registry_only(mut self) -> Self {
        self.settings.outbound_traffic_policy = Some(OutboundTrafficPolicy::RegistryOnly);
        self
    }

    pub(crate) fn client(mut self, namespace: &str, labels: &[(&str, &str)]) -> Self {
        self.settings.client = Client {
            labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..Client::in_namespace(namespace)
        };
        self
    }

    /// At the egress gateway of istio-system with label `istio: egressgateway`, and these addresses.
    pub(crate) fn at_gateway(mut self, own_addresses: &[&str]) -> Self {
        let own_addresses = own_addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.settings.role = Role::Gateway { own_addresses };
        self.client("istio-system", &[("istio", "egressgateway")])
    }

    pub(crate) fn on_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    pub(crate) fn of_peer(mut self, peer: &str) -> Self {
        self.peer = Some(peer.to_owned());
        self
    }

    /// With `--resolve`.
    pub(crate) fn looked_up(mut self, address: &str) -> Self {
        self.resolved = Some(vec![address.parse().unwrap()]);
        self
    }

    pub(crate) fn named(mut self, sni: &str) -> Self {
        self.sni = Some(sni.to_owned());
        self
    }

    pub(crate) fn annotated(mut self, name: &str, value: &str) -> Self {
        let name = format!("traffic.sidecar.istio.io/{name}");
        self.redirect = RedirectPolicy::from_annotations([(&*name, value)]).unwrap();
        self
    }

    pub(crate) fn speaks(mut self, spoken: Spoken) -> Self {
        self.spoken = Some(spoken);
        self
    }

    pub(crate) fn at(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// What DNS says of the target's host, for a strict client.
    pub(crate) fn strict(mut self, resolved: Option<&str>) -> Self {
        self.settings.client.policy.strict = true;
        self.resolved = resolved.map(|address| vec![address.parse().unwrap()]);
        self
    }

    pub(crate) fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        compile(&self.world, &self.settings).0
    }

    pub(crate) fn ask(&self, target: &str) -> Explanation {
        let question = Question {
            target: target.parse().unwrap(),
            port: self.port,
            peer: self.peer.as_deref().map(|peer| parse_peer(peer).unwrap()),
            look_at_server: |tls| match (&tls.impossible, tls.mode) {
                (Some(reason), _) => ServerFiles::Unknown(reason.to_string()),
                (None, TlsTerminationMode::IstioMutual) => {
                    ServerFiles::Usable { trust_domains: Some(vec!["cluster.local".into(), "alias".into()]) }
                }
                (None, _) => ServerFiles::Usable { trust_domains: None },
            },
            spoken: self.spoken,
            address: self.address.as_ref().map(|address| (address.parse().unwrap(), "as asked".into())),
            resolved: self.resolved.clone(),
            look_up: self.look_up,
            in_use: self.in_use.clone(),
            method: self.method.clone(),
            headers: self.headers.clone(),
            sni: self.sni.clone(),
            redirect: self.redirect.clone(),
            redirect_by: Vec::new(),
            is_proxy_here: self.is_proxy_here,
            look_at_files: |tls| match tls.ca {
                CaSource::System => Ok(tls.clone()),
                CaSource::File(_) | CaSource::Unverified => Err("no such file".into()),
            },
        };
        explain(&self.world, &self.snapshot(), &self.settings, &question)
    }
}

/// `cluster route flags details` of each outcome, or `nothing`, and whether it is carried.
pub(crate) fn logged(explanation: &Explanation) -> String {
    let each = explanation.outcomes.iter().map(|outcome| {
        let log = outcome.access_log.as_ref();
        let log = log.map(|log| format!("{} {} {} {}", log.cluster, log.route, log.flags, log.details));
        let share = outcome.share.as_ref().map(|share| format!(" {share}")).unwrap_or_default();
        let carried = if outcome.carried { "" } else { " refused" };
        format!("{}{share}{carried}", log.unwrap_or_else(|| "nothing".into()))
    });
    each.collect::<Vec<_>>().join("; ")
}

/// Two texts are the same, or the difference is shown line by line.
#[track_caller]
pub(crate) fn same_text(got: &str, expected: &str) {
    let expected = expected.trim_start_matches('\n');
    if got == expected {
        return;
    }
    let (got_lines, expected_lines): (Vec<&str>, Vec<&str>) =
        (got.lines().collect(), expected.lines().collect());
    let mut shown = String::new();
    for index in 0..got_lines.len().max(expected_lines.len()) {
        match (got_lines.get(index), expected_lines.get(index)) {
            (Some(got), Some(expected)) if got == expected => shown += &format!("  {got}\n"),
            (got, expected) => {
                shown += &expected.map(|line| format!("- {line}\n")).unwrap_or_default();
                shown += &got.map(|line| format!("+ {line}\n")).unwrap_or_default();
            }
        }
    }
    panic!("expected (-), got (+):\n{shown}");
}
