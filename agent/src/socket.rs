//! The unix socket the agent listens on: taken over from a dead agent, never from a live one.
//!
//! Invariants: the socket is there as long as the [`Socket`] is, takes connections only once its mode is
//! 0660, and is gone afterwards, unless another has taken its place.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixSocket};

/// The owner and its group may connect.
const MODE: u32 = 0o660;
const BACKLOG: u32 = 1024;

/// A bound socket and its file.
#[derive(Debug)]
pub struct Socket {
    file: SocketFile,
    listener: UnixListener,
}

/// The file of a bound socket; dropping it removes the file, unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Device and inode of a file.
type Identity = (u64, u64);

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Someone answers there.
    #[error("another agent is listening on {}; stop it first or give --socket", .0.display())]
    Live(PathBuf),
    /// Something else has the name.
    #[error("{} is there and is no socket; remove it or give --socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot listen on {}; run as root or give --socket", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Socket {
    /// Listens on `path`; creates its folder and replaces what a dead agent left there.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let refused = |source| SocketError::Refused { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(refused)?;
        }
        clear(path)?;
        let socket = UnixSocket::new_stream().map_err(refused)?;
        socket.bind(path).map_err(refused)?;
        let file = SocketFile { path: path.to_owned(), identity: identity(path).map_err(refused)? };
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(refused)?;
        Ok(Self { file, listener: socket.listen(BACKLOG).map_err(refused)? })
    }

    /// The listener, and what keeps its file.
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Self { path, identity: ours } = self;
        if identity(path).is_ok_and(|theirs| theirs == *ours) {
            // Already gone is as good; nobody is left to tell of anything else.
            let _ = fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Makes sure nothing has the name.
fn clear(path: &Path) -> Result<(), SocketError> {
    let refused = |source| SocketError::Refused { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(refused)
        }
        Err(error) => Err(refused(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced_and_a_live_one_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        drop({
            fs::create_dir(folder.path().join("run")).unwrap();
            std::os::unix::net::UnixListener::bind(&path).unwrap()
        });
        let first = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let said = Socket::bind(&path).unwrap_err().to_string();
        assert!(said.contains("another agent is listening") && said.contains("--socket"), "{said}");
        UnixStream::connect(&path).unwrap();
        drop(first);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_outlives_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let first = Socket::bind(&path).unwrap();
        // The first one's inode stays in use, so that the successor's is another one.
        fs::rename(&path, folder.path().join("moved.sock")).unwrap();
        let successor = Socket::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
        drop(successor);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        fs::write(&path, "precious").unwrap();
        assert!(Socket::bind(&path).unwrap_err().to_string().contains("is no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_folder_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/agent.sock");
        let _socket = Socket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }
}
