//! Directories as nodes have them, before and after.

use serde_json::json;

use super::*;

const CALICO: &str = include_str!("../samples/10-calico.conflist");
const BRIDGE: &str = include_str!("../samples/10-bridge.conf");

struct Node {
    directory: tempfile::TempDir,
}

impl Node {
    fn with(files: &[(&str, &str)]) -> Self {
        let node = Self { directory: tempfile::tempdir().unwrap() };
        for (name, text) in files {
            fs::write(node.file(name), text).unwrap();
        }
        node
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn installation(&self) -> Installation {
        Installation {
            bin_dir: self.directory.path().join("bin"),
            conf_dir: self.directory.path().to_owned(),
            keys: Keys::default(),
        }
    }

    fn configure(&self) -> anyhow::Result<Configured> {
        self.installation().configure()
    }

    /// Names and texts, without hidden leftovers if there are none.
    fn files(&self) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn names(&self) -> Vec<String> {
        self.files().into_iter().map(|(name, _)| name).collect()
    }

    /// The types in a list.
    fn plugins(&self, name: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(&fs::read_to_string(self.file(name)).unwrap()).unwrap();
        let plugins = list["plugins"].as_array().unwrap();
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn the_first_list_gets_the_plugin_and_no_other() {
    let node = Node::with(&[
        ("20-other.conflist", CALICO),
        ("10-calico.conflist", CALICO),
        ("calico-kubeconfig", "clusters: []"),
    ]);
    fs::set_permissions(node.file("10-calico.conflist"), fs::Permissions::from_mode(0o600)).unwrap();
    let target = node.file("10-calico.conflist");
    assert_eq!(node.configure().unwrap(), Configured::Changed(target.clone()));
    assert_eq!(node.plugins("10-calico.conflist"), ["calico", "portmap", "bandwidth", PLUGIN]);
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(node.file("20-other.conflist")).unwrap(), CALICO);
    let before = node.files();
    assert_eq!(node.configure().unwrap(), Configured::Already);
    assert_eq!(node.files(), before);
}

#[test]
fn the_entry_says_what_was_asked_for() {
    let node = Node::with(&[("10-calico.conflist", CALICO)]);
    let mut installation = node.installation();
    installation.keys.exclude_namespaces = vec!["kube-system".into()];
    installation.keys.log_file = Some("/var/log/interceptor/cni.log".into());
    installation.configure().unwrap();
    let list: Value =
        serde_json::from_str(&fs::read_to_string(node.file("10-calico.conflist")).unwrap()).unwrap();
    let expected = json!({"type": PLUGIN, "agentSocket": "/run/interceptor/agent.sock", "deadline": "10s",
        "ifAgentDown": "fail", "excludeNamespaces": ["kube-system"],
        "logFile": "/var/log/interceptor/cni.log"});
    assert_eq!(list["plugins"][3], expected);
    installation.keys.deadline = "20s".into();
    assert_eq!(installation.configure().unwrap(), Configured::Changed(node.file("10-calico.conflist")));
    assert_eq!(node.plugins("10-calico.conflist"), ["calico", "portmap", "bandwidth", PLUGIN]);
}

#[test]
fn files_that_no_runtime_would_use_are_passed_over() {
    let node = Node::with(&[("05-half.conflist", "{\"name\": \"n\","), ("10-calico.conflist", CALICO)]);
    assert_eq!(node.configure().unwrap(), Configured::Changed(node.file("10-calico.conflist")));
    let node = Node::with(&[("05-half.conflist", "{"), ("README", "")]);
    let Configured::NoNetwork(unusable) = node.configure().unwrap() else { panic!("there is none") };
    assert_eq!(unusable.len(), 1);
    assert!(unusable[0].contains("05-half.conflist: it is no JSON object"), "{unusable:?}");
}

#[test]
fn a_network_that_can_not_chain_is_told() {
    let old = BRIDGE.replace("0.4.0", "0.2.0");
    let node = Node::with(&[("05-old.conf", &old), ("10-calico.conflist", CALICO)]);
    let error = format!("{:#}", node.configure().unwrap_err());
    assert!(error.contains("05-old.conf can't have another plugin: its cniVersion is \"0.2.0\""), "{error}");
    assert_eq!(node.plugins("10-calico.conflist"), ["calico", "portmap", "bandwidth"]);
}

#[test]
fn keys_that_the_plugin_could_not_use_reach_no_node() {
    let node = Node::with(&[("10-calico.conflist", CALICO)]);
    let mut installation = node.installation();
    installation.keys.deadline = "soon".into();
    let error = format!("{:#}", installation.configure().unwrap_err());
    assert!(error.contains("deadline is \"soon\""), "{error}");
    assert_eq!(fs::read_to_string(node.file("10-calico.conflist")).unwrap(), CALICO);
}

#[test]
fn a_single_plugin_becomes_a_list_and_comes_back() {
    let node = Node::with(&[("10-bridge.conf", BRIDGE)]);
    assert_eq!(node.configure().unwrap(), Configured::Changed(node.file("10-bridge.conflist")));
    assert_eq!(node.names(), ["10-bridge.conf.before-interceptor", "10-bridge.conflist"]);
    assert_eq!(node.plugins("10-bridge.conflist"), ["bridge", PLUGIN]);
    assert_eq!(node.configure().unwrap(), Configured::Already);

    // The network writes its own file again.
    fs::write(node.file("10-bridge.conf"), BRIDGE.replace("cnio0", "cnio1")).unwrap();
    assert_eq!(node.configure().unwrap(), Configured::Changed(node.file("10-bridge.conflist")));
    assert!(fs::read_to_string(node.file("10-bridge.conflist")).unwrap().contains("cnio1"));

    assert_eq!(uninstall(node.directory.path()).unwrap(), [node.file("10-bridge.conflist")]);
    assert_eq!(node.files(), [("10-bridge.conf".to_owned(), BRIDGE.replace("cnio0", "cnio1"))]);
}

#[test]
fn uninstalling_leaves_what_was_there() {
    let node =
        Node::with(&[("10-calico.conflist", CALICO), ("broken.conflist", "{"), ("20.conflist", CALICO)]);
    let before = node.files();
    assert_eq!(uninstall(node.directory.path()).unwrap(), Vec::<PathBuf>::new());
    node.configure().unwrap();
    // Another network came in front, and went.
    fs::rename(node.file("10-calico.conflist"), node.file("30.conflist")).unwrap();
    node.configure().unwrap();
    let changed = uninstall(node.directory.path()).unwrap();
    assert_eq!(changed, [node.file("20.conflist"), node.file("30.conflist")]);
    fs::rename(node.file("30.conflist"), node.file("10-calico.conflist")).unwrap();
    assert_eq!(node.files(), before);
}

#[test]
fn the_executable_is_our_own() {
    let node = Node::with(&[("10-calico.conflist", CALICO)]);
    let installation = node.installation();
    installation.install().unwrap();
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(fs::read(installation.executable()).unwrap() == own);
    assert_eq!(fs::metadata(installation.executable()).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_dir(&installation.bin_dir).unwrap().count(), 1);
    assert!(remove_executable(&installation.bin_dir).unwrap());
    assert!(!remove_executable(&installation.bin_dir).unwrap());
}

#[test]
fn directories_that_are_not_there_are_named() {
    let node = Node::with(&[]);
    let mut installation = node.installation();
    installation.conf_dir = node.file("missing");
    let error = format!("{:#}", installation.configure().unwrap_err());
    assert!(error.contains("missing"), "{error}");
    installation.bin_dir = "/proc/none".into();
    let error = format!("{:#}", installation.install().unwrap_err());
    assert!(error.contains("--bin-dir"), "{error}");
}
