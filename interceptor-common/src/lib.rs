//! The contract between the kernel programs and the proxy: map keys and values, the words for what was decided,
//! and the decision itself. Nothing here knows aya, the kernel or a clock.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod decide;
pub mod event;
pub mod flow;
pub mod name_server;
pub mod pod;
pub mod policy;
pub mod settings;
pub mod verdict;
