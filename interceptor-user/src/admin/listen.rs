//! The sockets that the agent is asked on.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, UnixListener};

const BACKLOG: i32 = 128;

/// A socket that [`super::serve`] takes requests from.
#[derive(Debug)]
pub enum Listener {
    /// Serves everything.
    Unix(UnixListener),
    /// Serves what only reads.
    Tcp(TcpListener),
    /// As [`Self::Tcp`], as soon as whoever has the address lets go of it: the agent before, during an upgrade.
    Taken(SocketAddr),
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("can't make the directory {} for the agent's socket", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("can't listen on the agent's socket {}", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("can't listen on {address}, the admin address")]
    Tcp { address: SocketAddr, source: io::Error },
}

impl Listener {
    /// Mode 0600, in a directory that is made with mode 0700 if it isn't there. Takes the name over from whoever has it
    /// in one step: at no moment is nobody there. Whoever had it goes on with what it accepted. The name is not removed
    /// at the end, because it may be a successor's by then.
    ///
    /// # Errors
    /// When the directory or the socket can't be made. Must be called within a runtime.
    pub fn unix(path: &Path) -> Result<Self, ListenError> {
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        if let Some(directory) = directory {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|source| ListenError::Directory { path: directory.to_owned(), source })?;
        }
        let listener = bind(path).and_then(UnixListener::from_std);
        listener.map(Self::Unix).map_err(|source| ListenError::Unix { path: path.to_owned(), source })
    }

    /// # Errors
    /// When the address can't be had, unless somebody else has it at the moment.
    pub async fn tcp(address: SocketAddr) -> Result<Self, ListenError> {
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Self::Tcp(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(Self::Taken(address)),
            Err(source) => Err(ListenError::Tcp { address, source }),
        }
    }
}

fn bind(path: &Path) -> io::Result<StdUnixListener> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    // Left by one of our pid that was killed.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let address = SocketAddrUnix::new(&new)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before there is a name (Linux gives it to the file that bind makes): nobody connects in between.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    let named = rustix::net::listen(&socket, BACKLOG).map_err(io::Error::from);
    let named = named.and_then(|()| fs::rename(&new, path));
    if let Err(error) = named {
        // The first error is the one to tell.
        drop(fs::remove_file(&new));
        return Err(error);
    }
    Ok(socket.into())
}
