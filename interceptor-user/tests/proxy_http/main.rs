//! The HTTP half of the proxy, over real sockets: what clients and upstreams see, and what is recorded.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod announced;
mod balancing;
mod bounds;
mod certs;
mod changes;
mod client;
mod client_identity;
mod cors;
mod endpoints;
mod faults;
mod flows;
mod framing;
mod http2;
mod mesh_identity;
mod metrics;
mod mirrors;
mod paths;
mod pooling;
mod replies;
mod resting;
mod retries;
#[expect(unreachable_pub, reason = "other crates use it elsewhere")]
#[path = "../../../tests/src/stopwatch.rs"]
mod stopwatch;
mod streaming;
mod support;
mod termination;
mod termination_changes;
mod tls;
mod tls_credentials;
mod unix_sockets;
mod upgrade;
mod workloads;
