//! The table of replies: for each thing that can become of a request or connection, all that the client and the
//! operator see of it, in Envoy's words. A row is the resources, curl's arguments, the whole reply and the whole line
//! of the access log; each row, or group of rows, is a test that bears its situation's name.
//!
//! Where we differ from Istio on purpose: our own replies say `server: interceptor` and an upstream's `server`
//! stays; a blocked TLS connection is logged with its SNI; a TLS failure's reason has our words after Envoy's class.

mod client;
mod connect;
mod endpoints;
mod policy;
mod resources;
mod row;
mod timeouts;
mod upstream;
