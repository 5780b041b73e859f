//! The kernel and what it lets us do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::datapath::{Datapath, KERNEL_MIN, kernel_version};

/// A capability by its number in `/proc/PID/status`, and what it is for.
const CAPABILITIES: &[(u32, &str, &str)] = &[
    (12, "NET_ADMIN", "attach programs to cgroups, bind listeners to lo"),
    (19, "SYS_PTRACE", "see the network namespaces of other users' processes"),
    (21, "SYS_ADMIN", "enter network namespaces, take over pinned maps"),
    (38, "PERFMON", "have the verifier accept programs that a processor might speculate in"),
    (39, "BPF", "load programs and make maps"),
];

pub(super) fn findings() -> Vec<Finding> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok();
    vec![
        version(&rustix::system::uname().release().to_string_lossy()),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        capabilities(&status),
        compiler(jit.as_deref()),
    ]
}

fn version(release: &str) -> Finding {
    const WHAT: &str = "kernel";
    let (major, minor) = KERNEL_MIN;
    match kernel_version(release) {
        Some(version) if version < KERNEL_MIN => Finding::failure(
            WHAT,
            format!("Linux {release}"),
            format!("upgrade it to {major}.{minor} or newer (6.1 or newer tells applications more)"),
        ),
        Some(version) if version < (6, 1) => Finding::warning(
            WHAT,
            format!("Linux {release}"),
            "from 6.1 on a refused connection can say why: before, it is always \"operation not permitted\"",
        ),
        Some(_) | None => Finding::ok(WHAT, format!("Linux {release}")),
    }
}

fn btf(is_there: bool) -> Finding {
    const WHAT: &str = "type information";
    if is_there {
        return Finding::ok(WHAT, "BTF in /sys/kernel/btf/vmlinux");
    }
    Finding::failure(
        WHAT,
        "no /sys/kernel/btf/vmlinux",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF, as all current distributions' are; in a container, /sys must be \
         the node's",
    )
}

fn capabilities(status: &str) -> Finding {
    const WHAT: &str = "capabilities";
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok()).unwrap_or_default();
    let has = |number: u32| effective >> number & 1 == 1;
    // SYS_ADMIN stands for BPF and PERFMON, which were once parts of it.
    let has = |number: u32| has(number) || (matches!(number, 38 | 39) && has(21));
    let missing = || CAPABILITIES.iter().filter(|(number, ..)| !has(*number));
    if missing().next().is_none() {
        let names: Vec<&str> = CAPABILITIES.iter().map(|(_, name, _)| *name).collect();
        return Finding::ok(WHAT, names.join(", "));
    }
    let names: Vec<&str> = missing().map(|(_, name, _)| *name).collect();
    let why: Vec<String> = missing().map(|(_, name, why)| format!("{name} to {why}")).collect();
    Finding::failure(
        WHAT,
        format!("without {}", names.join(", ")),
        format!("run as root; a container needs {}", why.join("; ")),
    )
}

/// net.core.bpf_jit_enable.
fn compiler(setting: Option<&str>) -> Finding {
    const WHAT: &str = "BPF compiler";
    match setting.map(str::trim) {
        Some("0") => {
            Finding::warning(WHAT, "off: programs are interpreted", "sysctl -w net.core.bpf_jit_enable=1")
        }
        None => Finding::warning(
            WHAT,
            "the kernel has none: programs are interpreted",
            "use a kernel built with CONFIG_BPF_JIT",
        ),
        Some(_) => Finding::ok(WHAT, "on"),
    }
}

/// Loads the programs, and attaches them to a cgroup of their own below `directory`.
pub(super) fn programs(directory: &Path) -> Vec<Finding> {
    const LOADED: &str = "programs";
    const ATTACHED: &str = "hooks";
    let mut datapath = match Datapath::load() {
        Ok(datapath) => datapath,
        Err(error) => {
            let mend = "see what the kernel lacks or forbids, above and in its log (dmesg)";
            return vec![Finding::failure(LOADED, sentence(&error), mend)];
        }
    };
    let loaded = Finding::ok(LOADED, "the kernel accepts them");
    let attached = match Probe::make(directory) {
        Ok(probe) => match probe.open().map_err(anyhow::Error::new).and_then(|cgroup| {
            datapath.attach_workload(&cgroup)?;
            datapath.attach_guard(&cgroup)?;
            Ok(datapath.attach_dns(&cgroup)?)
        }) {
            Ok(()) => {
                Finding::ok(ATTACHED, format!("attached to a new cgroup below {}", directory.display()))
            }
            Err(error) => Finding::failure(
                ATTACHED,
                format!("can't be attached below {}: {}", directory.display(), sentence(error.as_ref())),
                "see who is attached there, below",
            ),
        },
        Err(error) => Finding::failure(
            ATTACHED,
            format!("no cgroup can be made below {}: {error}", directory.display()),
            "mount cgroup2 writable; a container needs the node's /sys/fs/cgroup",
        ),
    };
    vec![loaded, attached]
}

/// With its causes, none of them twice.
fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

/// An empty cgroup, which goes when this is dropped.
struct Probe {
    directory: PathBuf,
}

impl Probe {
    fn make(root: &Path) -> io::Result<Self> {
        let directory = root.join(format!("interceptor-check-{}", std::process::id()));
        fs::create_dir(&directory)?;
        Ok(Self { directory })
    }

    fn open(&self) -> io::Result<fs::File> {
        fs::File::open(&self.directory)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.directory) {
            tracing::warn!("can't remove {}: {error}", self.directory.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn versions() {
        for (release, verdict) in [
            ("6.18.44", Verdict::Ok),
            ("6.1.0-18-amd64", Verdict::Ok),
            ("5.15.0-1-generic", Verdict::Warning),
            ("5.10.0", Verdict::Failure),
            ("4.18.0-553.el8", Verdict::Failure),
            ("mainline", Verdict::Ok),
        ] {
            assert_eq!(version(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn capabilities_are_named_with_what_they_are_for() {
        assert_eq!(capabilities("CapEff:\t000001ffffffffff\n").verdict, Verdict::Ok);
        let finding = capabilities("Name:\tx\nCapEff:\t0000000000201000\n");
        assert_eq!((finding.verdict, finding.found.as_str()), (Verdict::Failure, "without SYS_PTRACE"));
        assert!(finding.mend.is_some_and(|mend| mend.contains("other users' processes")));
        let finding = capabilities("CapEff:\t0000000000000000\n");
        assert_eq!(finding.found, "without NET_ADMIN, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF");
    }

    #[test]
    fn the_compiler_may_be_off() {
        for (setting, verdict) in [
            (Some("1\n"), Verdict::Ok),
            (Some("2\n"), Verdict::Ok),
            (Some("0\n"), Verdict::Warning),
            (None, Verdict::Warning),
        ] {
            assert_eq!(compiler(setting).verdict, verdict, "{setting:?}");
        }
    }

    #[test]
    fn type_information_is_needed() {
        assert_eq!((btf(true).verdict, btf(false).verdict), (Verdict::Ok, Verdict::Failure));
    }
}
