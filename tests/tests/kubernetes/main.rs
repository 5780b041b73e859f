//! Following an API server: what it has becomes a World within moments, and nothing that it does wrong, or does not do,
//! takes away what worked.

mod credentials;
mod discovery;
mod events;
mod faults;
mod mesh;
mod mistakes;
mod node;
mod resources;
mod rollout;
mod support;
mod tls;
