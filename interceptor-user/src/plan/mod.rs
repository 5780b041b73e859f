//! What the kernel should hold, from the policies of the workloads.
