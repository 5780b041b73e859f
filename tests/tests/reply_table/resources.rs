//! The resources that the rows are made of.

/// An HTTP service whose endpoints are these, without asking DNS.
pub(crate) fn static_entry(host: &str, port: u16, endpoints: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: entry}}\nspec:\n  hosts: [{host}]\n  \
         ports: [{{number: {port}, name: p, protocol: HTTP}}]\n  resolution: STATIC\n  endpoints: [{endpoints}]\n"
    )
}

/// The only route of a host, with what else it has.
pub(crate) fn virtual_service(host: &str, route: &str, destination: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs}}\nspec:\n  hosts: [{host}]\n  \
         http: [{{{route}route: [{{destination: {{host: {host}{destination}}}}}]}}]\n"
    )
}

pub(crate) fn destination_rule(host: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: rule}}\nspec:\n  host: {host}\n  {spec}\n"
    )
}
