//! Clients: the real `openai` Python package, each in a process of its own with a source address of its own.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{net::Namespace, nginx::Nginx, process::Process, python};

/// When requests start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each worker starts the next request when the last one ended.
    BackToBack,
    /// At fixed times.
    Interval(Duration),
    /// Up to this many in a row, then a pause of random length with this mean.
    Bursty(u32, Duration),
}

/// Which requests are streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// All.
    Always,
    /// None.
    Never,
    /// Every other one, by chance.
    Mixed,
}

/// How one client behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// When requests start.
    pub pace: Pace,
    /// Requests at a time.
    pub concurrency: u32,
    /// Stop after this many.
    pub requests: Option<u32>,
    /// Start none after this time.
    pub duration: Option<Duration>,
    /// Which are streamed.
    pub stream: Stream,
    /// Ask for log-probabilities, with this many alternatives.
    pub top_logprobs: Option<u32>,
    /// Tokens an answer.
    pub max_tokens: u32,
    /// Fewest and most words of a question.
    pub prompt_words: (u32, u32),
    /// Whether connections are used again.
    pub keep_alive: KeepAlive,
    /// Seed of all chance.
    pub seed: u64,
}

/// Whether connections are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// A pool as large as the concurrency.
    Pool,
    /// A connection for every request.
    No,
}

impl Default for Behaviour {
    /// One request after the other, not streamed, without an end: set `requests` or `duration`.
    fn default() -> Self {
        Self {
            pace: Pace::BackToBack,
            concurrency: 1,
            requests: None,
            duration: None,
            stream: Stream::Never,
            top_logprobs: None,
            max_tokens: 16,
            prompt_words: (4, 60),
            keep_alive: KeepAlive::Pool,
            seed: 1,
        }
    }
}

/// A running client.
#[derive(Debug)]
pub struct Client {
    process: Process,
    log: PathBuf,
    address: IpAddr,
}

impl Client {
    /// Starts a client with source address `address` (see [`crate::net::Network::add_client`]) against `nginx`; its
    /// files go into `folder`.
    pub fn start(
        namespace: &Namespace,
        nginx: &Nginx,
        folder: &Path,
        address: IpAddr,
        behaviour: &Behaviour,
    ) -> Result<Self> {
        let name = format!("client-{address}");
        let log = folder.join(format!("{name}.jsonl"));
        let mut command = namespace.command(python::interpreter()?);
        command.arg(python::script("openai_client.py"));
        command.arg("--base-url").arg(nginx.base_url(address)).arg("--ca").arg(nginx.certificate());
        command.arg("--source").arg(address.to_string()).arg("--log").arg(&log);
        command.args(behaviour.arguments());
        if nginx.security().is_http2() {
            command.arg("--http2");
        }
        let process = Process::spawn(&name, command, folder)?;
        Ok(Self { process, log, address })
    }

    /// Its source address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it has done all its requests, each with success, and returns them.
    pub fn finish(&mut self, limit: Duration) -> Result<Vec<Call>> {
        self.process.succeed(limit)?;
        self.calls()
    }

    /// The requests it has finished so far.
    pub fn calls(&self) -> Result<Vec<Call>> {
        let text = match fs::read_to_string(&self.log) {
            Ok(text) => text,
            // It is still starting.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.log.display())),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("not a line of a client's log: {line}"))
            })
            .collect()
    }
}

/// One request, as the client saw it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Call {
    /// When it began, seconds since the epoch.
    pub start: f64,
    /// Seconds to the head of the answer.
    pub headers_s: Option<f64>,
    /// Seconds to the first chunk of a streamed answer.
    pub first_chunk_s: Option<f64>,
    /// Seconds to the end.
    pub duration_s: f64,
    /// Chunks of a streamed answer.
    pub chunks: u64,
    /// Whether it was streamed.
    pub stream: bool,
    /// What went wrong.
    pub error: Option<String>,
}

impl Behaviour {
    fn arguments(&self) -> Vec<String> {
        let pace = match self.pace {
            Pace::BackToBack => "back-to-back".to_owned(),
            Pace::Interval(interval) => format!("interval:{}", interval.as_secs_f64()),
            Pace::Bursty(most, pause) => format!("bursty:{most}:{}", pause.as_secs_f64()),
        };
        let stream = match self.stream {
            Stream::Always => "always",
            Stream::Never => "never",
            Stream::Mixed => "mixed",
        };
        let (least, most) = self.prompt_words;
        let options = [
            Some(format!("--pace {pace} --stream {stream} --concurrency {}", self.concurrency)),
            Some(format!(
                "--max-tokens {} --prompt-words {least} {most} --seed {}",
                self.max_tokens, self.seed
            )),
            self.requests.map(|requests| format!("--requests {requests}")),
            self.duration.map(|duration| format!("--duration {}", duration.as_secs_f64())),
            self.top_logprobs.map(|alternatives| format!("--top-logprobs {alternatives}")),
            (self.keep_alive == KeepAlive::No).then(|| "--no-keep-alive".to_owned()),
        ];
        options.iter().flatten().flat_map(|option| option.split(' ')).map(str::to_owned).collect()
    }
}
