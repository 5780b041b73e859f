//! Which service and which VirtualService a Host gets, and what a Sidecar leaves of both, against the rules
//! said slowly (ISTIO.md 1.2, 1.6, 1.9): random hosts and wildcards.

use interceptor_user::compile::Client;
use proptest::prelude::*;

use crate::support::for_client_of_mesh;

/// `pattern` has no wildcard, or one at its start; `host` likewise.
fn covers(pattern: &str, host: &str) -> bool {
    match (pattern.strip_prefix('*'), host.strip_prefix('*')) {
        (None, _) => pattern == host,
        (Some(suffix), None) => host.len() > suffix.len() && host.ends_with(suffix),
        (Some(suffix), Some(rest)) => rest.ends_with(suffix),
    }
}

/// Exact before wildcards, longer wildcards before shorter.
fn most_specific<'a>(names: impl Iterator<Item = &'a String>, host: &str) -> Option<&'a String> {
    let mut best: Option<&String> = None;
    for name in names.filter(|name| covers(name, host)) {
        let rank = |name: &str| (!name.starts_with('*'), name.len());
        if best.is_none_or(|best| rank(name) > rank(best)) {
            best = Some(name);
        }
    }
    best
}

/// What is in a namespace (`client` or `other`), by name: hosts of entries, hosts of VirtualServices.
#[derive(Clone, Debug)]
struct Resources {
    entries: Vec<(&'static str, String)>,
    virtual_services: Vec<(&'static str, String)>,
    /// `namespace/host` of the client's Sidecar; none: no Sidecar.
    imports: Vec<(&'static str, String)>,
}

impl Resources {
    fn yaml(&self) -> String {
        let mut yaml = String::new();
        for (index, (namespace, host)) in self.entries.iter().enumerate() {
            yaml += &format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e{index:02}, namespace: {namespace}}}\n\
                 spec:\n  hosts: ['{host}']\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n---\n"
            );
        }
        for (index, (namespace, host)) in self.virtual_services.iter().enumerate() {
            yaml += &format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{index:02}, namespace: {namespace}}}\n\
                 spec:\n  hosts: ['{host}']\n  http: [{{directResponse: {{status: 2{index:02}}}}}]\n---\n"
            );
        }
        if !self.imports.is_empty() {
            let hosts: Vec<_> = self.imports.iter().map(|(ns, host)| format!("'{ns}/{host}'")).collect();
            yaml += &format!(
                "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: client}}\nspec: {{egress: \
                 [{{hosts: [{}]}}]}}\n---\n",
                hosts.join(", ")
            );
        }
        // Something is always HTTP on port 80, so that there is a table to ask.
        yaml + "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: zz, namespace: client}\nspec:\n  hosts: \
                [known.test]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n"
    }

    fn imported(&self, namespace: &str, fits: impl Fn(&str) -> bool) -> bool {
        let of = |wanted: &str| match wanted {
            "*" => true,
            "." => namespace == "client",
            "~" => false,
            name => name == namespace,
        };
        self.imports.is_empty() || self.imports.iter().any(|(wanted, host)| of(wanted) && fits(host))
    }

    /// What a request to `host` gets on port 80.
    fn model(&self, host: &str) -> String {
        let entries: Vec<&String> = self
            .entries
            .iter()
            .filter(|(namespace, name)| self.imported(namespace, |wanted| covers(wanted, name)))
            .map(|(_, name)| name)
            .collect();
        let either = |wanted: &str, name: &str| covers(wanted, name) || covers(name, wanted);
        let rules: Vec<(usize, &String)> = self
            .virtual_services
            .iter()
            .enumerate()
            .filter(|(_, (namespace, name))| self.imported(namespace, |wanted| either(wanted, name)))
            .map(|(index, (_, name))| (index, name))
            .collect();
        // Hosts of VirtualServices that no service has are hosts of their own on port 80.
        let unknown = rules.iter().map(|(_, name)| *name).filter(|name| {
            !entries
                .iter()
                .any(|entry| if name.starts_with('*') { covers(name, entry) } else { entry == name })
        });
        let unknown: Vec<&String> = unknown.collect();
        let Some(chosen) = most_specific(entries.iter().chain(&unknown).copied(), host) else {
            return "PassthroughCluster allow_any".into();
        };
        let by_name = |name: &String| rules.iter().find(|(_, own)| *own == name).map(|(index, _)| *index);
        let rule = if entries.contains(&chosen) {
            most_specific(rules.iter().map(|(_, name)| *name), chosen).and_then(by_name)
        } else {
            by_name(chosen)
        };
        rule.map_or_else(|| format!("outbound|80||{chosen} default"), |index| format!("2{index:02} -"))
    }
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 1..4)
        .prop_map(|labels| labels.join(".") + ".x")
}

fn pattern() -> impl Strategy<Value = String> {
    (prop::sample::select(vec!["", "", "*.", "*"]), name()).prop_map(|(start, name)| format!("{start}{name}"))
}

fn resources() -> impl Strategy<Value = Resources> {
    let namespace = || prop::sample::select(vec!["client", "other"]);
    let wanted = prop::sample::select(vec!["*", ".", "other", "~"]);
    let host = prop_oneof![Just("*".to_owned()), pattern()];
    let entries = prop::collection::vec((namespace(), pattern()), 0..6);
    let virtual_services = prop::collection::vec((namespace(), pattern()), 0..6);
    let imports = prop_oneof![Just(vec![]), prop::collection::vec((wanted, host), 1..4)];
    (entries, virtual_services, imports).prop_map(|(entries, virtual_services, imports)| {
        // The table that is asked is always there.
        let own = ("client", "known.test".to_owned());
        let imports = if imports.is_empty() { imports } else { imports.into_iter().chain([own]).collect() };
        let imports = imports.into_iter().map(|(ns, host)| (if ns == "client" { "." } else { ns }, host));
        Resources { entries, virtual_services, imports: imports.collect() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn hosts_get_what_the_slow_rules_give(resources in resources(), hosts in prop::collection::vec(name(), 1..5)) {
        let config = for_client_of_mesh(&resources.yaml(), "{}", Client::in_namespace("client"));
        for host in hosts {
            let got = config.ask(&format!("203.0.113.9:80 http GET http://{host}/"));
            prop_assert_eq!(got, resources.model(&host), "{} {:?}", host, resources);
        }
    }
}
