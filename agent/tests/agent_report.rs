//! What reaches the control plane: the real reporter against the real ingest and store.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a test is not a library")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use hydrometer_agent::{
    config::ControlPlane,
    outbox::Outbox,
    pipeline::{self, Pipeline},
    report::Reporter,
};
use hydrometer_control_plane::{ingest::Ingest, store::Store, writer::Writer};
use hydrometer_engine::EngineConfig;
use hydrometer_proto::v1::{Anomaly, control_plane_server::ControlPlaneServer};
use tokio::{net::UnixListener, runtime::Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

const BOUND: Duration = Duration::from_secs(30);

/// The ingest side of a control plane on a runtime of its own, so that it can be cut off.
struct Control {
    runtime: Runtime,
    store: Arc<Store>,
}

impl Control {
    fn start(folder: &Path) -> Self {
        let socket = socket(folder);
        let _ = std::fs::remove_file(&socket);
        let runtime = Runtime::new().unwrap();
        let store = Arc::new(open(&folder.join("control.redb")));
        let _entered = runtime.enter();
        let (writer, _writing) = Writer::start(Arc::clone(&store));
        let ingest = ControlPlaneServer::new(Ingest::new(writer, CancellationToken::new()));
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        runtime.spawn(Server::builder().add_service(ingest).serve_with_incoming(incoming));
        Self { runtime, store }
    }

    /// Ends it without a word to anyone.
    fn cut(self) {
        self.runtime.shutdown_background();
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}

/// The last run's writing thread may hold the store for a moment.
fn open(path: &Path) -> Store {
    let since = Instant::now();
    loop {
        match Store::open(path) {
            Ok(store) => return store,
            Err(error) => assert!(since.elapsed() < BOUND, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// A reporter for an agent without a kernel side.
fn report(folder: &Path) -> (Outbox, ControlPlane) {
    let (handle, questions) = pipeline::questions();
    let outbox = Outbox::open(&folder.join("spool"), 64 << 20).unwrap();
    tokio::spawn(outbox.clone().write());
    let pipeline = Pipeline::new(None, EngineConfig::default(), "n".to_owned(), Some(outbox.clone()));
    tokio::spawn(pipeline.run(questions, Duration::from_secs(1), CancellationToken::new()));
    let control_plane = ControlPlane::Unix(socket(folder));
    let reporter = Reporter {
        control_plane: control_plane.clone(),
        node: "n".to_owned(),
        outbox: outbox.clone(),
        pipeline: handle,
    };
    tokio::spawn(reporter.run(CancellationToken::new(), CancellationToken::new()));
    (outbox, control_plane)
}

fn push(outbox: &Outbox, ids: std::ops::Range<u64>) {
    for id in ids {
        outbox.push(&Anomaly {
            id: format!("a{id}"),
            node: "n".to_owned(),
            revision: 1,
            ..Anomaly::default()
        });
    }
}

async fn poll(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < BOUND, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_stored_once_in_order_although_the_control_plane_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, control_plane) = report(folder.path());
    push(&outbox, 0..500);
    let control = Control::start(folder.path());
    poll("some are stored", || outbox.link(&control_plane).acked_sequence > 100).await;
    push(&outbox, 500..1_000);
    control.cut();
    poll("the cut is noticed", || !outbox.link(&control_plane).connected).await;
    push(&outbox, 1_000..1_100);
    let control = Control::start(folder.path());
    tokio::time::timeout(BOUND, outbox.delivered()).await.unwrap();

    let link = outbox.link(&control_plane);
    assert_eq!((link.last_sequence, link.acked_sequence, link.pending), (1_100, 1_100, 0));
    assert_eq!((link.connected, link.connects, link.last_error.as_str()), (true, 2, ""));
    let newest = *control.store.newest().borrow();
    let mut stored = Vec::new();
    let mut after = 0;
    while after < newest {
        let page = control.store.page(after, newest).unwrap();
        after = page.last().unwrap().position;
        stored.extend(page.into_iter().map(|row| row.anomaly.id));
    }
    let expected: Vec<_> = (0..1_100).map(|id| format!("a{id}")).collect();
    assert_eq!(stored, expected);
    control.cut();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_down_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, control_plane) = report(folder.path());
    push(&outbox, 0..1);
    outbox.written().await;
    poll("the reason is told", || !outbox.link(&control_plane).last_error.is_empty()).await;
    let link = outbox.link(&control_plane);
    assert_eq!((link.connected, link.pending, link.connects), (false, 1, 0));
    assert!(link.last_error.contains("cannot reach the control plane on unix:"), "{}", link.last_error);
    assert!(link.last_error.contains("No such file"), "{}", link.last_error);
}
