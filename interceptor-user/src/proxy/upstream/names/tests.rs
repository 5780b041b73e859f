//! What is known of hosts over a reload, with names from a hosts file and a name server that is silent.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tempfile::NamedTempFile;

use super::{Host, Names};
use crate::dns::{Asker, Options, Resolver, Servers};
use crate::snapshot::{DnsTarget, Placement};

const PATIENCE: Duration = Duration::from_secs(20);

/// A resolver that knows what the file says.
struct Resolving {
    resolver: Resolver,
    hosts: NamedTempFile,
    /// Takes questions, and answers none.
    _server: UdpSocket,
}

impl Resolving {
    fn start(hosts: &str) -> Self {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), hosts).unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let servers = Servers::Fixed(vec![server.local_addr().unwrap()]);
        let options = Options { servers, hosts_file: file.path().to_owned(), ..Options::default() };
        Self { resolver: Resolver::start(options).unwrap(), hosts: file, _server: server }
    }

    fn names(&self, hosts: &[&str], known: Option<&[Arc<Host>]>) -> Names {
        let target =
            |host: &&str| (DnsTarget { host: (*host).into(), port: 80, weight: 1 }, Placement::default());
        Names::new(hosts.iter().map(target).collect(), false, self.resolver.clone(), known)
    }

    /// Empties the file, and waits until one of `known` can't be resolved for the first time.
    async fn forget_all(&self, known: impl Iterator<Item = String>) {
        std::fs::write(self.hosts.path(), "").unwrap();
        for name in known {
            if self.resolver.resolve(&name, Asker::default()).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the file is not read again");
    }

    /// Names in use, and their hosts.
    async fn used(&self, hosts: &[&str]) -> (Names, Vec<Arc<Host>>) {
        let names = self.names(hosts, None);
        let known = names.first_answer(PATIENCE).await.iter().cloned().collect();
        (names, known)
    }
}

/// The hosts of now, or `None` while an answer is waited for.
fn known(names: &Names) -> Option<Vec<Arc<Host>>> {
    names.known().map(|hosts| hosts.iter().cloned().collect())
}

fn assert_same(hosts: &[Arc<Host>], expected: &[Arc<Host>]) {
    assert!(!expected.is_empty() && hosts.len() == expected.len(), "{hosts:?}, not {expected:?}");
    assert!(hosts.iter().zip(expected).all(|(host, expected)| Arc::ptr_eq(host, expected)));
}

#[tokio::test]
async fn hosts_outlive_a_reload_while_no_server_answers() {
    let others = || (0..200).map(|number| format!("{number}.test"));
    let other_lines: String = others().map(|name| format!("192.0.2.9 {name}\n")).collect();
    let resolving = Resolving::start(&format!("192.0.2.1 a.test\n192.0.2.2 a.test\n{other_lines}"));
    let (before, hosts) = resolving.used(&["a.test"]).await;
    resolving.forget_all(others()).await;
    let after = resolving.names(&["a.test"], Some(&hosts));
    drop(before);
    assert_same(&known(&after).expect("an answer"), &hosts);
    // Another one before anybody has asked.
    let last = resolving.names(&["a.test", "silent.test"], Some(&hosts));
    drop(after);
    assert_same(&known(&last).expect("an answer"), &hosts);
}

#[tokio::test]
async fn hosts_of_other_names_are_not_used_but_known_again() {
    let resolving = Resolving::start("192.0.2.1 a.test b.test\n");
    let (_before, hosts) = resolving.used(&["a.test"]).await;
    assert!(known(&resolving.names(&["silent.test"], Some(&hosts))).is_none());

    let after = resolving.names(&["b.test"], Some(&hosts));
    // Asked for while the answer is due, too.
    known(&after);
    after.first_answer(PATIENCE).await;
    assert_same(&known(&after).expect("an answer"), &hosts);
}

#[tokio::test]
async fn a_cluster_without_names_has_no_hosts() {
    let resolving = Resolving::start("192.0.2.1 a.test\n");
    let (_before, hosts) = resolving.used(&["a.test"]).await;
    assert!(!hosts.is_empty() && known(&resolving.names(&[], Some(&hosts))).unwrap().is_empty());
}
