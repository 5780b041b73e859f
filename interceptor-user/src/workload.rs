//! A workload as it is intercepted: name, cookie, addresses, policy.
