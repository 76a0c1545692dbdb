//! Exchanges in, anomalies out: the one owner of the kernel side and of the engine.
//!
//! In flow finished exchanges from the kernel and questions from the API; out flow changes of
//! anomalies, to whoever watches and to the report. Invariant: one task owns all of it, and nothing
//! that task does between two drains of the kernel takes long; who asks for much asks in pieces.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hydrometer_engine::{
    ClientId, ClientView, Engine, EngineConfig, EngineStats, Exchange, Fingerprint, Identity, Nanos, Said,
    anomaly::{Anomaly, Reach},
};
use hydrometer_proto::v1;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    convert,
    findings::Findings,
    kernel::{
        Attachment, ClientSnapshot, ClientWalk, FlowWalk, InterfaceStatus, Kernel, KernelError, KernelStatus,
        Progress,
    },
    outbox::Outbox,
    state::{self, Keeper, StateAccount},
};

/// Questions that wait for their turn.
const QUESTIONS: usize = 64;
const ADVANCE_EVERY: Duration = Duration::from_secs(1);
/// How often the ring buffers are looked into, unless they fill sooner.
const DRAIN_EVERY: Duration = Duration::from_millis(50);

/// What turns exchanges into anomalies.
#[derive(Debug)]
pub struct Pipeline {
    /// `None` where exchanges are handed in.
    kernel: Option<Kernel>,
    engine: Engine,
    node: String,
    findings: Findings,
    report: Option<Outbox>,
    /// Clients known to the kernel side or the engine, when the client map was last walked over.
    clients: usize,
    keeper: Option<Keeper>,
    /// How often the kernel could not be read.
    failures: u64,
}

/// Asks the task that runs the pipeline.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Question>);

/// The questions a pipeline is to answer while it runs.
#[derive(Debug)]
pub struct Questions(mpsc::Receiver<Question>);

type Question = Box<dyn FnOnce(&mut Pipeline) + Send>;

/// The pipeline has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the agent is stopping")]
pub struct Stopped;

/// What a client list is sorted by.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Who.
    pub id: ClientId,
    /// Requests per second over the last minute.
    pub rate: f64,
    /// Requests in all.
    pub requests: u64,
    /// Application bytes asked in all.
    pub request_bytes: u64,
    /// Application bytes answered in all.
    pub answer_bytes: u64,
    /// Last exchange.
    pub last_seen: Nanos,
    /// Coefficient of variation of the time between requests, over the longest window that has one.
    pub cv: Option<f64>,
}

/// The pipeline's own account.
#[derive(Debug)]
pub struct Account {
    /// The kernel side's, where it could be read.
    pub kernel: Option<KernelStatus>,
    /// Where the programs are attached.
    pub attachments: Vec<Attachment>,
    /// Which interfaces are asked for, and what became of that.
    pub interfaces: Option<InterfaceStatus>,
    /// The engine's.
    pub engine: EngineStats,
    /// Clients known, to the kernel side or the engine.
    pub clients: usize,
    /// Anomalies open, those that are muted left out.
    pub open_anomalies: usize,
    /// Anomalies open and muted.
    pub muted_anomalies: usize,
    /// How often the kernel could not be read.
    pub failures: u64,
    /// What is remembered across restarts.
    pub state: Option<StateAccount>,
}

/// What is known of one client.
struct Known {
    client: v1::Client,
    recent: Vec<Exchange>,
    fingerprint: Fingerprint,
}

/// A way to ask, and the questions for [`Pipeline::run`].
pub fn questions() -> (Handle, Questions) {
    let (sender, receiver) = mpsc::channel(QUESTIONS);
    (Handle(sender), Questions(receiver))
}

impl Handle {
    /// Lets the pipeline answer between two drains. `question` must be quick.
    pub async fn with<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Pipeline) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (sender, answer) = oneshot::channel();
        let question: Question = Box::new(move |pipeline| {
            // Who asked may have gone away meanwhile.
            let _ = sender.send(question(pipeline));
        });
        self.0.send(question).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Waits until the pipeline has ended.
    pub async fn stopped(self) {
        self.0.closed().await;
    }
}

impl Pipeline {
    /// A pipeline that has seen nothing. Without a kernel side, exchanges come through
    /// [`Pipeline::take`] alone.
    pub fn new(kernel: Option<Kernel>, engine: EngineConfig, node: String, report: Option<Outbox>) -> Self {
        Self {
            kernel,
            engine: Engine::new(engine),
            node,
            findings: Findings::default(),
            report,
            clients: 0,
            keeper: None,
            failures: 0,
        }
    }

    /// One that goes on with what `keeper` remembers, and has it remember what comes.
    #[must_use]
    pub fn remembering(mut self, mut keeper: Keeper) -> Self {
        if let Some(memory) = keeper.recall(self.engine.config().clone()) {
            self.engine = memory.engine;
            for anomaly in memory.anomalies {
                self.findings.add(Arc::new(anomaly));
            }
        }
        self.keeper = Some(keeper);
        self
    }

    /// Drains and advances until `stop`; then flushes what is open and detaches.
    pub async fn run(
        mut self,
        mut questions: Questions,
        quiet: Duration,
        stop: CancellationToken,
    ) -> Result<(), KernelError> {
        let mut second = interval(ADVANCE_EVERY);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(DRAIN_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // After a failure the kernel is left alone until the next second, instead of spinning.
        let mut is_readable = true;
        // What was remembered may be over by now.
        self.advance(now());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                result = ready(self.kernel.as_mut()), if is_readable => {
                    if let Err(error) = result {
                        self.failed(&error);
                        is_readable = false;
                    }
                    self.drain();
                }
                _ = look.tick() => self.drain(),
                _ = second.tick() => {
                    is_readable = true;
                    self.drain();
                    self.sweep(quiet);
                    self.advance(now());
                    if let Some(keeper) = &mut self.keeper
                        && keeper.is_due().await
                    {
                        self.remember();
                    }
                }
                Some(question) = questions.0.recv() => question(&mut self),
            }
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.flush(|exchange| self.engine.observe(&exchange));
        }
        self.advance(now());
        if let Some(keeper) = &mut self.keeper {
            keeper.settle().await;
        }
        self.remember();
        if let Some(keeper) = &mut self.keeper {
            keeper.settle().await;
        }
        self.kernel.as_mut().map_or(Ok(()), Kernel::detach)
    }

    /// Takes in finished exchanges.
    pub fn take(&mut self, exchanges: &[Exchange]) {
        for exchange in exchanges {
            self.engine.observe(exchange);
        }
    }

    /// Moves the time to `now`; what changed goes to the watchers and to the report.
    pub fn advance(&mut self, now: Nanos) {
        for anomaly in self.engine.advance(now) {
            self.publish(anomaly);
        }
    }

    /// From now on these mutes and acknowledgements hold, beside those of the settings.
    pub fn attend(&mut self, said: Said) {
        self.engine.attend(said);
        self.advance(now());
    }

    /// Has the state written.
    fn remember(&mut self) {
        let Some(keeper) = &mut self.keeper else { return };
        let begun = Instant::now();
        let anomalies = self.findings.all();
        if let Some(bytes) = state::encode(&self.engine, anomalies.iter().map(AsRef::as_ref)) {
            keeper.write(bytes, begun.elapsed());
        }
    }

    /// Hands one change to whoever wants it.
    pub(crate) fn publish(&mut self, anomaly: Anomaly) {
        tracing::info!(
            id = anomaly.id,
            kind = %anomaly.kind,
            state = ?anomaly.state,
            severity = ?anomaly.severity,
            client = %anomaly.client,
            muted = anomaly.muted.is_some(),
            "anomaly"
        );
        let reach = anomaly.reach;
        let anomaly = Arc::new(convert::anomaly(anomaly, &self.node));
        if let Some(report) = self.report.as_ref().filter(|_| reach == Reach::Fleet) {
            report.push(&anomaly);
        }
        self.findings.add(anomaly);
        if let Some(keeper) = &mut self.keeper {
            keeper.hurry();
        }
    }

    /// Everyone of whom an exchange has ended, ascending.
    pub fn client_ids(&self) -> Vec<ClientId> {
        self.engine.client_ids().collect()
    }

    /// Goes on with a walk over the others, of whom the kernel has seen packets, and adds those in the next piece to
    /// `found`.
    pub fn walk_clients(&mut self, walk: &mut ClientWalk, found: &mut Vec<ClientId>) -> Progress {
        let known = found.len();
        let progress = self.kernel.as_ref().map(|kernel| kernel.walk_clients(walk, found));
        let mut place = 0;
        found.retain(|id| {
            place += 1;
            place <= known || !self.engine.knows(id)
        });
        self.progress(progress)
    }

    /// Goes on with a walk in search of a client's flows.
    pub fn walk_flows(&mut self, walk: &mut FlowWalk) -> Progress {
        let progress = self.kernel.as_ref().map(|kernel| kernel.walk_flows(walk));
        self.progress(progress)
    }

    /// How a walk goes on: not at all when the kernel cannot be read.
    fn progress(&mut self, progress: Option<Result<Progress, KernelError>>) -> Progress {
        match progress {
            Some(Ok(progress)) => progress,
            Some(Err(error)) => {
                self.failed(&error);
                Progress::End
            }
            None => Progress::End,
        }
    }

    /// Where these clients stand; those forgotten meanwhile are left out.
    pub fn standings(&self, ids: &[ClientId]) -> Vec<Standing> {
        let now = now();
        ids.iter().filter_map(|id| self.standing(id, now)).collect()
    }

    fn standing(&self, id: &ClientId, now: Nanos) -> Option<Standing> {
        let view = match self.engine.client(id, now) {
            Some(view) => view,
            None => self.silent(&self.counters(id).ok()??),
        };
        let minute = view.windows.iter().find(|window| window.window == Duration::from_mins(1));
        Some(Standing {
            id: *id,
            rate: minute.map_or(0.0, |window| window.request_rate),
            requests: view.fingerprint.totals.requests,
            request_bytes: view.fingerprint.totals.request_bytes,
            answer_bytes: view.fingerprint.totals.answer_bytes,
            last_seen: view.fingerprint.last_seen,
            cv: view.windows.iter().rev().find_map(|window| window.interarrival_cv),
        })
    }

    /// These clients as messages; those forgotten meanwhile are left out.
    pub fn clients(&mut self, ids: &[ClientId]) -> Vec<v1::Client> {
        ids.iter().filter_map(|id| self.client(id)).map(|known| known.client).collect()
    }

    /// One client in depth, without its flows.
    pub fn client_in_depth(&mut self, id: &ClientId) -> Option<v1::GetClientResponse> {
        let Known { client, mut recent, fingerprint } = self.client(id)?;
        hydrometer_engine::tell_truncated(&mut recent);
        Some(v1::GetClientResponse {
            anomalies: self.findings.of(&client.address),
            client: Some(client),
            flows: Vec::new(),
            exchanges: recent.iter().map(convert::exchange).collect(),
            fingerprint: Some(convert::fingerprint(&fingerprint)),
        })
    }

    fn client(&mut self, id: &ClientId) -> Option<Known> {
        let counters = match self.counters(id) {
            Ok(counters) => counters,
            Err(error) => {
                self.failed(&error);
                None
            }
        };
        let mut view = match (self.engine.client(id, now()), &counters) {
            (Some(view), _) => view,
            (None, Some(counters)) => self.silent(counters),
            (None, None) => return None,
        };
        let recent = std::mem::take(&mut view.recent);
        let fingerprint = view.fingerprint.clone();
        let open = self.findings.open_of(&id.to_string());
        Some(Known { client: convert::client(view, counters.as_ref(), open), recent, fingerprint })
    }

    /// A client of which no exchange has ended, or a proxy whose exchanges are all its clients'.
    fn silent(&self, counters: &ClientSnapshot) -> ClientView {
        let is_proxy = self.kernel.as_ref().is_some_and(|kernel| kernel.is_proxy(&counters.id));
        let mut view = Engine::silent_client(counters.id, counters.first_seen, now());
        view.fingerprint.last_seen = counters.last_seen;
        view.fingerprint.identity = if is_proxy { Identity::Proxy } else { Identity::Direct };
        view
    }

    fn counters(&self, id: &ClientId) -> Result<Option<ClientSnapshot>, KernelError> {
        self.kernel.as_ref().map_or(Ok(None), |kernel| kernel.client(id))
    }

    /// What was found so far, oldest first, and what will be.
    pub fn findings(&self) -> (Vec<Arc<v1::Anomaly>>, broadcast::Receiver<Arc<v1::Anomaly>>) {
        (self.findings.all(), self.findings.watch())
    }

    /// The anomaly with this identifier, while it is held.
    pub fn anomaly(&self, id: &str) -> Option<Arc<v1::Anomaly>> {
        self.findings.get(id)
    }

    /// Anomalies open and not muted, and how many were raised so far, by the number of their kind.
    pub fn standing_anomalies(&self) -> (Vec<Arc<v1::Anomaly>>, BTreeMap<i32, u64>) {
        (self.findings.standing(), self.findings.raised())
    }

    /// Anomalies open now.
    pub fn open_anomalies(&self) -> usize {
        self.findings.open()
    }

    /// The account for the status.
    pub fn account(&mut self) -> Account {
        let kernel = match self.kernel.as_ref().map(Kernel::status) {
            Some(Ok(status)) => Some(status),
            Some(Err(error)) => {
                self.failed(&error);
                None
            }
            None => None,
        };
        let engine = self.engine.stats();
        Account {
            kernel,
            attachments: self.kernel.as_ref().map_or_else(Vec::new, Kernel::attachments),
            interfaces: self.kernel.as_ref().map(Kernel::interfaces),
            // Since the walk some may have come to the engine, whether the kernel had seen them by then or not.
            clients: self.clients.max(engine.clients),
            engine,
            open_anomalies: self.findings.open(),
            muted_anomalies: self.findings.muted(),
            failures: self.failures,
            state: self.keeper.as_ref().map(|keeper| keeper.account().clone()),
        }
    }

    fn drain(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            kernel.drain(|exchange| self.engine.observe(&exchange));
        }
    }

    fn sweep(&mut self, quiet: Duration) {
        let Some(kernel) = &mut self.kernel else { return };
        kernel.sweep(quiet, |exchange| self.engine.observe(&exchange));
        if let Some(others) = kernel.sweep_clients(|id| self.engine.knows(id)) {
            self.clients = self.engine.stats().clients + others as usize;
        }
    }

    /// A kernel that cannot be read is reported; the agent goes on with what it has.
    fn failed(&mut self, error: &KernelError) {
        self.failures += 1;
        tracing::warn!(
            error = error as &dyn std::error::Error,
            failures = self.failures,
            "cannot read the kernel"
        );
    }
}

/// The wall clock, read here and passed on.
pub fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

async fn ready(kernel: Option<&mut Kernel>) -> Result<(), KernelError> {
    match kernel {
        Some(kernel) => kernel.ready().await,
        None => std::future::pending().await,
    }
}
