//! `interceptor exec`: one command with its egress intercepted.
