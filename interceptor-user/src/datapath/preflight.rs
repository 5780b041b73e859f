//! Can this process, on this kernel, load the programs? Asked first, so that the answer is a sentence and not an errno.

use std::fs;

use super::DatapathError;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// SO_NETNS_COOKIE is of 5.14, the cookie in sock_ops programs of 5.15.
pub const KERNEL_MIN: (u32, u32) = (5, 15);

/// Fails with the first thing that is missing.
pub fn preflight() -> Result<(), DatapathError> {
    let release = kernel_release();
    if kernel_version(&release).is_some_and(|version| version < KERNEL_MIN) {
        return Err(DatapathError::KernelVersion { release });
    }
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    match missing_capabilities(&status) {
        Some(missing) => Err(DatapathError::Privilege { missing }),
        None => Ok(()),
    }
}

pub(super) fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// `6.18.44-fc` → (6, 18). None for what does not look like a version: then the load itself decides.
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What is missing of the effective capabilities in a `/proc/PID/status`; None: nothing.
fn missing_capabilities(status: &str) -> Option<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(line.trim(), 16).ok()?;
    let has = |capability: u32| effective >> capability & 1 == 1;
    // CAP_SYS_ADMIN stands for two of them, which were once parts of it. Without CAP_PERFMON the verifier refuses
    // what a processor might speculate on.
    let or_admin = |capability| has(capability) || has(CAP_SYS_ADMIN);
    let needed = [
        (or_admin(CAP_BPF), "CAP_BPF"),
        (has(CAP_NET_ADMIN), "CAP_NET_ADMIN"),
        (or_admin(CAP_PERFMON), "CAP_PERFMON"),
    ];
    let missing: Vec<&str> = needed.into_iter().filter(|(there, _)| !there).map(|(_, name)| name).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let rows = [
            ("6.18.44-fc-v445", Some((6, 18))),
            ("5.4.0", Some((5, 4))),
            ("5.15", Some((5, 15))),
            ("4.19-generic", Some((4, 19))),
            ("mainline", None),
        ];
        for (release, expected) in rows {
            assert_eq!(kernel_version(release), expected, "{release}");
        }
    }

    #[test]
    fn capabilities() {
        let rows = [
            ("CapEff:\t000001ffffffffff\n", None),
            ("CapEff:\t0000000000000000\n", Some("CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON")),
            ("CapEff:\t0000008000000000\n", Some("CAP_NET_ADMIN, CAP_PERFMON")),
            ("CapEff:\t0000000000201000\n", None),
            ("CapEff:\t0000000000200000\n", Some("CAP_NET_ADMIN")),
            ("CapEff:\t000000c000001000\n", None),
            ("Name:\tnone\n", None),
        ];
        for (status, expected) in rows {
            assert_eq!(missing_capabilities(status).as_deref(), expected, "{status:?}");
        }
    }
}
