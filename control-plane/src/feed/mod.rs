//! What a SOC reads: stored states, as they come or as they were.
//!
//! `subscriber.rs` is a cursor into the store for each subscriber, `query.rs` answers questions about the past,
//! `filter.rs` and `mask.rs` say what of it is wanted.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::Stream;
use hydrometer_proto::v1::{
    FeedStatus, QueryRequest, QueryResponse, SubscribeRequest, SubscribeResponse, feed_server,
};
use prost_types::Timestamp;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    store::{self, Store, StoreError},
    token::Token,
};

mod filter;
mod mask;
mod query;
mod subscriber;

const NANOS: i64 = 1_000_000_000;
/// Beyond this many streams no more are taken: each holds a page and a few messages.
const MAX_SUBSCRIBERS: u64 = 10_000;

/// `hydrometer.v1.Feed`.
pub struct Feed {
    store: Arc<Store>,
    patience: Duration,
    readers: Arc<Readers>,
    stopping: CancellationToken,
}

/// Counts who reads.
#[derive(Debug, Default)]
pub struct Readers {
    open: AtomicU64,
    cut_off: AtomicU64,
}

impl Feed {
    /// Reads from `store` until `stopping`. A subscriber that takes nothing for `patience` is cut off.
    pub fn new(store: Arc<Store>, patience: Duration, stopping: CancellationToken) -> Self {
        Self { store, patience, readers: Arc::default(), stopping }
    }

    /// Counts who reads.
    pub fn readers(&self) -> Arc<Readers> {
        Arc::clone(&self.readers)
    }
}

#[tonic::async_trait]
impl feed_server::Feed for Feed {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let reader = Reader::enter(&self.readers)?;
        let cursor =
            subscriber::Cursor::open(&self.store, self.stopping.clone(), request.into_inner()).await?;
        Ok(Response::new(Box::pin(subscriber::stream(cursor, self.patience, reader))))
    }

    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<QueryResponse>, Status> {
        query::answer(&self.store, request.into_inner()).await.map(Response::new)
    }
}

impl Readers {
    /// For the status.
    pub fn status(&self) -> FeedStatus {
        FeedStatus {
            subscribers: self.open.load(Ordering::Relaxed),
            cut_off: self.cut_off.load(Ordering::Relaxed),
        }
    }
}

/// An open stream, counted until dropped.
struct Reader(Arc<Readers>);

impl Reader {
    fn enter(readers: &Arc<Readers>) -> Result<Self, Status> {
        let reader = Self(Arc::clone(readers));
        if reader.0.open.fetch_add(1, Ordering::Relaxed) < MAX_SUBSCRIBERS {
            return Ok(reader);
        }
        Err(Status::resource_exhausted(format!(
            "there are {MAX_SUBSCRIBERS} subscribers already; try again later"
        )))
    }

    fn cut_off(&self) {
        self.0.cut_off.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The position that the token in `field` stands for.
fn position(field: &str, token: &str, store: &Store, newest: u64) -> Result<u64, Status> {
    let refuse = |why: &str| Status::invalid_argument(format!("{field}: {why}"));
    let token: Token = token.parse().map_err(|error| refuse(&format!("{error}")))?;
    if token.store != store.id() {
        return Err(refuse("it is of another store; begin without a token, or with `since`"));
    }
    if token.position > newest {
        return Err(refuse("it is ahead of this store, which may be an older copy; begin with `since`"));
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

fn timestamp(nanos: i64) -> Timestamp {
    Timestamp { seconds: nanos.div_euclid(NANOS), nanos: nanos.rem_euclid(NANOS) as i32 }
}

fn closing() -> Status {
    Status::unavailable("the control plane is stopping; subscribe again with the last resume_token")
}
