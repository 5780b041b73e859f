//! Names for what the harness makes: `ic<pid>-<n>`, never used twice. The first name starts the janitor, which
//! cleans after earlier test processes now, and after this one when it ends, however it ends.

use std::process::{Child, Command, Stdio, id};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cgroup;

const SCRIPT: &str = include_str!("janitor.sh");

/// A name that no other test process and no other call has: at most 15 bytes for the first ten thousand, so that
/// it also serves for an interface.
pub fn unique() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    janitor();
    format!("ic{}-{}", id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn janitor() {
    // Never dropped: its standard input closes when this process ends, and then it cleans.
    static JANITOR: OnceLock<Option<Child>> = OnceLock::new();
    JANITOR.get_or_init(|| {
        let root = cgroup::root().ok()?;
        let script = |mode: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", SCRIPT, "janitor"]).arg(&root).arg(std::env::temp_dir()).arg(mode);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        script("stale").stdin(Stdio::null()).status().ok()?;
        let mut janitor = script(&format!("ic{}", id()));
        // A group of its own: Ctrl-C ends the tests, not what cleans after them.
        std::os::unix::process::CommandExt::process_group(&mut janitor, 0);
        janitor.stdin(Stdio::piped()).spawn().ok()
    });
}
