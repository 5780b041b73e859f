//! Makes the sockets of upstream connections in the workload's network namespace: what they reach, and where they
//! seem to come from, is as if the workload had made them. A socket stays in the namespace that it was made in;
//! the thread is there for the one call of socket(2) only.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where a workload's upstream sockets are made; the thread's own namespace by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Netns(Option<Arc<OwnedFd>>);

impl Netns {
    pub(crate) fn new(namespace: Option<Arc<OwnedFd>>) -> Self {
        Self(namespace)
    }

    pub(crate) fn is_own(&self) -> bool {
        self.0.is_none()
    }

    /// Runs `make` in it, which must not wait for anything.
    ///
    /// # Errors
    /// When it can't be entered.
    pub(crate) fn inside<T>(&self, make: impl FnOnce() -> T) -> io::Result<T> {
        match &self.0 {
            None => Ok(make()),
            Some(namespace) => inside(namespace, make),
        }
    }
}

thread_local! {
    /// The namespace that this thread is in but for [`inside`].
    static HOME: OnceCell<OwnedFd> = const { OnceCell::new() };
}

fn inside<T>(namespace: &OwnedFd, make: impl FnOnce() -> T) -> io::Result<T> {
    HOME.with(|cell| {
        let home = match cell.get() {
            Some(home) => home,
            None => {
                let opened = File::open("/proc/thread-self/ns/net")?;
                cell.get_or_init(|| opened.into())
            }
        };
        enter(namespace).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the workload's network namespace can't be entered: {error}"),
            )
        })?;
        // Whatever `make` does: nothing more may happen on this thread before it is back.
        let home = Home(home);
        let made = make();
        drop(home);
        Ok(made)
    })
}

fn enter(namespace: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Goes back when dropped, by a panic too.
struct Home<'a>(&'a OwnedFd);

impl Drop for Home<'_> {
    fn drop(&mut self) {
        if let Err(error) = enter(self.0) {
            // Sockets of everybody else would be made in this workload's namespace from here on.
            tracing::error!(%error, "no way back from a workload's network namespace: the process ends");
            std::process::abort();
        }
    }
}
