//! Where resources come from: files.

mod files;

pub use files::{Error, FileSource};
