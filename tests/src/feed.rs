//! A SOC's subscription to the control plane's feed: it outlives the control plane, and asks each time for what comes
//! after the last message it handled.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hydrometer_proto::v1::{SubscribeRequest, SubscribeResponse, feed_client::FeedClient};
use tokio::sync::oneshot;
use tonic::{Code, Status};

use crate::rpc;

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// Hands every message after `token` (empty: every message) to `each`, for ever. Ends only when the control plane
/// refuses the subscription or `each` fails.
pub async fn follow(
    socket: &Path,
    mut token: String,
    mut each: impl FnMut(SubscribeResponse) -> Result<()>,
) -> Result<Infallible> {
    loop {
        match stream(socket, &mut token, &mut each).await {
            Err(Broken::Handler(error)) => return Err(error),
            Err(Broken::Stream(status)) if is_final(&status) => {
                bail!("the control plane refuses the subscription: {}", status.message())
            }
            // It was ended, or has not begun to serve: it is asked again.
            Ok(()) | Err(Broken::Stream(_)) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

enum Broken {
    Stream(Status),
    Handler(anyhow::Error),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Stream(status)
    }
}

/// One connection's worth; `token` is that of the last message handled.
async fn stream(
    socket: &Path,
    token: &mut String,
    each: &mut impl FnMut(SubscribeResponse) -> Result<()>,
) -> Result<(), Broken> {
    let channel = rpc::endpoint(socket).map_err(Broken::Handler)?.connect_lazy();
    let request =
        SubscribeRequest { resume_token: token.clone(), follow: true, ..SubscribeRequest::default() };
    let mut messages = FeedClient::new(channel).subscribe(request).await?.into_inner();
    while let Some(message) = messages.message().await? {
        let after = message.resume_token.clone();
        each(message).map_err(Broken::Handler)?;
        *token = after;
    }
    Ok(())
}

/// Asking again would be answered the same.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
    )
}

/// A subscriber on a thread of its own that keeps what it receives.
#[derive(Debug)]
pub struct Subscriber {
    received: Arc<Mutex<Vec<SubscribeResponse>>>,
    // Dropped to stop the thread.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Subscriber {
    /// Subscribes at the control plane on `socket` to what comes after `token`; an empty token means from the start.
    pub fn start(socket: impl Into<PathBuf>, token: impl Into<String>) -> Result<Self> {
        let (socket, token) = (socket.into(), token.into());
        let (stop, stopped) = oneshot::channel();
        let received = Arc::new(Mutex::new(Vec::new()));
        let keeper = Arc::clone(&received);
        let runtime = rpc::current_thread()?;
        let thread = thread::Builder::new()
            .name("subscriber".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let keep = |message| {
                        lock(&keeper).push(message);
                        Ok(())
                    };
                    tokio::select! {
                        ended = follow(&socket, token, keep) => ended.map(drop),
                        _ = stopped => Ok(()),
                    }
                })
            })
            .context("cannot start a thread for the subscriber")?;
        Ok(Self { received, stop: Some(stop), thread: Some(thread) })
    }

    /// All messages so far, in the order they came.
    pub fn received(&self) -> Vec<SubscribeResponse> {
        lock(&self.received).clone()
    }

    /// The token to go on with; empty before the first message.
    pub fn token(&self) -> String {
        lock(&self.received).last().map(|message| message.resume_token.clone()).unwrap_or_default()
    }

    /// Whether the control plane has refused it.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the subscription; an error when the control plane refused it.
    pub fn stop(mut self) -> Result<Vec<SubscribeResponse>> {
        self.end()?;
        Ok(self.received())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.take();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("the subscriber ended early: {error:#}");
        }
    }
}

fn lock(received: &Mutex<Vec<SubscribeResponse>>) -> MutexGuard<'_, Vec<SubscribeResponse>> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}
