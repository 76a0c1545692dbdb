//! Where to listen: addresses as people write them, and the sockets behind them.
//!
//! Invariants: the socket of a living process is never taken away from it, and a unix socket takes
//! connections only once its permissions are set.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;
use tokio::net::{TcpListener, UnixListener, UnixSocket};

/// Where to listen: `unix:/path` or `ADDR:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port; 0 lets the kernel choose one.
    Tcp(SocketAddr),
}

/// Text that is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither unix:/PATH nor ADDR:PORT, such as 127.0.0.1:7070 or [::1]:7070")]
pub struct NotAnAddress(String);

/// An open socket.
pub enum Listener {
    /// A unix socket, and the file to remove when done.
    Unix(UnixListener, SocketFile),
    /// A TCP port.
    Tcp(TcpListener),
}

/// Why a socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A living process has it.
    #[error("another hydrometer-control is listening on {0}; stop it or give another --listen")]
    Busy(Address),
    /// There is a file that is not a socket.
    #[error("{0} exists and is not a socket; remove it or give another --listen")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {address}: {cause}; {remedy}")]
    Refused {
        /// Where.
        address: Address,
        /// Why.
        cause: io::Error,
        /// What to do.
        remedy: &'static str,
    },
}

/// A socket's file, removed on drop unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// The owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;
const BACKLOG: u32 = 1024;

impl Listener {
    /// Opens a socket. The file of a process that has died is replaced.
    pub async fn bind(address: &Address) -> Result<Self, ListenError> {
        match address {
            Address::Unix(path) => bind_unix(path),
            Address::Tcp(socket) => match TcpListener::bind(socket).await {
                Ok(listener) => Ok(Self::Tcp(listener)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    Err(ListenError::Busy(address.clone()))
                }
                Err(error) => Err(refused(address.clone(), error)),
            },
        }
    }

    /// Where it really listens: a port of 0 has become a number.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Self::Unix(_, file) => Ok(Address::Unix(file.path.clone())),
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
        }
    }
}

fn bind_unix(path: &Path) -> Result<Listener, ListenError> {
    let failed = |error| refused(Address::Unix(path.to_owned()), error);
    clear(path)?;
    let socket = UnixSocket::new_stream().map_err(failed)?;
    socket.bind(path).map_err(failed)?;
    let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
    let file = SocketFile { path: path.to_owned(), inode };
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(Listener::Unix(socket.listen(BACKLOG).map_err(failed)?, file))
}

/// Makes room: removes the socket of a process that has died.
fn clear(path: &Path) -> Result<(), ListenError> {
    let address = || Address::Unix(path.to_owned());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(address(), error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| refused(address(), error))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(refused(address(), error)),
        _ => Err(ListenError::Busy(address())),
    }
}

fn refused(address: Address, cause: io::Error) -> ListenError {
    let remedy = match (cause.kind(), &address) {
        (io::ErrorKind::NotFound, _) => "create its folder or give another --listen",
        (io::ErrorKind::AddrNotAvailable, _) => "give --listen an address of this host",
        (io::ErrorKind::PermissionDenied, Address::Unix(_)) => {
            "permit writing to its folder or give another --listen"
        }
        _ => "give another --listen",
    };
    ListenError::Refused { address, cause, remedy }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Self { path, inode } = self;
        let ours = fs::symlink_metadata(&*path).is_ok_and(|metadata| metadata.ino() == *inode);
        if ours && let Err(error) = fs::remove_file(&*path) {
            tracing::warn!(socket = %path.display(), %error, "cannot remove the socket");
        }
    }
}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(NotAnAddress(text.to_owned())),
            None => text.parse().map(Self::Tcp).map_err(|_| NotAnAddress(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = NotAnAddress;

    fn try_from(text: String) -> Result<Self, NotAnAddress> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(socket) => socket.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["unix:/run/hydrometer/control.sock", "127.0.0.1:7070", "[::1]:7070", "0.0.0.0:0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_an_address_is_named_in_the_refusal() {
        for text in [
            "",
            "unix:",
            "unix:control.sock",
            "/run/control.sock",
            "localhost:7070",
            "127.0.0.1",
            "::1:7070:x",
        ] {
            let refusal = text.parse::<Address>().unwrap_err().to_string();
            assert!(refusal.contains(&format!("`{text}`")), "{refusal}");
        }
    }
}
