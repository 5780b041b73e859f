//! Links that are pinned, and so outlive the process: made, updated in place, taken away.
//!
//! Programs of one cgroup are attached in the order of their list, which ends with those that redirect, and taken away
//! from its end. They are pinned from its end too: whatever a crash leaves in between refuses connections rather than
//! letting them through, and the next call completes it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::Ebpf;

use super::{
    CgroupId, Datapath, DatapathError, attach,
    pins::{self, Pins, Place},
    programs, sys,
};

/// What sits on a pod's cgroup beside what redirects its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Besides {
    /// Its queries to name servers go to the relay.
    pub capture_dns: bool,
    /// What leaves it around the proxy is refused: for policies that are enforced.
    pub guard: bool,
}

impl Datapath {
    /// Every connect(2) and bind(2) of sockets made in a pod's cgroup, or below it, from now on, for as long as the
    /// cgroup or the pins live, with what `besides` asks for. Called again it updates what is there, without a moment in
    /// between, and takes away what is not asked for any more.
    ///
    /// Until the pod's network namespace is enrolled its connections are refused: attach first, then enroll, and no
    /// connection goes its own way in between. On failure what was attached before stays as it was.
    pub fn attach_pod(&mut self, cgroup: impl AsFd, besides: Besides) -> Result<CgroupId, DatapathError> {
        let guard = if besides.guard { programs::GUARD } else { &[] };
        if besides.guard && besides.capture_dns && !self.has_guard(&cgroup)? {
            // The guard sees what was asked for only in front of the programs that send queries to the relay.
            self.attach_pinned(Place::Pod, cgroup.as_fd(), &[programs::GUARD, programs::WORKLOAD].concat())?;
        }
        let dns = if besides.capture_dns { programs::DNS } else { &[] };
        let names = [guard, programs::WORKLOAD, dns].concat();
        self.attach_pinned(Place::Pod, cgroup.as_fd(), &names)
    }

    fn has_guard(&self, cgroup: &impl AsFd) -> Result<bool, DatapathError> {
        let id = CgroupId::of(cgroup.as_fd()).map_err(DatapathError::Cgroup)?;
        let pinned = pins::entries(&self.pins()?.links(Place::Pod, id))?;
        Ok(programs::GUARD.iter().all(|name| pinned.iter().any(|entry| entry == name)))
    }

    /// Lets connections of the pod go their own way again. A pod or a cgroup that is gone is none of our concern.
    pub fn detach_pod(&mut self, cgroup: CgroupId) -> Result<(), DatapathError> {
        detach(&self.pins()?.links(Place::Pod, cgroup))
    }

    /// The cgroups of pods that have links, whoever attached them.
    pub fn attached_pods(&self) -> Result<Vec<CgroupId>, DatapathError> {
        self.pins()?.cgroups(Place::Pod)
    }

    /// Removes the links of cgroups that are gone, and returns those of pods. A cgroup is gone when it was removed and
    /// the last socket made in it is closed.
    pub fn collect_dead(&mut self) -> Result<Vec<CgroupId>, DatapathError> {
        let pins = self.pins()?;
        let mut dead = Vec::new();
        for place in Place::ALL {
            for cgroup in pins.cgroups(place)? {
                let directory = pins.links(place, cgroup);
                if is_dead(&directory)? {
                    detach(&directory)?;
                    dead.extend((place == Place::Pod).then_some(cgroup));
                }
            }
        }
        Ok(dead)
    }

    pub(super) fn pins(&self) -> Result<&Pins, DatapathError> {
        self.pins.as_ref().ok_or(DatapathError::NotPinned)
    }

    pub(super) fn attach_pinned(
        &mut self,
        place: Place,
        cgroup: BorrowedFd<'_>,
        names: &[&'static str],
    ) -> Result<CgroupId, DatapathError> {
        let id = CgroupId::of(cgroup).map_err(DatapathError::Cgroup)?;
        let directory = self.pins()?.links(place, id);
        let mut fresh: Vec<(PathBuf, OwnedFd)> = Vec::new();
        for name in names {
            let path = directory.join(name);
            if !update(&self.ebpf, name, &path, Some(id))? {
                fresh.push((path, attach::attach(&self.ebpf, name, cgroup)?));
            }
        }
        pins::make(&directory)?;
        for (path, link) in fresh.iter().rev() {
            sys::object_pin(link.as_fd(), path).map_err(pins::failed(path))?;
        }
        for other in others(&directory, names)? {
            detach_one(&directory.join(other))?;
        }
        Ok(id)
    }

    /// Puts our programs in the place of those of every pinned link.
    pub(super) fn update_links(&mut self) -> Result<(), DatapathError> {
        let pins = self.pins()?;
        for place in Place::ALL {
            for cgroup in pins.cgroups(place)? {
                let directory = pins.links(place, cgroup);
                let known = programs::pinned_programs();
                for name in &known {
                    update(&self.ebpf, name, &directory.join(name), None)?;
                }
                for other in others(&directory, &known)? {
                    detach_one(&directory.join(other))?;
                }
            }
        }
        Ok(())
    }
}

/// Whether the link pinned there now runs our program `name`. A link that is not there, or not for this cgroup, does
/// not; it is removed.
pub(super) fn update(
    ebpf: &Ebpf,
    name: &str,
    path: &Path,
    cgroup: Option<CgroupId>,
) -> Result<bool, DatapathError> {
    let Some(link) = pins::get(path)? else { return Ok(false) };
    let info = sys::link_info(link.as_fd()).map_err(pins::failed(path))?;
    let is_alive = info.cgroup_id != 0 && cgroup.is_none_or(|cgroup| cgroup.0 == info.cgroup_id);
    if is_alive {
        let (program_id, program) = attach::program(ebpf, name)?;
        if info.program_id == program_id {
            return Ok(true);
        }
        match sys::link_update(link.as_fd(), program.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            updated => return updated.map(|()| true).map_err(pins::failed(path)),
        }
    }
    pins::remove(path)?;
    Ok(false)
}

/// What is pinned there beside `names`.
fn others(directory: &Path, names: &[&str]) -> Result<Vec<String>, DatapathError> {
    let mut entries = pins::entries(directory)?;
    entries.retain(|entry| !names.contains(&entry.as_str()));
    Ok(entries)
}

/// Detaches everything that is pinned in a directory, and removes it.
pub(super) fn detach(directory: &Path) -> Result<(), DatapathError> {
    let known = programs::pinned_programs();
    for other in others(directory, &known)? {
        detach_one(&directory.join(other))?;
    }
    for name in known.iter().rev() {
        detach_one(&directory.join(name))?;
    }
    pins::remove_directory(directory)
}

fn detach_one(path: &Path) -> Result<(), DatapathError> {
    let Some(link) = pins::get(path)? else { return Ok(()) };
    sys::link_detach(link.as_fd()).map_err(pins::failed(path))?;
    pins::remove(path)
}

/// All links of a cgroup die with it, so one of them tells. A directory without any is of no use either.
fn is_dead(directory: &Path) -> Result<bool, DatapathError> {
    let Some(name) = pins::entries(directory)?.into_iter().next() else { return Ok(true) };
    let path = directory.join(name);
    let Some(link) = pins::get(&path)? else { return Ok(false) };
    let info: io::Result<_> = sys::link_info(link.as_fd());
    Ok(info.map_err(pins::failed(&path))?.cgroup_id == 0)
}
