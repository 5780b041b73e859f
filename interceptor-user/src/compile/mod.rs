//! World to Snapshot: pure and total.
