//! The way to the agent: a gRPC channel over its unix socket.
//!
//! In flows a path, out flows a client or an error that says what to do. Invariant: nothing here
//! waits without a bound for an agent that does not answer.

use std::{error::Error, io, path::Path, time::Duration};

use hydrometer_proto::v1::agent_client::AgentClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// A connected client of the agent.
pub type Agent = AgentClient<Channel>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the head of an answer; a stream may then stay open.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A list of very many clients is larger than tonic's default of 4 MiB.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Connects to the agent that listens on `socket`.
pub async fn agent(socket: &Path) -> anyhow::Result<Agent> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://agent.hydrometer.invalid")
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|error| cannot_connect(socket, &error))?;
    Ok(AgentClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
}

fn cannot_connect(socket: &Path, error: &tonic::transport::Error) -> anyhow::Error {
    let shown = socket.display();
    match io_error_kind(error) {
        Some(io::ErrorKind::PermissionDenied) => anyhow::anyhow!(
            "not permitted to open {shown}; run as root or as a member of the group that owns the socket"
        ),
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => anyhow::anyhow!(
            "no agent is listening on {shown}; start one with `hydrometer agent --iface IFACE --service PORT` \
             or give --socket"
        ),
        _ => anyhow::anyhow!("cannot reach the agent on {shown}: {}; check --socket", innermost(error)),
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn io_error_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    chain(error).find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map_or_else(String::new, ToString::to_string)
}

/// An agent's refusal as an error a person can act on; `asked` completes "cannot …".
pub fn refused(asked: &str, status: &Status) -> anyhow::Error {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => {
            anyhow::anyhow!("cannot {asked}: the agent has gone away ({}); is it restarting?", said(status))
        }
        Code::DeadlineExceeded => {
            anyhow::anyhow!("cannot {asked}: the agent did not answer in {} s", ANSWER_TIMEOUT.as_secs())
        }
        Code::Unimplemented => {
            anyhow::anyhow!("cannot {asked}: this agent is older than this command; update the agent")
        }
        _ => anyhow::anyhow!("cannot {asked}: the agent says: {}", said(status)),
    }
}

fn said(status: &Status) -> String {
    let message = if status.message().is_empty() { status.code().description() } else { status.message() };
    super::output::clean(message).into_owned()
}
