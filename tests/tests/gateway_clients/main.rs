//! A gateway that follows the API server's pods knows whose its clients' addresses are: access log and metrics name them, and
//! rules with labels ask for them. On this host: pods' addresses are loopback's, which curl connects from.

mod labels;
mod named;
mod support;
