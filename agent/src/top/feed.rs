//! What keeps the live view current: the agent's streams, set up again whenever they break.
//!
//! In flows what the view wants, out flow updates. Invariant: it never gives up and never spins; it
//! ends when nobody listens any more.

use std::{path::PathBuf, time::Duration};

use hydrometer_proto::v1::{GetClientRequest, GetStatusRequest, WatchAnomaliesRequest, WatchClientsRequest};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};
use tonic::{Code, Status};

use super::state::{Detail, Update, Wanted};
use crate::cli::connect;

const RETRY_AFTER: Duration = Duration::from_secs(1);
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// How to watch.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The agent's socket.
    pub socket: PathBuf,
    /// Between pictures.
    pub interval: Duration,
    /// Clients at most.
    pub limit: u32,
}

/// Why a session ended.
enum End {
    /// Nobody listens.
    Closed,
    /// The view wants another order of clients.
    Reordered,
    /// The agent is not there.
    Lost(String),
}

impl Feed {
    /// Watches until the receiver of `updates` is gone.
    pub async fn run(self, mut wanted: watch::Receiver<Wanted>, updates: mpsc::Sender<Update>) {
        loop {
            let why = match self.session(&mut wanted, &updates).await {
                End::Closed => return,
                End::Reordered => continue,
                End::Lost(why) => why,
            };
            if updates.send(Update::Lost(why)).await.is_err() {
                return;
            }
            sleep(RETRY_AFTER).await;
        }
    }

    async fn session(&self, wanted: &mut watch::Receiver<Wanted>, updates: &mpsc::Sender<Update>) -> End {
        match self.watch(wanted, updates).await {
            Ok(end) => end,
            Err(error) => End::Lost(format!("{error:#}")),
        }
    }

    async fn watch(
        &self,
        wanted: &mut watch::Receiver<Wanted>,
        updates: &mpsc::Sender<Update>,
    ) -> anyhow::Result<End> {
        let refused = |status: Status| connect::refused("watch the agent", &status);
        let mut agent = connect::agent(&self.socket).await?;
        let sort = wanted.borrow_and_update().sort;
        let request = WatchClientsRequest {
            sort: sort.into(),
            limit: self.limit,
            interval: prost_types::Duration::try_from(self.interval).ok(),
        };
        let follow = WatchAnomaliesRequest { follow: true, muted: true, ..WatchAnomaliesRequest::default() };
        let mut clients = agent.watch_clients(request).await.map_err(refused)?.into_inner();
        let mut anomalies = agent.watch_anomalies(follow).await.map_err(refused)?.into_inner();
        let mut status_due = interval(STATUS_EVERY);
        let mut client_due = interval(self.interval);
        status_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        client_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = Update::Connected;
        loop {
            if updates.send(next).await.is_err() {
                return Ok(End::Closed);
            }
            next = loop {
                tokio::select! {
                    message = clients.message() => match message.map_err(refused)? {
                        Some(message) => break Update::Clients(message),
                        None => return Ok(End::Lost("the agent is stopping".to_owned())),
                    },
                    message = anomalies.message() => match message.map_err(refused)? {
                        Some(message) => if let Some(anomaly) = message.anomaly { break Update::Anomaly(Box::new(anomaly)) },
                        None => return Ok(End::Lost("the agent is stopping".to_owned())),
                    },
                    _ = status_due.tick() => {
                        let status = agent.get_status(GetStatusRequest {}).await.map_err(refused)?;
                        break Update::Status(Box::new(status.into_inner()));
                    }
                    _ = client_due.tick() => {
                        let opened = wanted.borrow().client.clone();
                        if let Some(address) = opened {
                            let detail = detail(&mut agent, &address).await.map_err(refused)?;
                            break Update::Client { address, detail };
                        }
                    }
                    changed = wanted.changed() => {
                        if changed.is_err() {
                            return Ok(End::Closed);
                        }
                        if wanted.borrow_and_update().sort != sort {
                            return Ok(End::Reordered);
                        }
                        // A client was opened: do not wait for its turn.
                        client_due.reset_immediately();
                    }
                }
            };
        }
    }
}

async fn detail(agent: &mut connect::Agent, address: &str) -> Result<Detail, Status> {
    match agent.get_client(GetClientRequest { address: address.to_owned() }).await {
        Ok(response) => Ok(Detail::Known(Box::new(response.into_inner()))),
        Err(status) if status.code() == Code::NotFound => Ok(Detail::Unknown),
        Err(status) => Err(status),
    }
}
