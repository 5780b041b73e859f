//! What the kernel programs log, into our own log. Only with the feature `log`: for debugging them.

use std::{io, thread};

use aya::Ebpf;
use aya_log::EbpfLogger;
use rustix::event::{PollFd, PollFlags, poll};

use super::DatapathError;

/// Starts a thread that lives as long as the process.
pub(super) fn follow(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let mut logger =
        EbpfLogger::init(ebpf).map_err(|error| DatapathError::Events(io::Error::other(error)))?;
    let reading = move || {
        while poll(&mut [PollFd::new(&logger, PollFlags::IN)], None).is_ok() {
            logger.flush();
        }
    };
    thread::Builder::new().name("ebpf-log".to_owned()).spawn(reading).map(drop).map_err(DatapathError::Events)
}
