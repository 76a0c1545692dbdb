//! A subscriber of the feed.

use hydrometer_proto::v1::{SubscribeRequest, SubscribeResponse, feed_client::FeedClient};
use tonic::{Status, Streaming, transport::Channel};

use crate::program::within;

/// Opens a stream.
pub(crate) async fn subscribe(
    channel: Channel,
    request: SubscribeRequest,
) -> Result<Streaming<SubscribeResponse>, Status> {
    Ok(within(FeedClient::new(channel).subscribe(request)).await?.into_inner())
}

/// Everything of a stream that does not follow.
pub(crate) async fn all(channel: Channel, request: SubscribeRequest) -> Vec<SubscribeResponse> {
    let mut stream = subscribe(channel, request).await.unwrap();
    let mut messages = Vec::new();
    while let Some(message) = within(stream.message()).await.unwrap() {
        messages.push(message);
    }
    messages
}

/// The next message of a stream that follows.
pub(crate) async fn next(stream: &mut Streaming<SubscribeResponse>) -> SubscribeResponse {
    within(stream.message()).await.unwrap().expect("the stream goes on")
}

pub(crate) fn id(message: &SubscribeResponse) -> &str {
    &message.anomaly.as_ref().unwrap().id
}

pub(crate) fn ids(messages: &[SubscribeResponse]) -> Vec<&str> {
    messages.iter().map(id).collect()
}

pub(crate) fn everything() -> SubscribeRequest {
    SubscribeRequest::default()
}

pub(crate) fn following() -> SubscribeRequest {
    SubscribeRequest { follow: true, ..SubscribeRequest::default() }
}
