//! A receiver over HTTP whose answers the test chooses.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tonic::codegen::Bytes;

/// A request that was answered with success.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

/// The answer to a body: status and content. None means that there is never one.
pub(crate) type Answer = Box<dyn Fn(&str) -> Option<(u16, String)> + Send>;

/// A receiver.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    answer: Arc<Mutex<Answer>>,
}

impl Receiver {
    pub(crate) async fn start(answer: impl Fn(&str) -> Option<(u16, String)> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
            answer: Arc::new(Mutex::new(Box::new(answer))),
        };
        let serving = receiver.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let receiver = serving.clone();
                let service = service_fn(move |request| receiver.clone().take(request));
                let connection = hyper::server::conn::http1::Builder::new();
                // A sink that gives up breaks the connection.
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        receiver
    }

    /// Answers differently from now on.
    pub(crate) fn answer(&self, answer: impl Fn(&str) -> Option<(u16, String)> + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    async fn take(self, request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
        let path = request.uri().path().to_owned();
        let headers = request.headers().iter();
        let headers =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        let body = String::from_utf8(request.into_body().collect().await?.to_bytes().into()).unwrap();
        let answer = (self.answer.lock().unwrap())(&body);
        let Some((status, content)) = answer else { std::future::pending().await };
        if status < 300 {
            self.received.lock().unwrap().push(Received { path, headers, body });
        }
        Ok(Response::builder().status(status).body(Full::from(content)).unwrap())
    }
}

/// Takes everything.
#[allow(clippy::unnecessary_wraps, reason = "it is an answer")]
pub(crate) fn taken(_: &str) -> Option<(u16, String)> {
    Some((200, "{\"text\":\"Success\",\"code\":0}".into()))
}
