//! One subscriber: a cursor into the store, and a task that hands on what it reads.
//!
//! The cursor reads a bounded page when the one before has been taken, and sleeps at the end until a commit
//! wakes it; so a slow subscriber costs a page and a few messages, and delays nobody. One that takes nothing
//! for too long is told so and cut off. Invariant: a stream is gapless and without duplicates in positions,
//! says what was lost between them, and every message carries the token from which the next stream goes on.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, future, stream};
use hydrometer_proto::v1::{LostStates, SubscribeRequest, SubscribeResponse};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Reader, blocking, closing, filter::Filter, mask::Mask, nanos, position, timestamp};
use crate::{
    store::{Row, Store},
    token::Token,
};

/// Messages that wait for a subscriber besides the page that is being handed on.
const WAITING: usize = 16;

/// Where one subscriber is, and what it wants.
pub(super) struct Cursor {
    store: Arc<Store>,
    stopping: CancellationToken,
    newest: watch::Receiver<u64>,
    /// The last position that was looked at.
    after: u64,
    /// Where a stream that does not follow ends.
    until: Option<u64>,
    filter: Filter,
    mask: Mask,
}

impl Cursor {
    pub(super) async fn open(
        store: &Arc<Store>,
        stopping: CancellationToken,
        request: SubscribeRequest,
    ) -> Result<Self, Status> {
        let filter = Filter::new(
            request.kinds,
            request.min_severity,
            request.node,
            &request.client_networks,
            request.atlas_techniques,
        )?;
        let mask = Mask::new(request.fields)?;
        let newest = store.newest();
        let end = *newest.borrow();
        let oldest = blocking(store, Store::bounds).await?.0;
        let mut after = match request.resume_token.as_str() {
            "" => oldest.saturating_sub(1),
            token => position("resume_token", token, store, end)?,
        };
        if let Some(since) = request.since {
            let since = nanos(since);
            after = after.max(blocking(store, move |store| store.last_before(since)).await?);
        }
        Ok(Self {
            store: Arc::clone(store),
            stopping,
            newest,
            after,
            until: (!request.follow).then_some(end),
            filter,
            mask,
        })
    }

    /// The next messages; none at the end of a stream that does not follow.
    async fn advance(&mut self) -> Result<Option<Vec<SubscribeResponse>>, Status> {
        loop {
            if self.stopping.is_cancelled() {
                return Err(closing());
            }
            let end = self.until.unwrap_or(*self.newest.borrow_and_update());
            if self.after < end {
                let page = self.read(end).await?;
                if !page.is_empty() {
                    return Ok(Some(page));
                }
            } else if self.until.is_some() {
                return Ok(None);
            } else {
                self.wait().await?;
            }
        }
    }

    /// Moves on by a page; what of it is to be told.
    async fn read(&mut self, end: u64) -> Result<Vec<SubscribeResponse>, Status> {
        let after = self.after;
        let rows = blocking(&self.store, move |store| store.page(after, end)).await?;
        let first = rows.first().map_or(end + 1, |row| row.position);
        self.after = rows.last().map_or(end, |row| row.position);
        let mut messages: Vec<_> = rows.into_iter().filter_map(|row| self.message(row)).collect();
        if first > after + 1 {
            self.tell_removed(after + 1, first - 1, &mut messages);
        }
        Ok(messages)
    }

    /// Sleeps until something is stored.
    async fn wait(&mut self) -> Result<(), Status> {
        tokio::select! {
            // The sender lives in the store, which lives in this cursor, so this cannot fail.
            _ = self.newest.changed() => Ok(()),
            () = self.stopping.cancelled() => Err(closing()),
        }
    }

    /// What a row says to this subscriber, if anything.
    fn message(&self, row: Row) -> Option<SubscribeResponse> {
        let Row { position, stored, anomaly, lost } = row;
        let anomaly = self.filter.passes(&anomaly).then(|| self.mask.apply(anomaly));
        let lost: Vec<_> = lost.into_iter().filter(|lost| self.filter.concerns(&lost.node)).collect();
        (anomaly.is_some() || !lost.is_empty()).then(|| SubscribeResponse {
            anomaly,
            resume_token: self.token(position),
            stored: Some(timestamp(stored)),
            lost,
        })
    }

    /// Says that the retention was faster than this subscriber.
    fn tell_removed(&self, first: u64, last: u64, messages: &mut Vec<SubscribeResponse>) {
        let stage = "retention".to_owned();
        let lost = LostStates { stage, count: last - first + 1, first, last, ..LostStates::default() };
        match messages.first_mut() {
            Some(message) => message.lost.insert(0, lost),
            None => messages.push(SubscribeResponse {
                resume_token: self.token(self.after),
                lost: vec![lost],
                ..SubscribeResponse::default()
            }),
        }
    }

    fn token(&self, position: u64) -> String {
        Token { store: self.store.id(), position }.to_string()
    }
}

/// What a subscriber gets: what `cursor` reads, and then why that ended, unless it was the end.
pub(super) fn stream(
    cursor: Cursor,
    patience: Duration,
    reader: Reader,
) -> impl Stream<Item = Result<SubscribeResponse, Status>> {
    let (messages, taken) = mpsc::channel(WAITING);
    let (end, ended) = oneshot::channel();
    tokio::spawn(async move {
        let verdict = tokio::select! {
            verdict = hand_on(cursor, patience, &messages, &reader) => verdict,
            () = messages.closed() => Ok(()),
        };
        if let Err(status) = verdict {
            // A subscriber that has gone away needs no status.
            let _ = end.send(status);
        }
    });
    let last = stream::once(ended).filter_map(|status| future::ready(status.ok().map(Err)));
    ReceiverStream::new(taken).map(Ok).chain(last)
}

async fn hand_on(
    mut cursor: Cursor,
    patience: Duration,
    messages: &mpsc::Sender<SubscribeResponse>,
    reader: &Reader,
) -> Result<(), Status> {
    while let Some(page) = cursor.advance().await? {
        for message in page {
            match tokio::time::timeout(patience, messages.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    reader.cut_off();
                    tracing::info!(after = cursor.after, "a subscriber takes nothing and is cut off");
                    return Err(Status::resource_exhausted(format!(
                        "nothing was taken for {} s; subscribe again with the last resume_token",
                        patience.as_secs()
                    )));
                }
            }
        }
    }
    Ok(())
}
