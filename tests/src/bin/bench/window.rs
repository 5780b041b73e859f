//! What was used between two moments: by the proxy, by the rest of the row, and by others on this machine.

use std::time::Instant;

use crate::cpu::{self, CpuTime};
use crate::report::Figures;
use crate::row::Running;

/// More than this share of one CPU used by others disturbs a round.
const OTHERS_MAX: f64 = 0.3;

#[derive(Debug)]
pub(crate) struct Window {
    began: Instant,
    before: Moment,
}

#[derive(Debug)]
struct Moment {
    proxy: CpuTime,
    gateway: CpuTime,
    ours_us: f64,
    machine_us: f64,
    accepted: f64,
}

/// What a window saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// With its gateway.
    pub(crate) proxy: CpuTime,
    pub(crate) gateway: CpuTime,
    /// CPUs that others kept busy.
    pub(crate) others: f64,
    /// Connections that reached the proxy.
    pub(crate) redirected: f64,
}

impl Window {
    /// Begins for rows that run side by side, or a single one.
    pub(crate) fn begin<'a>(running: impl IntoIterator<Item = &'a Running<'a>>) -> anyhow::Result<Self> {
        let before = Moment::now(running)?;
        Ok(Self { began: Instant::now(), before })
    }

    /// Ends; the rows are those that it began with.
    pub(crate) fn end<'a>(self, running: impl IntoIterator<Item = &'a Running<'a>>) -> anyhow::Result<Seen> {
        let elapsed_us = self.began.elapsed().as_secs_f64() * 1e6;
        let after = Moment::now(running)?;
        let ours_us = after.ours_us - self.before.ours_us;
        let others_us = after.machine_us - self.before.machine_us - ours_us;
        Ok(Seen {
            proxy: after.proxy - self.before.proxy,
            gateway: after.gateway - self.before.gateway,
            others: (others_us / elapsed_us).max(0.0),
            redirected: after.accepted - self.before.accepted,
        })
    }
}

impl Moment {
    fn now<'a>(running: impl IntoIterator<Item = &'a Running<'a>>) -> anyhow::Result<Self> {
        let bench = cpu::of_process(std::process::id(), true)?;
        let (mut proxy, mut gateway) = (CpuTime::default(), CpuTime::default());
        let (mut others, mut accepted, mut web) = (bench, 0.0, None);
        for row in running {
            proxy = proxy + cpu::of_processes(&row.proxy)?;
            if let Some(daemon) = &row.gateway {
                gateway = gateway + cpu::of_process(daemon.pid(), false)?;
            }
            others = others + cpu::of_process(row.client.pid(), true)?;
            accepted += row.place.accepted()?;
            web = Some(row.lab.web.pid());
        }
        if let Some(pid) = web {
            others = others + cpu::of_process(pid, false)?;
        }
        let proxy = proxy + gateway;
        let ours_us = (proxy + others).total_us();
        Ok(Self { proxy, gateway, ours_us, machine_us: cpu::of_machine()?, accepted })
    }
}

impl Seen {
    pub(crate) fn disturbed(&self) -> bool {
        self.others > OTHERS_MAX
    }

    /// The proxy's CPU for each of `operations`, if there is a proxy.
    pub(crate) fn cpu_per(&self, operations: f64, figures: &mut Figures) {
        if self.proxy != CpuTime::default() && operations > 0.0 {
            figures.insert("cpu_us", self.proxy.total_us() / operations);
            figures.insert("cpu_user_us", self.proxy.user_us / operations);
            figures.insert("cpu_system_us", self.proxy.system_us / operations);
            figures.insert("gateway_cpu_us", self.gateway.total_us() / operations);
        }
    }
}
