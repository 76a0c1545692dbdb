//! What a SOC reads: stored states, oldest first, from where a subscriber left off.
//!
//! Each subscriber is a cursor into the store. It reads a bounded page when the one before has been
//! taken, and sleeps at the end until a commit wakes it, so a slow subscriber costs one page and
//! delays nobody. Invariant: a stream is gapless and without duplicates in positions, and every
//! message carries the token from which the next stream goes on.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, TryStreamExt as _, stream};
use hydrometer_proto::v1::{Anomaly, SubscribeRequest, SubscribeResponse, feed_server};
use prost_types::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    store::{self, Row, Store, StoreError},
    token::Token,
};

const NANOS: i64 = 1_000_000_000;

/// `hydrometer.v1.Feed`.
pub struct Feed {
    store: Arc<Store>,
    stopping: CancellationToken,
}

impl Feed {
    /// Reads from `store` until `stopping`.
    pub fn new(store: Arc<Store>, stopping: CancellationToken) -> Self {
        Self { store, stopping }
    }
}

#[tonic::async_trait]
impl feed_server::Feed for Feed {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let cursor = Cursor::open(&self.store, self.stopping.clone(), request.into_inner()).await?;
        let pages = stream::try_unfold(cursor, Cursor::advance);
        let messages = pages.map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten();
        Ok(Response::new(Box::pin(messages)))
    }
}

/// Where one subscriber is, and what it wants.
struct Cursor {
    store: Arc<Store>,
    stopping: CancellationToken,
    newest: watch::Receiver<u64>,
    /// The last position that was looked at.
    after: u64,
    /// Where a stream that does not follow ends.
    until: Option<u64>,
    filter: Filter,
}

impl Cursor {
    async fn open(
        store: &Arc<Store>,
        stopping: CancellationToken,
        request: SubscribeRequest,
    ) -> Result<Self, Status> {
        let newest = store.newest();
        let end = *newest.borrow();
        let mut after = resume(&request.resume_token, store, end)?;
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
            filter: Filter { kinds: request.kinds, min_severity: request.min_severity, node: request.node },
        })
    }

    /// The next messages, and the cursor after them; nothing at the end of a stream that does not
    /// follow.
    async fn advance(mut self) -> Result<Option<(Vec<SubscribeResponse>, Self)>, Status> {
        loop {
            if self.stopping.is_cancelled() {
                return Err(closing());
            }
            let end = self.until.unwrap_or(*self.newest.borrow_and_update());
            if self.after < end {
                let page = self.read(end).await?;
                if !page.is_empty() {
                    return Ok(Some((page, self)));
                }
            } else if self.until.is_some() {
                return Ok(None);
            } else {
                self.wait().await?;
            }
        }
    }

    /// Moves on by a page; what of it passes the filter.
    async fn read(&mut self, end: u64) -> Result<Vec<SubscribeResponse>, Status> {
        let after = self.after;
        let rows = blocking(&self.store, move |store| store.page(after, end)).await?;
        self.after = rows.last().map_or(end, |row| row.position);
        Ok(rows
            .into_iter()
            .filter(|row| self.filter.passes(&row.anomaly))
            .map(|row| self.message(row))
            .collect())
    }

    /// Sleeps until something is stored.
    async fn wait(&mut self) -> Result<(), Status> {
        tokio::select! {
            // The sender lives in the store, which lives in this cursor, so this cannot fail.
            _ = self.newest.changed() => Ok(()),
            () = self.stopping.cancelled() => Err(closing()),
        }
    }

    fn message(&self, Row { position, stored, anomaly }: Row) -> SubscribeResponse {
        SubscribeResponse {
            anomaly: Some(anomaly),
            resume_token: Token { store: self.store.id(), position }.to_string(),
            stored: Some(Timestamp {
                seconds: stored.div_euclid(NANOS),
                nanos: stored.rem_euclid(NANOS) as i32,
            }),
        }
    }
}

/// What a subscriber wants to see.
struct Filter {
    kinds: Vec<i32>,
    min_severity: i32,
    node: String,
}

impl Filter {
    /// Numbers are compared, not names, so kinds newer than this control plane can be asked for.
    fn passes(&self, anomaly: &Anomaly) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&anomaly.kind))
            && anomaly.severity >= self.min_severity
            && (self.node.is_empty() || self.node == anomaly.node)
    }
}

/// The position a resume token stands for; 0 when there is none.
fn resume(token: &str, store: &Store, newest: u64) -> Result<u64, Status> {
    if token.is_empty() {
        return Ok(0);
    }
    let refuse = |why: &str| Status::invalid_argument(format!("resume_token: {why}"));
    let token: Token = token.parse().map_err(|error| refuse(&format!("{error}")))?;
    if token.store != store.id() {
        return Err(refuse("it is of another store; subscribe without a token, or with `since`"));
    }
    if token.position > newest {
        return Err(refuse("it is ahead of this store, which may be an older copy; subscribe with `since`"));
    }
    Ok(token.position)
}

/// Runs a read of the store where it may block.
async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    store::blocking(store, read).await.map_err(|error| {
        if matches!(error, StoreError::Stopping) {
            return closing();
        }
        tracing::error!(%error, "cannot read the store");
        match error {
            StoreError::Damaged(_) => Status::data_loss(error.to_string()),
            _ => Status::internal(error.to_string()),
        }
    })
}

fn nanos(time: Timestamp) -> i64 {
    time.seconds.saturating_mul(NANOS).saturating_add(i64::from(time.nanos))
}

fn closing() -> Status {
    Status::unavailable("the control plane is stopping; subscribe again with the last resume_token")
}
