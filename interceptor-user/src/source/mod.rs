//! Where resources come from: files. `FileSource::open` reads them, `FileSource::watch` follows them.

mod files;
mod read;
mod watch;

pub use files::{Error, FileSource, Texts};
pub use read::ReadError;
pub use watch::Watching;
