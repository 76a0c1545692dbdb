//! gRPC over a unix socket, for callers that do not run a runtime of their own.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::runtime::{self, Runtime};
use tonic::transport::{Channel, Endpoint};

/// Beyond this, no answer will come.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection that is made, and made again, when it is used.
#[derive(Debug)]
pub(crate) struct Rpc {
    runtime: Runtime,
    channel: Channel,
}

impl Rpc {
    /// To whoever listens on `socket`.
    pub(crate) fn new(socket: &Path) -> Result<Self> {
        let runtime = current_thread()?;
        let channel = {
            let _inside = runtime.enter();
            endpoint(socket)?.timeout(ANSWER_LIMIT).connect_lazy()
        };
        Ok(Self { runtime, channel })
    }

    /// The way to the other side.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits for the answer to a call.
    pub(crate) fn wait<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        Ok(self.runtime.block_on(call)?.into_inner())
    }

    /// Waits for the next message of a stream; none at its end.
    pub(crate) fn next<T>(&self, stream: &mut tonic::Streaming<T>) -> Result<Option<T>> {
        Ok(self.runtime.block_on(stream.message())?)
    }
}

/// Where to connect.
pub(crate) fn endpoint(socket: &Path) -> Result<Endpoint> {
    Endpoint::from_shared(format!("unix:{}", socket.display()))
        .with_context(|| format!("{} is no path of a unix socket", socket.display()))
}

/// A runtime on the thread that uses it.
pub(crate) fn current_thread() -> Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}
