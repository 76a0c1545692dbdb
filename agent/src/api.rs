//! The local gRPC service of one agent: its clients, anomalies and status.
//!
//! In flow requests on a unix socket, out flow answers made of what the pipeline knows. Invariants:
//! long lists are asked of the pipeline in pieces, so that it goes on draining; memory does not grow
//! with slow readers, who are told what they missed.

use std::{
    cmp::Ordering,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use hydrometer_engine::{Acknowledgement, ClientId, Ipv6Prefix, Mute, Target, anomaly::Remark};
use hydrometer_proto::v1::{
    AcknowledgeRequest, AcknowledgeResponse, Anomaly, AnomalyState, ClientSort, Flow, GetClientRequest,
    GetClientResponse, GetStatusRequest, GetStatusResponse, ListClientsRequest, ListClientsResponse,
    ListMutesRequest, ListMutesResponse, MuteRequest, MuteResponse, UnmuteRequest, UnmuteResponse,
    WatchAnomaliesRequest, WatchAnomaliesResponse, WatchClientsRequest, WatchClientsResponse,
    agent_server::{self, Agent, AgentServer},
};
use tokio::{
    net::UnixListener,
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, broadcast::error::RecvError},
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};
use tonic_health::pb::health_server;
use tonic_reflection::{pb, server::Builder as Reflection};

pub use crate::status::Identity;
use crate::{
    convert,
    kernel::{ClientWalk, FlowWalk, Progress},
    mutes::{Mutes, MutesError, Standing as StandingMute},
    pipeline::{self, Handle, Pipeline, Standing, Stopped},
    status,
};

/// Clients asked of the pipeline at once.
const PIECE: usize = 128;
/// How old may be what takes a walk over a map: many watchers share it.
const MAX_AGE: Duration = Duration::from_millis(250);
/// With very many clients or flows it may be older, so that at most one part in this many of the time goes into it.
const MAX_SHARE: u32 = 10;
/// Pieces of a map that are walked over at once.
const PIECES: usize = 4;
/// Streams open at once.
const MAX_STREAMS: usize = 128;
const DEFAULT_LIMIT: usize = 100;
const FLOWS: usize = 256;
/// Bytes of a reason or a name.
const MAX_TEXT: usize = 1024;
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// Serves `api` on `listener` until `stop`; streams end with the pipeline.
pub async fn serve(listener: UnixListener, api: Api, stop: CancellationToken) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServer<Api>>().await;
    let damaged = "the built-in interface description is damaged";
    let v1 = reflection(pb::v1::server_reflection_server::SERVICE_NAME).build_v1().context(damaged)?;
    let v1alpha =
        reflection(pb::v1alpha::server_reflection_server::SERVICE_NAME).build_v1alpha().context(damaged)?;
    Server::builder()
        .add_service(health_service)
        .add_service(v1)
        .add_service(v1alpha)
        .add_service(AgentServer::new(api))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await
        .context("the local API failed")
}

/// Reflection, called `own`, that lists what is served here: the descriptors know the control plane's services too.
fn reflection(own: &str) -> Reflection<'static> {
    let builder = Reflection::configure()
        .register_encoded_file_descriptor_set(hydrometer_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    [agent_server::SERVICE_NAME, health_server::SERVICE_NAME, own]
        .into_iter()
        .fold(builder, Reflection::with_service_name)
}

/// `hydrometer.v1.Agent`. Clones share everything.
#[derive(Clone, Debug)]
pub struct Api {
    pipeline: Handle,
    identity: Arc<Identity>,
    /// Where all clients stood at one moment.
    order: Shared<Arc<Vec<Standing>>>,
    /// The flows of one client at one moment.
    flows: Shared<(ClientId, Vec<Flow>)>,
    mutes: Arc<Mutex<Mutes>>,
    streams: Arc<Semaphore>,
}

/// What one found out, for those who ask soon after.
type Shared<T> = Arc<Mutex<Option<Dated<T>>>>;

/// What was found out at one moment.
#[derive(Clone, Debug)]
struct Dated<T> {
    read: Instant,
    /// How long it took to find out.
    cost: Duration,
    value: T,
}

impl<T> Dated<T> {
    /// Of now, found out since `began`.
    fn since(began: Instant, value: T) -> Self {
        Self { read: Instant::now(), cost: began.elapsed(), value }
    }

    fn is_fresh(&self) -> bool {
        self.read.elapsed() < MAX_AGE.max(self.cost * MAX_SHARE)
    }
}

impl Api {
    /// Tells what `pipeline` knows, and has it attend to what is said.
    pub fn new(pipeline: Handle, identity: Identity, mutes: Mutes) -> Self {
        let (mutes, streams) = (Arc::new(Mutex::new(mutes)), Arc::new(Semaphore::new(MAX_STREAMS)));
        Self {
            pipeline,
            identity: Arc::new(identity),
            order: Arc::default(),
            flows: Arc::default(),
            mutes,
            streams,
        }
    }

    /// The agent's status.
    pub(crate) async fn status(&self) -> Result<GetStatusResponse, Stopped> {
        let account = self.pipeline.with(Pipeline::account).await?;
        Ok(status::status(&self.identity, account))
    }

    /// Who runs the pipeline.
    pub(crate) fn pipeline(&self) -> &Handle {
        &self.pipeline
    }

    async fn list(&self, sort: ClientSort, limit: u32) -> Result<ListClientsResponse, Stopped> {
        let standings = self.standings().await?;
        let mut sorted: Vec<&Standing> = standings.iter().collect();
        sorted.sort_by(|a, b| compare(sort, a, b).then(a.id.cmp(&b.id)));
        let limit = if limit == 0 { DEFAULT_LIMIT } else { limit as usize };
        let wanted: Vec<ClientId> = sorted.iter().take(limit).map(|standing| standing.id).collect();
        let clients = self.pieces(wanted, Pipeline::clients).await?;
        Ok(ListClientsResponse {
            clients,
            total: standings.len() as u64,
            time: Some(convert::timestamp(pipeline::now())),
        })
    }

    /// Where all clients stand, a moment ago.
    pub(crate) async fn standings(&self) -> Result<Arc<Vec<Standing>>, Stopped> {
        let mut order = self.order.lock().await;
        if let Some(order) = order.as_ref().filter(|order| order.is_fresh()) {
            return Ok(Arc::clone(&order.value));
        }
        let began = Instant::now();
        let ids = self.client_ids().await?;
        let standings = Arc::new(self.pieces(ids, |pipeline, ids| pipeline.standings(ids)).await?);
        *order = Some(Dated::since(began, Arc::clone(&standings)));
        Ok(standings)
    }

    /// Everyone known, to the kernel side or the engine, ascending.
    async fn client_ids(&self) -> Result<Vec<ClientId>, Stopped> {
        let mut ids = self.pipeline.with(|pipeline| pipeline.client_ids()).await?;
        let (mut walk, mut progress) = (ClientWalk::default(), Progress::More);
        while progress == Progress::More {
            (ids, walk, progress) = self
                .pipeline
                .with(move |pipeline| {
                    let progress = walk_on(|| pipeline.walk_clients(&mut walk, &mut ids));
                    (ids, walk, progress)
                })
                .await?;
        }
        // One may have come to the engine since it was asked.
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The live flows of a client, a moment ago.
    async fn flows(&self, id: ClientId) -> Result<Vec<Flow>, Stopped> {
        let mut flows = self.flows.lock().await;
        if let Some(flows) = flows.as_ref().filter(|flows| flows.is_fresh() && flows.value.0 == id) {
            return Ok(flows.value.1.clone());
        }
        let began = Instant::now();
        let Some(mut walk) = FlowWalk::new(&id, FLOWS) else { return Ok(Vec::new()) };
        let mut progress = Progress::More;
        while progress == Progress::More {
            (walk, progress) = self
                .pipeline
                .with(move |pipeline| {
                    let progress = walk_on(|| pipeline.walk_flows(&mut walk));
                    (walk, progress)
                })
                .await?;
        }
        let found: Vec<_> = walk.found().iter().map(convert::flow).collect();
        *flows = Some(Dated::since(began, (id, found.clone())));
        Ok(found)
    }

    /// Asks about many clients, a piece at a time.
    async fn pieces<T: Send + 'static>(
        &self,
        ids: Vec<ClientId>,
        ask: fn(&mut Pipeline, &[ClientId]) -> Vec<T>,
    ) -> Result<Vec<T>, Stopped> {
        let mut answers = Vec::with_capacity(ids.len());
        for piece in ids.chunks(PIECE) {
            let piece = piece.to_vec();
            answers.extend(self.pipeline.with(move |pipeline| ask(pipeline, &piece)).await?);
        }
        Ok(answers)
    }

    async fn round(&self, sort: ClientSort, limit: u32) -> Result<WatchClientsResponse, Stopped> {
        let clients = Some(self.list(sort, limit).await?);
        let open_anomalies = self.pipeline.with(|pipeline| pipeline.open_anomalies()).await? as u64;
        Ok(WatchClientsResponse { clients, open_anomalies })
    }

    /// Changes what the operator has said: first in the file, then for the engine.
    async fn say<T: Send + 'static>(
        &self,
        change: impl FnOnce(Mutes) -> Result<(Mutes, T), MutesError> + Send + 'static,
    ) -> Result<T, Status> {
        let mut mutes = self.mutes.lock().await;
        let before = mutes.clone();
        let changed = tokio::task::spawn_blocking(move || change(before)).await;
        let changed = changed.map_err(|error| Status::internal(error.to_string()))?;
        let (after, result) = changed.map_err(|error| match error {
            MutesError::Full(_) => Status::resource_exhausted(error.to_string()),
            _ => Status::failed_precondition(error.to_string()),
        })?;
        *mutes = after;
        let said = mutes.said();
        self.pipeline.with(|pipeline| pipeline.attend(said)).await.map_err(stopping)?;
        Ok(result)
    }

    /// The anomaly with this identifier, while it is held.
    async fn anomaly(&self, id: &str) -> Result<Option<Arc<Anomaly>>, Status> {
        let id = id.to_owned();
        self.pipeline.with(move |pipeline| pipeline.anomaly(&id)).await.map_err(stopping)
    }

    fn target(&self, text: &str) -> Result<Target, Status> {
        Target::parse(text, self.identity.ipv6_prefix).map_err(|error| {
            Status::invalid_argument(format!("{error}; or the identifier of an anomaly, of 16 digits"))
        })
    }

    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MAX_STREAMS} streams are open already; close one first"))
        })
    }
}

/// Walks on by some pieces.
fn walk_on(mut piece: impl FnMut() -> Progress) -> Progress {
    let ended = (0..PIECES).any(|_| piece() == Progress::End);
    if ended { Progress::End } else { Progress::More }
}

/// Largest first, save for regularity (smallest variation first, unknown last) and address.
fn compare(sort: ClientSort, a: &Standing, b: &Standing) -> Ordering {
    match sort {
        ClientSort::Unspecified | ClientSort::Rate => b.rate.total_cmp(&a.rate),
        ClientSort::Requests => b.requests.cmp(&a.requests),
        ClientSort::AnswerBytes => b.answer_bytes.cmp(&a.answer_bytes),
        ClientSort::RequestBytes => b.request_bytes.cmp(&a.request_bytes),
        ClientSort::LastSeen => b.last_seen.cmp(&a.last_seen),
        ClientSort::Regularity => a.cv.unwrap_or(f64::INFINITY).total_cmp(&b.cv.unwrap_or(f64::INFINITY)),
        ClientSort::Address => Ordering::Equal,
    }
}

#[tonic::async_trait]
impl Agent for Api {
    type WatchClientsStream = BoxStream<'static, Result<WatchClientsResponse, Status>>;
    type WatchAnomaliesStream = BoxStream<'static, Result<WatchAnomaliesResponse, Status>>;

    async fn list_clients(
        &self,
        request: Request<ListClientsRequest>,
    ) -> Result<Response<ListClientsResponse>, Status> {
        let list = self.list(request.get_ref().sort(), request.get_ref().limit).await.map_err(stopping)?;
        Ok(Response::new(list))
    }

    async fn get_client(
        &self,
        request: Request<GetClientRequest>,
    ) -> Result<Response<GetClientResponse>, Status> {
        let id = client_id(&request.get_ref().address, self.identity.ipv6_prefix)?;
        let client = self.pipeline.with(move |pipeline| pipeline.client_in_depth(&id)).await;
        let Some(client) = client.map_err(stopping)? else {
            return Err(Status::not_found(format!("no client {id} is known to this agent")));
        };
        let flows = self.flows(id).await.map_err(stopping)?;
        Ok(Response::new(GetClientResponse { flows, ..client }))
    }

    async fn watch_clients(
        &self,
        request: Request<WatchClientsRequest>,
    ) -> Result<Response<Self::WatchClientsStream>, Status> {
        let (sort, limit) = (request.get_ref().sort(), request.get_ref().limit);
        let every = match request.get_ref().interval {
            None => Duration::from_secs(1),
            Some(span) => Duration::try_from(span).unwrap_or_default(),
        };
        if every < LEAST_INTERVAL {
            return Err(Status::invalid_argument("the interval is shorter than 100 ms; give a longer one"));
        }
        let permit = self.stream_permit()?;
        let mut due = interval(every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Each round is made when the reader has taken the one before it.
        let rounds = stream::unfold((self.clone(), due, permit), move |(api, mut due, permit)| async move {
            due.tick().await;
            let round = api.round(sort, limit).await.ok()?;
            Some((Ok(round), (api, due, permit)))
        });
        Ok(Response::new(rounds.take_until(self.pipeline.clone().stopped()).boxed()))
    }

    async fn watch_anomalies(
        &self,
        request: Request<WatchAnomaliesRequest>,
    ) -> Result<Response<Self::WatchAnomaliesStream>, Status> {
        let filter = Filter::new(request.get_ref(), self.identity.ipv6_prefix)?;
        let permit = self.stream_permit()?;
        let (so_far, changes) = self.pipeline.with(|pipeline| pipeline.findings()).await.map_err(stopping)?;
        let so_far = stream::iter(so_far.into_iter().map(Ok));
        let follow = request.get_ref().follow.then_some(changes);
        let to_come = stream::unfold((follow, permit), |(changes, permit)| async move {
            let mut changes = changes?;
            match changes.recv().await {
                Ok(anomaly) => Some((Ok(anomaly), (Some(changes), permit))),
                Err(RecvError::Lagged(missed)) => Some((Err(too_slow(missed)), (None, permit))),
                Err(RecvError::Closed) => None,
            }
        });
        let wanted = so_far.chain(to_come).filter_map(move |anomaly| {
            let is_wanted = anomaly.as_ref().map_or(true, |anomaly| filter.wants(anomaly));
            let answer = |anomaly: Arc<Anomaly>| WatchAnomaliesResponse {
                anomaly: Some(Arc::unwrap_or_clone(anomaly)),
            };
            std::future::ready(is_wanted.then(|| anomaly.map(answer)))
        });
        Ok(Response::new(wanted.boxed()))
    }

    async fn mute(&self, request: Request<MuteRequest>) -> Result<Response<MuteResponse>, Status> {
        let request = request.into_inner();
        let target = self.target(&request.target)?;
        let kind = convert::kind_of(request.kind());
        let mute = Mute { target, kind, remark: remark(request.by, request.reason, request.period)? };
        let standing = StandingMute { mute: mute.clone(), is_set: false };
        self.say(move |mutes| Ok((mutes.with(mute)?, ()))).await?;
        Ok(Response::new(MuteResponse { mute: Some(convert::mute(standing)) }))
    }

    async fn unmute(&self, request: Request<UnmuteRequest>) -> Result<Response<UnmuteResponse>, Status> {
        let request = request.into_inner();
        let (target, kind) = (self.target(&request.target)?, convert::kind_of(request.kind()));
        let named = target.clone();
        let ended = self.say(move |mutes| mutes.without(&target, kind, pipeline::now())).await?;
        if ended.is_empty() {
            let mut standing = self.mutes.lock().await.standing(pipeline::now()).into_iter();
            let is_set = standing.any(|standing| standing.mute.target == named);
            return Err(Status::not_found(if is_set {
                format!("{named} is muted in the agent's settings: take it out there")
            } else {
                format!("{named} is not muted; `hydrometer mutes` lists what is")
            }));
        }
        let ended = ended.into_iter().map(|mute| StandingMute { mute, is_set: false });
        Ok(Response::new(UnmuteResponse { mutes: ended.map(convert::mute).collect() }))
    }

    async fn list_mutes(
        &self,
        _request: Request<ListMutesRequest>,
    ) -> Result<Response<ListMutesResponse>, Status> {
        let standing = self.mutes.lock().await.standing(pipeline::now());
        Ok(Response::new(ListMutesResponse { mutes: standing.into_iter().map(convert::mute).collect() }))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        let request = request.into_inner();
        let id = request.id.to_ascii_lowercase();
        let is_open = self.anomaly(&id).await?.is_some_and(|anomaly| anomaly.state() != AnomalyState::Closed);
        if !is_open {
            return Err(Status::not_found(format!(
                "no anomaly {id} is open here; `hydrometer anomalies -o wide` shows the identifiers"
            )));
        }
        let remark = remark(request.by, request.reason, request.period)?;
        let acknowledgement = Acknowledgement { anomaly: id.clone(), remark };
        self.say(move |mutes| Ok((mutes.acknowledging(acknowledgement)?, ()))).await?;
        Ok(Response::new(AcknowledgeResponse { anomaly: self.anomaly(&id).await?.map(Arc::unwrap_or_clone) }))
    }

    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.status().await.map_err(stopping)?))
    }
}

/// Which anomalies a watcher wants.
struct Filter {
    since: Option<hydrometer_engine::Nanos>,
    kinds: Vec<i32>,
    min_severity: i32,
    client: Option<String>,
    with_muted: bool,
}

impl Filter {
    fn new(request: &WatchAnomaliesRequest, prefix: Ipv6Prefix) -> Result<Self, Status> {
        let client = match request.client.as_str() {
            "" => None,
            text => Some(client_id(text, prefix)?.to_string()),
        };
        Ok(Self {
            since: request.since.as_ref().map(convert::nanos),
            kinds: request.kinds.clone(),
            min_severity: request.min_severity,
            client,
            with_muted: request.muted,
        })
    }

    fn wants(&self, anomaly: &Anomaly) -> bool {
        let last_seen = anomaly.last_seen.as_ref().map(convert::nanos);
        self.since.is_none_or(|since| last_seen.is_some_and(|seen| seen >= since))
            && (self.kinds.is_empty() || self.kinds.contains(&anomaly.kind))
            && anomaly.severity >= self.min_severity
            && self.client.as_ref().is_none_or(|client| *client == anomaly.client)
            && (self.with_muted || anomaly.muted.is_none())
    }
}

fn client_id(text: &str, prefix: Ipv6Prefix) -> Result<ClientId, Status> {
    ClientId::parse(text, prefix)
        .map_err(|error: hydrometer_engine::ParseClientIdError| Status::invalid_argument(error.to_string()))
}

/// What somebody says from now on.
fn remark(by: String, reason: String, period: Option<prost_types::Duration>) -> Result<Remark, Status> {
    let period = period.and_then(|period| Duration::try_from(period).ok()).filter(|period| !period.is_zero());
    let Some(period) = period else {
        return Err(Status::invalid_argument("it has no end: say how long it holds"));
    };
    for (what, text) in [("reason", &reason), ("name of who says so", &by)] {
        if text.trim().is_empty() || text.len() > MAX_TEXT {
            return Err(Status::invalid_argument(format!("give a {what}, of {MAX_TEXT} bytes at most")));
        }
    }
    let at = pipeline::now();
    Ok(Remark { by, reason, at, until: at + period })
}

fn stopping(stopped: Stopped) -> Status {
    Status::unavailable(stopped.to_string())
}

fn too_slow(missed: u64) -> Status {
    Status::data_loss(format!("{missed} changes were not read in time and are gone; ask again with `since`"))
}

#[cfg(test)]
mod tests {
    use hydrometer_engine::{
        EngineConfig, Nanos,
        anomaly::{self, AnomalyKind, Evidence, Severity},
    };
    use tonic::Code;

    use super::*;

    fn change(revision: u32) -> anomaly::Anomaly {
        anomaly::Anomaly {
            id: "a".to_owned(),
            kind: AnomalyKind::Flood,
            members: Vec::new(),
            state: anomaly::State::Updated,
            severity: Severity::Low,
            score: 0.5,
            client: "203.0.113.7".parse().unwrap(),
            first_seen: Nanos(1),
            last_seen: Nanos(2),
            raised: Nanos(1),
            evidence: Evidence {
                summary: String::new(),
                features: Vec::new(),
                series: Vec::new(),
                exchanges: 1,
            },
            revision,
            muted: None,
            acknowledged: None,
            reach: anomaly::Reach::Fleet,
            impact: hydrometer_engine::Impact::default(),
            campaign: None,
            split_from: None,
            merged_into: None,
        }
    }

    fn no_mutes() -> Mutes {
        let path = std::path::Path::new("/nonexistent/mutes.json");
        Mutes::open(path, &hydrometer_engine::Context::default(), Ipv6Prefix::default()).unwrap()
    }

    fn identity() -> Identity {
        Identity {
            node: "n".to_owned(),
            started: Nanos(0),
            services: Vec::new(),
            ipv6_prefix: Ipv6Prefix::default(),
            report: None,
        }
    }

    #[tokio::test]
    async fn a_watcher_that_does_not_read_is_told_what_it_missed() {
        let (handle, questions) = pipeline::questions();
        let pipeline = Pipeline::new(None, EngineConfig::default(), "n".to_owned(), None);
        tokio::spawn(pipeline.run(questions, Duration::from_secs(1), CancellationToken::new()));
        let api = Api::new(handle.clone(), identity(), no_mutes());
        let request = WatchAnomaliesRequest { follow: true, ..WatchAnomaliesRequest::default() };
        let mut stream = api.watch_anomalies(Request::new(request)).await.unwrap().into_inner();
        handle.with(|pipeline| (1..=5_000).for_each(|n| pipeline.publish(change(n)))).await.unwrap();
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::DataLoss);
        assert!(stream.next().await.is_none(), "the stream has ended");
    }

    #[tokio::test]
    async fn streams_are_bounded_and_a_closed_one_makes_room() {
        let (handle, questions) = pipeline::questions();
        let pipeline = Pipeline::new(None, EngineConfig::default(), "n".to_owned(), None);
        tokio::spawn(pipeline.run(questions, Duration::from_secs(1), CancellationToken::new()));
        let api = Api::new(handle, identity(), no_mutes());
        let watch = async || api.watch_clients(Request::new(WatchClientsRequest::default())).await;
        let mut streams = Vec::new();
        for _ in 0..MAX_STREAMS {
            streams.push(watch().await.unwrap());
        }
        assert_eq!(watch().await.err().unwrap().code(), Code::ResourceExhausted);
        streams.pop();
        assert!(watch().await.is_ok());
    }
}
