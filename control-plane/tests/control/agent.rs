//! An agent, as far as the control plane can tell.

use hydrometer_proto::v1::{
    Anomaly, AnomalyKind, AnomalyState, Hello, ReportRequest, ReportResponse, SequencedAnomaly, Severity,
    control_plane_client::ControlPlaneClient, report_request::Message as Say,
    report_response::Message as Heard,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::program::within;

/// An accepted stream.
pub(crate) struct Agent {
    requests: mpsc::Sender<ReportRequest>,
    responses: Streaming<ReportResponse>,
    /// What the welcome said is stored.
    pub(crate) welcomed: u64,
}

impl Agent {
    pub(crate) async fn connect(channel: Channel, node: &str, boot_id: &str) -> Result<Self, Status> {
        let (requests, mut responses) = open(channel, Some(hello(node, boot_id))).await?;
        match within(responses.message()).await?.and_then(|response| response.message) {
            Some(Heard::Welcome(welcome)) => {
                Ok(Self { requests, responses, welcomed: welcome.acked_sequence })
            }
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// Sends a message; false when the stream has ended.
    pub(crate) async fn say(&self, message: Say) -> bool {
        within(self.requests.send(ReportRequest { message: Some(message) })).await.is_ok()
    }

    pub(crate) async fn report(&self, sequence: u64, anomaly: Anomaly) -> bool {
        self.say(Say::Anomaly(SequencedAnomaly { sequence, anomaly: Some(anomaly) })).await
    }

    /// The next acknowledgement; none when the stream has ended.
    pub(crate) async fn acked(&mut self) -> Result<Option<u64>, Status> {
        match within(self.responses.message()).await? {
            Some(ReportResponse { message: Some(Heard::Ack(ack)) }) => Ok(Some(ack.sequence)),
            None => Ok(None),
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }

    /// Waits until everything up to `sequence` is acknowledged.
    pub(crate) async fn settled(&mut self, sequence: u64) {
        while self.acked().await.unwrap().expect("the stream goes on") < sequence {}
    }

    /// Ends our half; what is acknowledged before the other half ends.
    pub(crate) async fn finish(mut self) -> u64 {
        drop(std::mem::replace(&mut self.requests, mpsc::channel(1).0));
        let mut last = self.welcomed;
        while let Some(sequence) = self.acked().await.unwrap() {
            last = sequence;
        }
        last
    }

    /// The status with which the control plane ends the stream.
    pub(crate) async fn ended(mut self) -> Status {
        loop {
            match self.acked().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a status"),
                Err(status) => return status,
            }
        }
    }

    /// The halves, to send and to listen at the same time.
    pub(crate) fn split(self) -> (mpsc::Sender<ReportRequest>, Streaming<ReportResponse>) {
        (self.requests, self.responses)
    }
}

/// Opens a stream whose first message is `first`; the refusal, when that is refused.
pub(crate) async fn refused(channel: Channel, first: Option<Say>) -> Status {
    match open(channel, first).await {
        Err(status) => status,
        Ok((_requests, mut responses)) => within(responses.message()).await.expect_err("it is refused"),
    }
}

async fn open(
    channel: Channel,
    first: Option<Say>,
) -> Result<(mpsc::Sender<ReportRequest>, Streaming<ReportResponse>), Status> {
    let (requests, outbound) = mpsc::channel(16);
    requests.send(ReportRequest { message: first }).await.unwrap();
    let response = within(ControlPlaneClient::new(channel).report(ReceiverStream::new(outbound))).await?;
    Ok((requests, response.into_inner()))
}

pub(crate) fn hello(node: &str, boot_id: &str) -> Say {
    Say::Hello(Hello {
        node: node.into(),
        boot_id: boot_id.into(),
        version: "0.1.0".into(),
        protocol_version: 1,
    })
}

pub(crate) fn anomaly(id: &str) -> Anomaly {
    Anomaly {
        id: id.into(),
        kind: AnomalyKind::LowAndSlow.into(),
        state: AnomalyState::Open.into(),
        severity: Severity::Medium.into(),
        client: "203.0.113.7".into(),
        ..Anomaly::default()
    }
}
