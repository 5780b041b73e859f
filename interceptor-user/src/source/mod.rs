//! Where resources come from: files.
