//! The port for whoever watches a program: its figures for Prometheus, and its health for probes.
//!
//! In flow questions over HTTP/1 and HTTP/2 without TLS, out flows what a [`Watched`] program says of itself:
//! `/metrics` (OpenMetrics), `/livez`, `/readyz`, and `grpc.health.v1` with the services "" (readiness) and "liveness".
//! Invariant: every question is answered within [`PATIENCE`], also by a program that hangs.
#![forbid(unsafe_code)]

mod page;
mod process;

use std::{fmt, future::Future, io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

pub use self::page::{Labels, Page, labels};

/// How long the watched program may take to answer. A kubelet's probe waits for longer (`timeoutSeconds` of the manifests).
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The service of `grpc.health.v1` that tells liveness; the one without a name tells readiness.
pub const LIVENESS: &str = "liveness";

/// A program that can say how it fares.
pub trait Watched: Send + Sync + 'static {
    /// Its figures now.
    fn figures(&self) -> impl Future<Output = Result<Page, Unwell>> + Send;
    /// Whether it runs at all: one that does not should be started again.
    fn live(&self) -> impl Future<Output = Result<(), Unwell>> + Send;
    /// Whether data flows through it.
    fn ready(&self) -> impl Future<Output = Result<(), Unwell>> + Send;
}

/// What is wrong with the watched program, for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwell(pub String);

/// Answers on `listener` until `stop`.
pub async fn serve<W: Watched>(listener: TcpListener, watched: W, stop: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router(Arc::new(watched))).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router<W: Watched>(watched: Arc<W>) -> Router {
    Router::new()
        .route("/metrics", get(metrics::<W>))
        .route("/livez", get(live::<W>))
        .route("/readyz", get(ready::<W>))
        .with_state(Arc::clone(&watched))
        .route_service("/grpc.health.v1.Health/{method}", HealthServer::new(Probe(watched)))
}

async fn metrics<W: Watched>(State(watched): State<Arc<W>>) -> Response {
    match bounded(watched.figures()).await {
        Ok(page) => (
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            page.text(),
        )
            .into_response(),
        Err(unwell) => refusal(&unwell),
    }
}

async fn live<W: Watched>(State(watched): State<Arc<W>>) -> Response {
    answer(bounded(watched.live()).await)
}

async fn ready<W: Watched>(State(watched): State<Arc<W>>) -> Response {
    answer(bounded(watched.ready()).await)
}

fn answer(health: Result<(), Unwell>) -> Response {
    health.map_or_else(|unwell| refusal(&unwell), |()| "ok\n".into_response())
}

fn refusal(unwell: &Unwell) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{unwell}\n")).into_response()
}

async fn bounded<T>(question: impl Future<Output = Result<T, Unwell>>) -> Result<T, Unwell> {
    let late = || Unwell(format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, question).await.unwrap_or_else(|_| Err(late()))
}

/// Health as a kubelet's gRPC probe asks for it.
struct Probe<W>(Arc<W>);

#[tonic::async_trait]
impl<W: Watched> Health for Probe<W> {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        let health = match request.get_ref().service.as_str() {
            "" => bounded(self.0.ready()).await,
            LIVENESS => bounded(self.0.live()).await,
            other => return Err(Status::not_found(format!("{other} is neither \"\" nor {LIVENESS}"))),
        };
        let status = if health.is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(tonic::Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = Never;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<tonic::Response<Never>, Status> {
        // What the protocol says a server without it shall answer: clients then ask again and again.
        Err(Status::new(Code::Unimplemented, "ask with Check"))
    }
}

/// The stream that is never begun.
type Never = tonic::codegen::BoxStream<HealthCheckResponse>;

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };
    use tonic::transport::Endpoint;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;

    /// How the program under watch fares.
    enum Fares {
        Well,
        Dry,
        Hung,
    }

    impl Watched for Fares {
        async fn figures(&self) -> Result<Page, Unwell> {
            self.live().await?;
            let mut page = Page::new();
            page.counter("losses", "What was lost", [(labels([("stage", "ring \"full\"")]), 7)]);
            Ok(page)
        }

        async fn live(&self) -> Result<(), Unwell> {
            if matches!(self, Self::Hung) { pending().await } else { Ok(()) }
        }

        async fn ready(&self) -> Result<(), Unwell> {
            self.live().await?;
            if matches!(self, Self::Dry) { Err(Unwell("nothing is watched".into())) } else { Ok(()) }
        }
    }

    /// What `path` and the two gRPC services answer, from a server on a port of its own.
    async fn ask(fares: Fares, path: &str) -> (String, [i32; 2]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, fares, stop.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let mut client = HealthClient::new(channel);
        let mut health = [0; 2];
        for (service, status) in ["", LIVENESS].into_iter().zip(&mut health) {
            let request = HealthCheckRequest { service: service.into() };
            *status = client.check(request).await.unwrap().into_inner().status;
        }
        let unknown = client.check(HealthCheckRequest { service: "other".into() }).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        drop(client);
        stop.cancel();
        serving.await.unwrap().unwrap();
        (text, health)
    }

    const SERVING: i32 = ServingStatus::Serving as i32;
    const NOT_SERVING: i32 = ServingStatus::NotServing as i32;

    #[tokio::test]
    async fn one_port_answers_prometheus_and_both_kinds_of_probes() {
        let (text, health) = ask(Fares::Well, "/metrics").await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.contains("hydrometer_losses_total{stage=\"ring \\\"full\\\"\"} 7\n"), "{text}");
        assert!(text.contains("process_cpu_seconds_total "), "{text}");
        assert_eq!(health, [SERVING, SERVING]);
        assert!(ask(Fares::Well, "/nothing").await.0.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn a_program_without_data_lives_and_is_not_ready() {
        let (text, health) = ask(Fares::Dry, "/readyz").await;
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("nothing is watched"), "{text}");
        assert_eq!(health, [NOT_SERVING, SERVING]);
        assert!(ask(Fares::Dry, "/livez").await.0.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_neither_live_nor_ready() {
        for path in ["/livez", "/readyz", "/metrics"] {
            let (text, health) = ask(Fares::Hung, path).await;
            assert!(text.starts_with("HTTP/1.1 503") && text.contains("no answer"), "{text}");
            assert_eq!(health, [NOT_SERVING, NOT_SERVING]);
        }
    }
}
