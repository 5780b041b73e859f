//! Configuration as tables: YAML in, what a connection or request gets out. Expectations are written
//! from Istio's documented behaviour, never from what the code happens to do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod allow_from;
mod clients;
mod connection_pool;
mod delegates;
mod destination_rule;
mod enforcement;
mod gateway;
mod gateway_auto_passthrough;
mod gateway_tls;
mod hosts;
mod http_filters;
mod incremental;
mod kinds;
mod learned_names;
mod load_balancing;
mod locality;
mod mistakes;
mod mistakes_of_routes;
mod order;
mod policy;
mod registry;
mod reload;
mod routes;
mod scale;
mod seeds;
mod services;
mod sidecar;
mod sidecar_mistakes;
mod support;
mod tls_termination;
mod unix_endpoints;
mod vanished;
mod virtual_service;
mod visibility;
mod workload_rules;
