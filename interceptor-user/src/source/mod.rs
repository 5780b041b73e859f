//! Where resources come from. Files: `FileSource::open` reads them, `FileSource::watch` follows them. An API server:
//! `kubernetes::follow`.

mod files;
pub mod kubernetes;
mod patch;
mod places;
mod read;
mod reading;
mod texts;
mod unlisted;
mod watch;

pub use files::{Error, FileSource};
pub use places::PlacesOfFiles;
pub use read::ReadError;
pub use texts::{TextReader, Texts};
pub use unlisted::Unreadable;
pub use watch::Watching;
