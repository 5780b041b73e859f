//! The host's own addresses are left alone, also those that come and go while the command runs.

use super::{exec, in_quiet_network};

/// Nobody listens: a connection to an own address is refused by the kernel, one that is redirected is taken. Each step
/// waits until the answer is the wanted one, and hangs until the deadline if it never is.
const SCRIPT: &str = r#"
answer() { timeout 5 bash -c 'exec 3<>/dev/tcp/198.51.100.7/9' 2>&1 | grep -q refused && echo refused || echo taken; }
await() { until [ "$(answer)" = "$1" ]; do sleep 0.02; done; echo "$1"; }
await taken
ip address add 198.51.100.7/24 dev quiet; await refused
ip address del 198.51.100.7/24 dev quiet; await taken
"#;

#[test]
fn the_kernel_learns_of_new_addresses() {
    let run = exec(&["timeout", "20", "bash", "-c", SCRIPT]);
    let output = in_quiet_network(&run).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "taken\nrefused\ntaken\n", "{output:?}");
}
