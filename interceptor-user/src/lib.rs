//! Egress interceptor: see docs/architecture.md.
