//! `interceptor hold`: does nothing until a signal ends it. A pod of the clean-up shows by it that its node is clean.

use std::process::ExitCode;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    loop {
        rustix::event::pause();
    }
}
