//! Begins anew, as the same process, when a signal has kept aya from seeing what this kernel can do: it looks only once in
//! a process. Called before anything else has happened, so that nothing is left behind or done twice.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::datapath;

/// How often this has happened already, in front of the other arguments.
pub(super) const FLAG: &str = "again";

/// Then loading the programs says so.
const TIMES_MAX: u8 = 100;

/// Comes back when the kernel is known, or can't be.
pub(super) fn unless_kernel_is_known(times: u8) {
    if datapath::preflight().is_err() || !datapath::knows_less_than_kernel() || times >= TIMES_MAX {
        return;
    }
    // Not /proc/self/exe, which the process would be named after.
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into());
    // It comes back only when it fails.
    let _error = Command::new(program).arg0(name).args(arguments_again(arguments, times)).exec();
}

fn arguments_again(given: impl Iterator<Item = OsString>, times: u8) -> impl Iterator<Item = OsString> {
    let flag = format!("--{FLAG}={}", times + 1).into();
    std::iter::once(flag).chain(given.skip(usize::from(times > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_stay_and_the_flag_counts() {
        let again = |given: &[&str], times| -> Vec<OsString> {
            arguments_again(given.iter().map(OsString::from), times).collect()
        };
        assert_eq!(again(&["exec", "--", "true"], 0), ["--again=1", "exec", "--", "true"]);
        assert_eq!(again(&["--again=1", "exec", "--", "true"], 1), ["--again=2", "exec", "--", "true"]);
    }
}
