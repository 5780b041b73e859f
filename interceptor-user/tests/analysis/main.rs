//! What `interceptor analyze` finds: for every code the exact findings of some YAML, and YAML that looks alike
//! and is right.

mod command;
mod credentials;
mod destination_rules;
mod gateway_leads;
mod gateways;
mod kubernetes;
mod mutations;
mod output;
mod schema;
mod secrets;
mod seeds;
mod service_entries;
mod support;
mod virtual_services;
