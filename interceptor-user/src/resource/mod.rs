//! What people write: one API kind a file, read from YAML or JSON with findings that name file, line,
//! column and field. Pure: text in, resources and findings out.
//!
//! text → `documents` → `yaml` (trees with places) → `decode` (typed fields) → a kind's own file.
//!
//! A wrong value refuses its resource; an unknown field is a warning and the rest of the resource
//! stands; everything else in the file stands in either case.

mod allow_from_annotation;
mod capture_annotation;
pub mod client_tls;
pub mod code;
pub mod connection_pool;
pub mod cors;
mod decode;
pub mod destination_rule;
mod diagnostic;
mod documents;
mod duration;
mod endpoint_slice;
mod enforce_annotation;
pub mod fault;
mod fence;
pub mod gateway;
pub mod headers;
pub mod host;
mod http_action;
mod http_route;
mod intern;
mod json;
mod kind;
pub mod load_balancer;
pub mod locality;
pub mod log_format;
pub mod mesh_config;
mod meta;
pub mod mirrors;
mod namespace;
mod object;
pub mod outlier_detection;
pub(crate) mod parallel;
mod parse;
pub mod percentage;
mod places;
pub mod pod;
mod policy_annotation;
mod resources;
pub mod retries;
mod secret;
pub mod server_tls;
pub mod service;
pub mod service_entry;
mod service_entry_rules;
pub mod sidecar;
pub mod string_match;
pub mod tunnel;
mod unix_path;
pub mod virtual_service;
mod virtual_service_rules;
mod visibility;
pub(crate) mod words;
mod workload_entry;
mod world;
mod yaml;

pub use allow_from_annotation::{ALLOW_FROM, AllowFrom};
pub use capture_annotation::{CAPTURE_DNS, CaptureDnsError, parse_capture_dns};
pub use decode::Spanned;
pub use destination_rule::DestinationRule;
pub(crate) use diagnostic::printable;
pub use diagnostic::{Diagnostic, Level, Origin, Position};
pub(crate) use duration::parse as parse_duration;
pub use endpoint_slice::EndpointSlice;
pub use enforce_annotation::{ENFORCE, EnforceError, parse_enforce};
pub use gateway::Gateway;
pub use json::Json;
pub use kind::Kind;
pub use mesh_config::MeshConfig;
pub use meta::{Annotation, Annotations, Labels, Meta, ResourceKey};
pub use namespace::Namespace;
pub use parse::{ParsedFile, Refused, parse, parse_again, parse_json};
pub use places::Places;
pub use pod::{Pod, PodTemplate};
pub use policy_annotation::{ClientPolicy, POLICY, PolicyError};
pub use resources::Resources;
pub use retries::Retries;
pub use secret::Secret;
pub use service::Service;
pub use service_entry::ServiceEntry;
pub use sidecar::Sidecar;
pub use unix_path::UnixPath;
pub use virtual_service::VirtualService;
pub use visibility::ExportTo;
pub(crate) use words::{closest, edit_distance};
pub use workload_entry::{WorkloadEntry, WorkloadGroup};
pub use world::{Resource, World};
