//! What agents of another schema have pinned, taken over as far as it goes: their maps say nothing to us, so connections
//! of their pods are refused until the pods are enrolled anew, and never let through.
//!
//! In two steps. First their links on pods get our programs, one by one and without a moment in between, and become
//! ours. Their gate, which knows the pods that are left alone, stays until ours is attached; then everything else goes.

use std::{fs, os::fd::AsFd};

use super::{
    Datapath, DatapathError,
    cleanup::{self, Cleaned},
    links,
    pins::{self, Place},
    programs, sys,
};

impl Datapath {
    /// The first step, once the agent before us writes no more. Programs that we don't have stay until the second.
    pub(super) fn take_links_of_other_schemas(&mut self) -> Result<(), DatapathError> {
        let pins = self.pins()?;
        for other in pins.of_other_schemas()? {
            for cgroup in other.cgroups(Place::Pod)? {
                let (from, to) = (other.links(Place::Pod, cgroup), pins.links(Place::Pod, cgroup));
                // What redirects goes first: it knows no listener yet, so what serves redirected connections is missed by
                // none.
                for name in programs::pinned_programs().iter().rev() {
                    let (from, to) = (from.join(name), to.join(name));
                    if links::update(&self.ebpf, name, &from, None)? {
                        pins::make(to.parent().unwrap_or(&to))?;
                        fs::rename(&from, &to).map_err(pins::failed(&from))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The second step, once every pod has what it is to have.
    pub(super) fn remove_other_schemas(&self) -> Result<(), DatapathError> {
        for other in self.pins()?.of_other_schemas()? {
            let path = other.map("WORKLOADS");
            let workloads = pins::get(&path)?;
            cleanup::remove(other.directory(), &mut Cleaned::default())?;
            // The agent before us has the map open, and sees that its pods are no longer its own.
            if let Some(workloads) = workloads {
                sys::map_clear(workloads.as_fd()).map_err(pins::failed(&path))?;
            }
        }
        Ok(())
    }
}
