//! Waiting for a ring buffer.
#![expect(unsafe_code, reason = "the runtime wants to be promised that a descriptor stays the same")]

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Becomes readable when a ring buffer has something.
#[derive(Debug)]
pub(super) struct Wakeup(AsyncFd<OwnedFd>);

impl Wakeup {
    /// Watches `ring`, through a descriptor of its own.
    pub(super) fn new(ring: &impl AsFd) -> io::Result<Self> {
        let own = ring.as_fd().try_clone_to_owned()?;
        // SAFETY: an OwnedFd is one descriptor, and open, until it is dropped, which the runtime does.
        let watched = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) };
        Ok(Self(watched.map_err(|error| error.into_parts().1)?))
    }

    /// Waits. Cancel safe.
    pub(super) async fn wait(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
