//! Where a gateway's clusters are. It sees no original destination but its own address, so that what keeps to the
//! destination that an application asked for (resolution NONE) is at the entry's addresses here, or looked up by name: Istio
//! has no endpoint then.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ports;
use crate::compile::registry::Service;
use crate::compile::{CompileSettings, Role};
use crate::resource::World;
use crate::resource::service_entry::{AddressRange, ServicePort};
use crate::snapshot::{Discovery, DnsTarget, Endpoint, OffLimits};

/// The addresses that lead to this gateway: its own, those of Services that select it, and of the others behind them.
/// `None` for what is no gateway.
pub(in crate::compile) fn off_limits(world: &World, settings: &CompileSettings) -> Option<Arc<OffLimits>> {
    let Role::Gateway { own_addresses } = &settings.role else { return None };
    let services = ports::leading_to(world, &settings.client);
    let of_services = services.flat_map(|service| {
        let behind = ports::slices(world, service).flat_map(|slice| &slice.addresses);
        service.cluster_ips.iter().chain(&service.external_ips).chain(behind)
    });
    let leading_back = own_addresses.iter().chain(of_services).copied();
    let gateways = world.gateways().filter(|gateway| settings.client.has_labels(&gateway.selector));
    let targets = ports::Targets::of(world, &settings.client);
    let servers = gateways.flat_map(|gateway| &gateway.servers);
    let ports = servers.flat_map(|server| targets.of_port(server.port).into_iter().chain([server.port]));
    Some(Arc::new(OffLimits::new(leading_back, ports)))
}

/// The same, for a gateway.
pub(in crate::compile) fn discovery(
    discovery: Discovery,
    service: &Service,
    port: &ServicePort,
) -> Discovery {
    let Discovery::OriginalDst { port: replaced } = discovery else { return discovery };
    let number = replaced.unwrap_or(port.number);
    let addresses = &service.entry.addresses;
    if !addresses.is_empty() && addresses.iter().all(|range| range.value.is_single_host()) {
        let address = |range: AddressRange| SocketAddr::new(range.address, number);
        return Discovery::Static(
            addresses.iter().map(|range| Endpoint::new(address(range.value))).collect(),
        );
    }
    if service.host.starts_with('*') {
        return Discovery::DynamicDns { port: Some(number) };
    }
    Discovery::StrictDns(vec![DnsTarget { host: Arc::clone(&service.host), port: number, weight: 1 }])
}
