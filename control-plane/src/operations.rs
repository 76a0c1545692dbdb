//! What who runs the control plane asks of it: how its store, its sinks and its readers fare, and a backup.

use std::{io, sync::Arc, time::SystemTime};

use hydrometer_proto::v1::{
    BackupRequest, BackupResponse, GetControlPlaneStatusRequest, GetControlPlaneStatusResponse, SinkStatus,
    StoreStatus, operations_server,
};
use tokio::{
    fs::File,
    io::AsyncReadExt as _,
    sync::{Mutex, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    feed::Readers,
    sink::{Progress, Running},
    store::{self, Store, StoreError},
};

/// `hydrometer.v1.Operations`.
pub struct Operations {
    store: Arc<Store>,
    sinks: Vec<Running>,
    readers: Arc<Readers>,
    /// One backup at a time: each takes room on the disk.
    backup: Arc<Mutex<()>>,
    started: SystemTime,
}

type Pieces = mpsc::Sender<Result<BackupResponse, Status>>;

/// Of a backup, in a message.
const PIECE_BYTES: usize = 256 << 10;

impl Operations {
    /// Tells of `store`, `sinks` and `readers`.
    pub fn new(store: Arc<Store>, sinks: Vec<Running>, readers: Arc<Readers>) -> Self {
        Self { store, sinks, readers, backup: Arc::default(), started: SystemTime::now() }
    }

    /// How the control plane fares; fails when the store cannot be read.
    pub async fn status(&self) -> Result<GetControlPlaneStatusResponse, StoreError> {
        let ((oldest_position, newest_position), bytes) =
            store::blocking(&self.store, |store| Ok((store.bounds()?, store.size()?))).await?;
        Ok(GetControlPlaneStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: Some(self.started.into()),
            store: Some(StoreStatus { oldest_position, newest_position, bytes }),
            sinks: self.sinks.iter().map(sink).collect(),
            feed: Some(self.readers.status()),
        })
    }
}

#[tonic::async_trait]
impl operations_server::Operations for Operations {
    async fn get_control_plane_status(
        &self,
        _: Request<GetControlPlaneStatusRequest>,
    ) -> Result<Response<GetControlPlaneStatusResponse>, Status> {
        self.status().await.map(Response::new).map_err(|error| failed(&error))
    }

    type BackupStream = ReceiverStream<Result<BackupResponse, Status>>;

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let busy = |_| Status::resource_exhausted("a backup is being taken already; try again later");
        let turn = Arc::clone(&self.backup).try_lock_owned().map_err(busy)?;
        let copy = store::blocking(&self.store, Store::copy).await.map_err(|error| failed(&error))?;
        let (pieces, sent) = mpsc::channel(2);
        tokio::spawn(async move {
            if let Err(error) = send(copy.into(), &pieces).await {
                // Whoever has gone away needs no status.
                let _ = pieces.send(Err(Status::internal(format!("cannot read the copy: {error}")))).await;
            }
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(sent)))
    }
}

/// Sends a file piece by piece, until its end or until nobody takes them any more.
async fn send(mut file: File, pieces: &Pieces) -> io::Result<()> {
    loop {
        let mut content = vec![0; PIECE_BYTES];
        let length = file.read(&mut content).await?;
        content.truncate(length);
        if length == 0 || pieces.send(Ok(BackupResponse { content })).await.is_err() {
            return Ok(());
        }
    }
}

fn failed(error: &StoreError) -> Status {
    Status::internal(error.to_string())
}

fn sink(running: &Running) -> SinkStatus {
    let Progress { position, delivered, retries, dead_lettered, missed, error } =
        running.progress.borrow().clone();
    SinkStatus {
        name: running.name.clone(),
        kind: running.kind.to_owned(),
        position,
        delivered,
        retries,
        dead_lettered,
        missed,
        error: error.unwrap_or_default(),
    }
}
