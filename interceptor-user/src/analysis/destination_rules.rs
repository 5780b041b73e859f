//! Rules about DestinationRules: hosts, TLS that can't be or should not be, subsets without endpoints.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::findings::{Findings, about, at};
use super::mesh::{Mesh, Service, Source};
use super::{Audience, Flags};
use crate::compile::NodePaths;
use crate::compile::destination_rules::MergedRule;
use crate::compile::tls::{self, Files};
use crate::resource::client_tls::{ClientTls, TlsMode};
use crate::resource::destination_rule::{Blocks, DestinationRule, Subset, TrafficPolicy};
use crate::resource::service_entry::Resolution;
use crate::resource::virtual_service::is_for_mesh;
use crate::resource::{Diagnostic, Labels, World, code, host};
use crate::snapshot::TlsOrigination;

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    let files = match mesh.audience {
        Audience::Mesh(flags) => flags.files(),
        Audience::Client(client) => Files::of(client, &NodePaths::Any),
    };
    for rule in mesh.world.destination_rules() {
        each_block(rule, &mut |blocks, port, field| {
            if let Some(tls) = &blocks.tls {
                check_tls((rule, mesh.audience, files), tls, port, &|| format!("{}.tls", field()), findings);
            }
        });
        if mesh.matching(&rule.host).next().is_none() {
            report_unknown_host(rule, mesh, findings);
        } else {
            check_tls_inside_tls(rule, mesh, findings);
            check_subsets(rule, mesh, findings);
        }
    }
}

/// Rules whose files can't be used: `problem` looks at them and says why. Those that rules name by their paths count where it
/// is known which of them are allowed: there the proxy is on this machine.
pub fn unusable_files(
    world: &World,
    flags: Flags<'_>,
    problem: impl Fn(&TlsOrigination) -> Option<String>,
) -> Vec<Diagnostic> {
    let mut findings = Findings::default();
    // Many rules may have the same.
    let mut known: HashMap<TlsOrigination, Option<String>> = HashMap::new();
    for rule in world.destination_rules() {
        each_block(rule, &mut |blocks, _, field| {
            let Some(tls) = &blocks.tls else { return };
            let Some(files) = tls::of_files(tls, flags.files(), flags.tls_files.is_some()) else { return };
            let problem = known.entry(files).or_insert_with_key(&problem);
            let Some(problem) = problem.clone() else { return };
            let (of_tls, mend) = match tls.mode {
                TlsMode::IstioMutual => ("mode", "put a valid identity there, or name another directory"),
                TlsMode::Disable | TlsMode::Simple | TlsMode::Mutual if tls.credential_name.is_some() => {
                    ("credentialName", "put the files there, or name another secret")
                }
                TlsMode::Disable | TlsMode::Simple | TlsMode::Mutual => {
                    (file_meant(tls, &problem), "put a file there that can be used, or name another")
                }
            };
            let field = format!("{}.tls{}{of_tls}", field(), if of_tls.is_empty() { "" } else { "." });
            findings.push(at(&code::EGR0104, &rule.meta, tls.position, field, problem).mend(mend));
        });
    }
    findings.into_sorted()
}

/// The field with the file that a problem is about; empty where that is not clear.
fn file_meant(tls: &ClientTls, problem: &str) -> &'static str {
    let named = [
        ("caCertificates", &tls.ca_certificates),
        ("caCrl", &tls.ca_crl),
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
    ];
    let is_meant =
        |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| problem.contains(&*path.to_string_lossy()));
    named.into_iter().find(|(_, path)| is_meant(path)).map_or("", |(field, _)| field)
}

/// Takes settings, the port that they are for, and how their field is written.
type Visit<'a> = dyn FnMut(&Blocks, Option<u16>, &dyn Fn() -> String) + 'a;

/// Each set of settings of a rule, with the port that it is for and its field.
fn each_block(rule: &DestinationRule, visit: &mut Visit<'_>) {
    let mut policy = |policy: &TrafficPolicy, field: &dyn Fn() -> String| {
        visit(&policy.blocks, None, field);
        for (port, blocks) in &policy.ports {
            visit(blocks, Some(*port), &|| format!("{}.portLevelSettings[port {port}]", field()));
        }
    };
    policy(&rule.policy, &|| "spec.trafficPolicy".to_owned());
    for (index, subset) in rule.subsets.iter().enumerate() {
        policy(&subset.policy, &|| format!("spec.subsets[{index}].trafficPolicy"));
    }
}

fn check_tls(
    (rule, audience, files): (&DestinationRule, Audience<'_>, Files<'_>),
    tls: &ClientTls,
    port: Option<u16>,
    field: &dyn Fn() -> String,
    findings: &mut Findings,
) {
    if let Some(problem) = tls::problem(tls, files) {
        let finding = at(&code::EGR0104, &rule.meta, tls.position, field(), problem);
        findings.push(match tls.mode {
            TlsMode::IstioMutual => {
                let lacks_it = match audience {
                    Audience::Client(_) => "exec",
                    Audience::Mesh(flags) if flags.is_gateway => "the gateway",
                    Audience::Mesh(_) => "exec or the agent",
                };
                finding.mend(format!(
                    "start {lacks_it} with --identity-dir, or use SIMPLE, or MUTUAL with certificates as files"
                ))
            }
            TlsMode::Disable | TlsMode::Simple | TlsMode::Mutual if files.refused(tls).is_some() => finding.mend(
                "start the agent with --allow-tls-files and the files' directory, if pods may use all keys in it on \
                 behalf of all who write resources; or use credentialName",
            ),
            TlsMode::Disable | TlsMode::Simple | TlsMode::Mutual => finding,
        });
    }
    if tls.mode == TlsMode::IstioMutual && tls.sni.is_none() {
        let name = tls::server_name_of_mesh(port.unwrap_or(443), "", &rule.host);
        if !tls::is_server_name(&name) {
            let message = format!(
                "no server name is sent with ISTIO_MUTUAL: Istio's, as {name}, is no DNS name (it has a wildcard, or is too long)"
            );
            let finding = at(&code::EGR0119, &rule.meta, tls.position, field(), message);
            findings.push(
                finding
                    .effect("a gateway that tells its servers apart by SNI does not know which one is meant")
                    .mend("set tls.sni, or name the hosts one by one"),
            );
        }
    }
    if tls.insecure_skip_verify && matches!(tls.mode, TlsMode::Simple | TlsMode::Mutual) {
        let (code, place) = match port {
            None => (&code::IST0128, String::new()),
            Some(port) => (&code::IST0129, format!(" at port {port}")),
        };
        let message = format!("insecureSkipVerify: the certificate of {}{place} is not verified", rule.host);
        let field = format!("{}.insecureSkipVerify", field());
        findings.push(at(code, &rule.meta, tls.position, field, message));
    }
}

fn report_unknown_host(rule: &DestinationRule, mesh: &Mesh<'_>, findings: &mut Findings) {
    let namespace = rule.meta.namespace();
    let short = rule.host.strip_suffix(&format!(".{namespace}.svc.cluster.local"));
    // It was completed when it is longer than what stands in the file.
    let written = usize::try_from(rule.host_position.length).unwrap_or(0);
    let short = short.filter(|short| !short.contains('.') && written < rule.host.len());
    let message = match short {
        Some(short) => format!(
            "{} has host {}, which the short name `{short}` means in namespace {namespace}",
            mesh.nobody(),
            rule.host
        ),
        None => format!("{} has host {}", mesh.nobody(), rule.host),
    };
    let finding = at(&code::IST0174, &rule.meta, rule.host_position, "spec.host", message)
        .effect("this rule acts on nothing");
    let meant = short.and_then(|short| mesh.host_beginning_with(short));
    findings.push(match meant {
        Some(host) => finding.mend(format!("write the whole name; did you mean {host}?")),
        None => finding,
    });
}

/// Services of one wildcard that are looked at.
const LOOKED_AT_MAX: usize = 1000;

fn check_tls_inside_tls(rule: &Arc<DestinationRule>, mesh: &Mesh<'_>, findings: &mut Findings) {
    if rule.refused || rule.workload_selector.is_some() {
        return;
    }
    let merged = MergedRule::new(rule, &rule.export_to);
    for service in mesh.matching(&rule.host).take(LOOKED_AT_MAX) {
        for port in service.ports.iter().filter(|port| port.protocol.is_tls()) {
            let wrapped = targets(mesh, service, port.number).into_iter().find_map(|target| {
                if !host::matches(&rule.host, target.host) {
                    return None;
                }
                let subset = match target.subset {
                    None => None,
                    Some(name) => Some(rule.subsets.iter().find(|subset| &*subset.name == name)?),
                };
                let tls = merged.policy_of(target.port, subset.map(|subset| &**subset)).tls?;
                (tls.mode != TlsMode::Disable).then_some(tls)
            });
            let Some(tls) = wrapped else { continue };
            let message = format!(
                "TLS is also put around what applications already encrypt on port {}: TLS inside TLS",
                port.number
            );
            let finding = at(&code::EGR0105, &rule.meta, tls.position, field_of(rule, &tls), message);
            findings.push(finding);
            return;
        }
    }
}

/// Where a block of TLS settings stands.
fn field_of(rule: &DestinationRule, tls: &ClientTls) -> String {
    let mut found = String::new();
    each_block(rule, &mut |blocks, _, field| {
        if blocks.tls.as_ref().is_some_and(|own| own.position == tls.position) {
            found = format!("{}.tls", field());
        }
    });
    found
}

/// Where connections go that applications encrypt themselves.
struct Target<'a> {
    host: &'a str,
    port: u16,
    subset: Option<&'a str>,
}

/// The service itself, unless tls routes say otherwise.
fn targets<'a>(mesh: &'a Mesh<'_>, service: &'a Service<'_>, port: u16) -> Vec<Target<'a>> {
    let mut targets = Vec::new();
    for virtual_service in mesh.virtual_services_matching(&service.host) {
        for route in &virtual_service.tls {
            let applies = |condition: &crate::resource::virtual_service::L4Match| {
                condition.port.is_none_or(|wanted| wanted == port) && is_for_mesh(&condition.source.gateways)
            };
            if route.matches.iter().any(applies) {
                targets.extend(route.destinations.iter().map(|destination| Target {
                    host: &destination.host,
                    port: destination.port.unwrap_or(port),
                    subset: destination.subset.as_deref(),
                }));
            }
        }
    }
    if targets.is_empty() {
        targets.push(Target { host: &service.host, port, subset: None });
    }
    targets
}

/// Labels matter where endpoints are listed, selected, or looked up by name.
fn check_subsets(rule: &DestinationRule, mesh: &Mesh<'_>, findings: &mut Findings) {
    for (index, subset) in rule.subsets.iter().enumerate().filter(|(_, subset)| !subset.labels.is_empty()) {
        let mut services = mesh.matching(&rule.host).take(LOOKED_AT_MAX).peekable();
        if services.peek().is_none() || services.any(|service| has_endpoint(mesh, service, subset)) {
            continue;
        }
        let message = format!(
            "subset {} selects no endpoint of {}: none has the labels {}",
            subset.name,
            rule.host,
            super::gateways::selector(&subset.labels)
        );
        findings.push(about(&code::IST0173, &rule.meta, format!("spec.subsets[{index}].labels"), message));
    }
}

/// Whether a service has an endpoint with the labels of a subset, as far as the input tells.
fn has_endpoint(mesh: &Mesh<'_>, service: &Service<'_>, subset: &Subset) -> bool {
    // Istio adds those that tell where an endpoint is.
    let is_of_place = |name: &str| {
        name.starts_with("topology.")
            || matches!(
                name,
                "failure-domain.beta.kubernetes.io/region" | "failure-domain.beta.kubernetes.io/zone"
            )
    };
    let wanted: Labels = subset
        .labels
        .iter()
        .filter(|(name, _)| !is_of_place(name))
        .map(|(name, value)| (Arc::clone(name), Arc::clone(value)))
        .collect();
    let selects = |selector: &Labels| {
        let mut selected = mesh
            .workloads
            .iter()
            .filter(|workload| {
                workload.meta.namespace() == service.meta.namespace() && workload.has(selector)
            })
            .peekable();
        // Without a single one the input may be without workloads.
        selected.peek().is_none() || selected.any(|workload| workload.has(&wanted))
    };
    match service.source {
        Source::Kubernetes(service) => service.selector.is_empty() || selects(&service.selector),
        Source::Entry(entry) => match entry.resolution {
            Resolution::None | Resolution::DynamicDns => true,
            Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => {
                let carries =
                    |labels: &Labels| wanted.iter().all(|(name, value)| labels.get(name) == Some(value));
                entry.workload_selector.as_ref().is_some_and(selects)
                    || entry.endpoints.iter().any(|endpoint| carries(&endpoint.labels))
            }
        },
    }
}
