//! The contract between the kernel programs and the proxy.
#![no_std]
