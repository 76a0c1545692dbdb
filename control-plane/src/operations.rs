//! What who runs the control plane asks of it: how its store and its sinks fare.

use std::{sync::Arc, time::SystemTime};

use hydrometer_proto::v1::{
    GetControlPlaneStatusRequest, GetControlPlaneStatusResponse, SinkStatus, StoreStatus, operations_server,
};
use tonic::{Request, Response, Status};

use crate::{
    sink::{Progress, Running},
    store::{self, Store},
};

/// `hydrometer.v1.Operations`.
pub struct Operations {
    store: Arc<Store>,
    sinks: Vec<Running>,
    started: SystemTime,
}

impl Operations {
    /// Tells of `store` and `sinks`.
    pub fn new(store: Arc<Store>, sinks: Vec<Running>) -> Self {
        Self { store, sinks, started: SystemTime::now() }
    }
}

#[tonic::async_trait]
impl operations_server::Operations for Operations {
    async fn get_control_plane_status(
        &self,
        _: Request<GetControlPlaneStatusRequest>,
    ) -> Result<Response<GetControlPlaneStatusResponse>, Status> {
        let bounds = store::blocking(&self.store, Store::bounds).await;
        let (oldest_position, newest_position) =
            bounds.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(GetControlPlaneStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: Some(self.started.into()),
            store: Some(StoreStatus { oldest_position, newest_position }),
            sinks: self.sinks.iter().map(sink).collect(),
        }))
    }
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
