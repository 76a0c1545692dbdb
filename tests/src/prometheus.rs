//! Debian's Prometheus, scraping what runs in a namespace, and what it answers.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{net::Namespace, process::Process};

/// Where it listens, inside the namespace.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
/// How long it may take to start.
const START: Duration = Duration::from_mins(1);

/// A running Prometheus. Dropped, it is asked to end and waited for.
#[derive(Debug)]
pub struct Prometheus<'a> {
    namespace: &'a Namespace,
    _process: Process,
}

impl<'a> Prometheus<'a> {
    /// Starts one in `namespace` that scrapes `targets` each second as the job `hydrometer`, and evaluates `rules`; its
    /// files are in `folder`.
    pub fn start(
        namespace: &'a Namespace,
        folder: &Path,
        targets: &[SocketAddr],
        rules: &Path,
    ) -> Result<Self> {
        let config = serde_json::json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [{"job_name": "hydrometer", "static_configs": [{"targets": targets}]}],
        });
        // JSON is YAML.
        let path = folder.join("prometheus.yml");
        fs::write(&path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = namespace.command("prometheus");
        command.arg(format!("--config.file={}", path.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        let mut process = Process::spawn("prometheus", command, folder)?;
        process.ready(START, |_| get(namespace, "/-/ready", &[]).ok().map(drop))?;
        Ok(Self { namespace, _process: process })
    }

    /// The series that `query` gives now.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let answer = get(self.namespace, "/api/v1/query", &[("query", query)])?;
        let answer: Value = serde_json::from_str(&answer).context("Prometheus answers no JSON")?;
        ensure!(answer["status"] == "success", "{query}: {}", answer["error"]);
        answer["data"]["result"].as_array().cloned().with_context(|| format!("{query} gives no series"))
    }
}

/// The answer to GET `path` with these parameters.
fn get(namespace: &Namespace, path: &str, parameters: &[(&str, &str)]) -> Result<String> {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--get"]);
    for (name, value) in parameters {
        command.arg("--data-urlencode").arg(format!("{name}={value}"));
    }
    answer(command.arg("--fail-with-body").arg(format!("http://{ADDRESS}{path}")))
}

fn answer(curl: &mut Command) -> Result<String> {
    let output = curl.output().context("cannot run curl; install it (`cargo xtask setup`)")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "Prometheus refuses: {} {said}", why.trim());
    Ok(said)
}
