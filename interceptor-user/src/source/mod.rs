//! Where resources come from. Files: `FileSource::open` reads them, `FileSource::watch` follows them. An API server:
//! `kubernetes::follow`.

mod files;
pub mod kubernetes;
mod patch;
mod read;
mod reading;
mod watch;

pub use files::{Error, FileSource, Texts};
pub use read::ReadError;
pub use watch::Watching;
