//! Changes of anomalies on their way to the control plane: taken at once, written to the spool, then sent.
//!
//! In flow changes from the pipeline, which never waits; out flow numbered ones for the stream. A change is given
//! its number by the spool, and is there for the stream once it is durable. Invariants: memory is bounded by
//! [`WAITING`] changes, and what that costs while the disk does not write is counted; everything else is bounded by
//! the spool.

use std::{
    collections::VecDeque,
    panic::resume_unwind,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hydrometer_proto::v1::{Anomaly, ControlPlaneLink};
use prost::Message as _;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    config::ControlPlane,
    spool::{Losses, MAX_CONTENT, Spool, SpoolError},
};

/// Changes that wait in memory until the disk has written those before.
const WAITING: usize = 4_096;
/// Changes sent and not acknowledged.
const IN_FLIGHT: u64 = 256;
/// Changes of so many bytes, and one more, are written together.
const BATCH: usize = 256 << 10;
/// How long to wait before a disk that refused is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Where changes wait to be sent and to be acknowledged. Clones share it.
#[derive(Clone, Debug)]
pub struct Outbox {
    spool: Arc<Mutex<Spool>>,
    state: watch::Sender<State>,
    /// Identifies the numbering.
    id: String,
}

/// What others wait for, and what the status tells.
#[derive(Debug, Default)]
pub struct State {
    /// Not yet written.
    waiting: VecDeque<Vec<u8>>,
    /// Being written.
    writing: usize,
    dropped: u64,
    /// The newest number on disk.
    last_sequence: u64,
    acked: u64,
    /// On disk, and not acknowledged.
    pending: u64,
    losses: Losses,
    is_connected: bool,
    last_error: String,
    spool_error: String,
    connects: u64,
}

impl Outbox {
    /// Opens the spool in `directory`.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(directory: &Path, max_bytes: u64) -> Result<Self, SpoolError> {
        let spool = Spool::open(directory, max_bytes)?;
        let mut state = State::default();
        state.follow(&spool);
        if state.losses != Losses::default() {
            let Losses { corrupt, torn, .. } = state.losses;
            tracing::warn!(spool = %directory.display(), corrupt, torn, "damaged records of the spool were skipped");
        }
        Ok(Self { id: spool.id(), spool: Arc::new(Mutex::new(spool)), state: watch::Sender::new(state) })
    }

    /// Identifies the numbering.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Takes one change. When the disk is far behind, the oldest that was not written is dropped and counted.
    pub fn push(&self, anomaly: &Anomaly) {
        let encoded = anomaly.encode_to_vec();
        self.state.send_modify(|state| {
            if encoded.len() > MAX_CONTENT {
                state.dropped += 1;
                return;
            }
            if state.waiting.len() >= WAITING {
                state.waiting.pop_front();
                state.dropped += 1;
            }
            state.waiting.push_back(encoded);
        });
    }

    /// Writes what comes to the spool, for ever.
    pub async fn write(self) {
        let mut changes = self.state.subscribe();
        loop {
            // The sender lives in `self`, so waiting cannot fail.
            let _ = changes.wait_for(|state| !state.waiting.is_empty()).await;
            let mut batch = Vec::new();
            self.state.send_modify(|state| batch = state.take());
            let batch = Arc::new(batch);
            while let Err(error) = self.append(Arc::clone(&batch)).await {
                self.refused(&error);
                sleep(RETRY).await;
            }
        }
    }

    async fn append(&self, batch: Arc<Vec<Vec<u8>>>) -> Result<(), SpoolError> {
        self.on_disk(move |spool| spool.append(&batch)).await?;
        self.state.send_modify(|state| {
            state.writing = 0;
            state.spool_error.clear();
        });
        Ok(())
    }

    fn refused(&self, error: &SpoolError) {
        let said = error.to_string();
        self.state.send_modify(|state| {
            if state.spool_error != said {
                tracing::warn!(error = said, "the spool does not take anomalies; they wait in memory");
                state.spool_error = said;
            }
        });
    }

    /// The next to send after the number `sent`; nothing while as many as may are in flight.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn next(&self, sent: u64) -> Result<Option<(u64, Vec<u8>)>, SpoolError> {
        if self.is_due(sent) { self.on_disk(move |spool| spool.after(sent)).await } else { Ok(None) }
    }

    /// Whether a stream that has sent up to `sent` has something to send.
    pub fn is_due(&self, sent: u64) -> bool {
        let state = self.state.borrow();
        state.last_sequence > sent && sent < state.acked + IN_FLIGHT
    }

    /// Everything up to the number `sequence` is stored.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn acknowledge(&self, sequence: u64) -> Result<(), SpoolError> {
        self.on_disk(move |spool| spool.acknowledge(sequence)).await
    }

    /// The newest number that is acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.state.borrow().acked
    }

    /// Does `job` where waiting for a disk delays nobody, and tells what has become of the spool.
    async fn on_disk<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Spool) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let outbox = self.clone();
        let done = spawn_blocking(move || {
            let mut spool = outbox.spool.lock().unwrap_or_else(PoisonError::into_inner);
            let done = job(&mut spool);
            outbox.state.send_if_modified(|state| state.follow(&spool));
            done
        });
        done.await.unwrap_or_else(|failed| resume_unwind(failed.into_panic()))
    }

    /// Tells of changes from now on.
    pub fn changes(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// A stream is up.
    pub fn connected(&self) {
        self.state.send_modify(|state| {
            state.is_connected = true;
            state.connects += 1;
            state.last_error.clear();
        });
    }

    /// How often a stream came up.
    pub fn connects(&self) -> u64 {
        self.state.borrow().connects
    }

    /// Notes why the stream is down; true when that is news.
    pub fn lost(&self, reason: String) -> bool {
        let mut is_new = false;
        self.state.send_modify(|state| {
            is_new = state.is_connected || state.last_error != reason;
            state.is_connected = false;
            state.last_error = reason;
        });
        is_new
    }

    /// Waits until everything is on disk.
    pub async fn written(&self) {
        self.wait(|state| state.waiting.is_empty() && state.writing == 0).await;
    }

    /// Waits until everything is acknowledged.
    pub async fn delivered(&self) {
        self.wait(|state| state.in_all() == 0).await;
    }

    async fn wait(&self, until: impl FnMut(&State) -> bool) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.state.subscribe().wait_for(until).await;
    }

    /// Changes dropped since start, before they were written.
    pub fn dropped(&self) -> u64 {
        self.state.borrow().dropped
    }

    /// What the spool has lost since start.
    pub fn losses(&self) -> Losses {
        self.state.borrow().losses
    }

    /// The link for the status.
    pub fn link(&self, control_plane: &ControlPlane) -> ControlPlaneLink {
        let state = self.state.borrow();
        let errors = [&state.spool_error, &state.last_error];
        ControlPlaneLink {
            address: control_plane.to_string(),
            connected: state.is_connected,
            last_error: errors.into_iter().find(|error| !error.is_empty()).cloned().unwrap_or_default(),
            last_sequence: state.last_sequence,
            acked_sequence: state.acked,
            pending: state.in_all(),
            connects: state.connects,
        }
    }
}

impl State {
    /// Changes that are not acknowledged.
    fn in_all(&self) -> u64 {
        (self.waiting.len() + self.writing) as u64 + self.pending
    }

    /// Takes what is to be written next.
    fn take(&mut self) -> Vec<Vec<u8>> {
        let mut bytes = 0;
        let mut batch = Vec::new();
        while bytes < BATCH
            && let Some(change) = self.waiting.pop_front()
        {
            bytes += change.len();
            batch.push(change);
        }
        self.writing = batch.len();
        batch
    }

    /// Takes over how the spool stands; true when that is news.
    fn follow(&mut self, spool: &Spool) -> bool {
        let now = (spool.last(), spool.acknowledged(), spool.pending(), spool.losses());
        let is_new = now != (self.last_sequence, self.acked, self.pending, self.losses);
        (self.last_sequence, self.acked, self.pending, self.losses) = now;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::MIN_BYTES;

    fn anomaly(id: usize) -> Anomaly {
        Anomaly { id: id.to_string(), ..Anomaly::default() }
    }

    async fn sent_after(outbox: &Outbox, sent: u64) -> Option<(u64, String)> {
        let (sequence, encoded) = outbox.next(sent).await.unwrap()?;
        Some((sequence, Anomaly::decode(encoded.as_slice()).unwrap().id))
    }

    #[tokio::test]
    async fn a_change_has_its_number_across_streams_and_restarts_until_it_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path(), MIN_BYTES).unwrap();
        let writing = tokio::spawn(outbox.clone().write());
        (1..4).for_each(|id| outbox.push(&anomaly(id)));
        outbox.written().await;
        for sent in [0, 0] {
            assert_eq!(
                sent_after(&outbox, sent).await,
                Some((1, "1".to_owned())),
                "sent again on a new stream"
            );
        }
        outbox.acknowledge(2).await.unwrap();
        writing.abort();
        // Its end frees the spool.
        let _ = writing.await;
        let id = outbox.id().to_owned();
        drop(outbox);

        let outbox = Outbox::open(folder.path(), MIN_BYTES).unwrap();
        assert_eq!(outbox.id(), id);
        outbox.acknowledge(2).await.unwrap();
        assert_eq!(sent_after(&outbox, outbox.acknowledged()).await, Some((3, "3".to_owned())));
        outbox.acknowledge(99).await.unwrap();
        assert_eq!(outbox.acknowledged(), 3, "what was never sent is not acknowledged");
        outbox.delivered().await;
    }

    #[tokio::test]
    async fn what_is_in_flight_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path(), MIN_BYTES).unwrap();
        let writing = tokio::spawn(outbox.clone().write());
        (0..=IN_FLIGHT as usize).for_each(|id| outbox.push(&anomaly(id)));
        outbox.written().await;
        assert!(outbox.is_due(IN_FLIGHT - 1) && !outbox.is_due(IN_FLIGHT));
        outbox.acknowledge(1).await.unwrap();
        assert!(outbox.is_due(IN_FLIGHT));
        writing.abort();
    }

    #[test]
    fn while_the_disk_does_not_write_memory_is_bounded_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path(), MIN_BYTES).unwrap();
        (0..WAITING + 3).for_each(|id| outbox.push(&anomaly(id)));
        assert_eq!((outbox.dropped(), outbox.state.borrow().in_all()), (3, WAITING as u64));
    }

    #[test]
    fn a_change_that_no_control_plane_would_take_is_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path(), MIN_BYTES).unwrap();
        outbox.push(&Anomaly { id: "x".repeat(MAX_CONTENT), ..Anomaly::default() });
        assert_eq!((outbox.dropped(), outbox.state.borrow().in_all()), (1, 0));
    }
}
