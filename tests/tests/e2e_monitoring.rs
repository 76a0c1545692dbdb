//! Alerts and dashboards, by a real Prometheus that scrapes a running agent and a running control plane; and what
//! probes are told. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hydrometer_tests::{
    agent::{self, Agent},
    binary, curl,
    net::{Namespace, Network, SERVER_INTERFACE},
    nginx::{Nginx, Security},
    process::{Process, wait_for},
    prometheus::Prometheus,
    python,
};
use serde_json::Value;

const AGENT: &str = "127.0.0.1:9464";
const CONTROL: &str = "127.0.0.1:9465";
/// For all figures to have come twice, on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Where the chart keeps alerts and dashboards.
fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/hydrometer/files")
}

/// A control plane with a sink, and its metrics on [`CONTROL`].
fn control(namespace: &Namespace, folder: &Path) -> Process {
    let settings = folder.join("control.toml");
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "listen = [\"unix:{}\"]\nstore = \"{}\"\nmetrics = \"{CONTROL}\"\n\n[[sink]]\nname = \"archive\"\n\
         file = {{ path = \"{}\" }}\n",
        at("control.sock"),
        at("control.redb"),
        at("anomalies.jsonl"),
    );
    fs::write(&settings, text).unwrap();
    let mut command = namespace.command(binary::path("hydrometer-control").unwrap());
    command.arg("--config").arg(settings);
    let mut process = Process::spawn("control", command, folder).unwrap();
    let is_ready =
        |control: &Process| control.output().contains("hydrometer-control listening on").then_some(());
    process.ready(Duration::from_secs(30), is_ready).unwrap();
    process
}

/// An agent that reports to it, with its metrics on [`AGENT`] and all clients named.
fn watching(namespace: &Namespace, folder: &Path) -> Agent {
    let control = format!("unix:{}", folder.join("control.sock").display());
    let spool = folder.join("spool").display().to_string();
    let reporting = ["--control-plane", &control, "--control-plane-spool", &spool];
    let metrics = ["--metrics", AGENT, "--metrics-clients", "10"];
    let arguments = agent::usual_arguments().into_iter();
    Agent::start(
        namespace,
        folder,
        arguments.chain(reporting.map(str::to_owned)).chain(metrics.map(str::to_owned)),
    )
    .unwrap()
}

/// What a person asks of a dashboard, with its variables at "all".
fn dashboard_queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    let mut dashboards = BTreeSet::new();
    for entry in fs::read_dir(files().join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = format!("{name}: {}", panel["title"].as_str().unwrap());
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{place} asks nothing");
            for target in targets {
                let query = target["expr"].as_str().unwrap();
                let query = query.replace("$__rate_interval", "1m");
                let query = query.replace("$instance", ".*").replace("$client", ".*");
                assert!(!query.contains('$'), "{place}: a variable is not known: {query}");
                queries.push((place.clone(), query));
            }
        }
        assert!(
            dashboards.insert(dashboard["uid"].as_str().unwrap().to_owned()),
            "{name}: the uid is another's"
        );
    }
    assert_eq!(dashboards.len(), 4);
    queries
}

/// What each alert compares, without the comparison: that has to be there also while all is well.
fn alert_queries() -> Vec<(String, String)> {
    let rules = fs::read_to_string(files().join("alerts.yaml")).unwrap();
    let mut queries = Vec::new();
    let mut alert = String::new();
    for line in rules.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            name.clone_into(&mut alert);
        }
        let Some(expression) = line.strip_prefix("expr: ") else { continue };
        let (compared, bound) = expression.rsplit_once(' ').unwrap();
        assert!(bound.parse::<f64>().is_ok(), "{alert}: {expression} does not end with a number");
        let (compared, comparison) = compared.rsplit_once(' ').unwrap();
        assert!(["==", ">"].contains(&comparison), "{alert}: {expression} compares nothing");
        queries.push((alert.clone(), compared.to_owned()));
    }
    assert_eq!(queries.len(), rules.matches("- alert: ").count());
    assert!(!queries.is_empty());
    queries
}

#[test]
fn every_query_of_dashboards_and_alerts_gets_data_from_running_programs() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::new().unwrap();
    let (server, client) = (network.server(), network.first_client());
    let nginx = Nginx::start_alone(server, folder.path(), Security::Plain).unwrap();
    let _control = control(server, folder.path());
    let mut agent = watching(server, folder.path());
    curl::ask(network.client(), &nginx, folder.path(), client.v4.into(), &[0, 0, 0]).unwrap();
    curl::ask(network.client(), &nginx, folder.path(), client.v6.into(), &[0]).unwrap();
    let targets = [AGENT, CONTROL].map(|target| target.parse::<SocketAddr>().unwrap());
    let prometheus =
        Prometheus::start(server, folder.path(), &targets, &files().join("alerts.yaml")).unwrap();

    let mut waiting = dashboard_queries();
    waiting.extend(alert_queries());
    let count = waiting.len();
    let done = wait_for("data for every query", PATIENCE, || {
        let mut left = Vec::new();
        for (place, query) in waiting.drain(..) {
            // One that cannot be read never will be.
            if prometheus.query(&query)?.is_empty() {
                left.push((place, query));
            }
        }
        waiting = left;
        Ok(waiting.is_empty().then_some(()))
    });
    assert!(done.is_ok(), "{done:?}: without data: {waiting:#?}");
    println!("{count} queries have data");

    // The figures are those of `hydrometer status`, to the label.
    let exchanges = prometheus.query("hydrometer_exchanges_total").unwrap();
    assert_eq!(exchanges[0]["value"][1], agent.status().unwrap().exchanges.to_string());
    let named =
        prometheus.query(&format!("hydrometer_client_request_rate{{client=\"{}\"}}", client.v4)).unwrap();
    assert_eq!(named.len(), 1);

    // An alert is raised when its cause is there.
    agent.process().kill().unwrap();
    let pending = "ALERTS{alertname=\"HydrometerDown\",instance=\"127.0.0.1:9464\"}";
    wait_for("the alert of an agent that is gone", PATIENCE, || {
        Ok((!prometheus.query(pending)?.is_empty()).then_some(()))
    })
    .unwrap();
    assert_eq!(prometheus.query("ALERTS{instance=\"127.0.0.1:9465\"}").unwrap(), [Value::Null; 0]);
}

/// What `path` answers, first its status.
fn ask(namespace: &Namespace, path: &str) -> (String, String) {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--max-time", "20", "--write-out", "\n%{http_code}"]);
    let output = command.arg(format!("http://{AGENT}{path}")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

/// Readiness as a kubelet's gRPC probe sees it.
fn grpc_health(namespace: &Namespace, service: &str) -> String {
    let program = "import sys, grpc\n\
        channel = grpc.insecure_channel(sys.argv[1])\n\
        check = channel.unary_unary('/grpc.health.v1.Health/Check')\n\
        name = sys.argv[2].encode()\n\
        answer = check(bytes([10, len(name)]) + name if name else b'', timeout=20)\n\
        print({b'\\x08\\x01': 'SERVING', b'\\x08\\x02': 'NOT_SERVING'}[answer])\n";
    let mut command = namespace.command(python::interpreter().unwrap());
    let output = command.args(["-c", program, AGENT, service]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn an_agent_whose_interface_has_gone_lives_and_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::new().unwrap();
    let server = network.server();
    let arguments = agent::usual_arguments().into_iter().chain(["--metrics".to_owned(), AGENT.to_owned()]);
    let _agent = Agent::start(server, folder.path(), arguments).unwrap();
    assert_eq!(ask(server, "/readyz"), ("200".to_owned(), "ok\n".to_owned()));
    assert_eq!(
        (grpc_health(server, ""), grpc_health(server, "liveness")),
        ("SERVING".into(), "SERVING".into())
    );
    let page = ask(server, "/metrics").1;
    assert!(!page.contains("hydrometer_client_request_rate{"), "clients are named without being asked for");

    server.ip(&format!("link delete {SERVER_INTERFACE}")).unwrap();
    let status = wait_for("the agent to say that it is not ready", PATIENCE, || {
        let (status, said) = ask(server, "/readyz");
        Ok((status != "200").then_some((status, said)))
    })
    .unwrap();
    assert_eq!(status.0, "503");
    assert!(status.1.contains("no interface is watched"), "{}", status.1);
    assert_eq!(grpc_health(server, ""), "NOT_SERVING");
    assert_eq!((ask(server, "/livez").0, grpc_health(server, "liveness")), ("200".into(), "SERVING".into()));
}

#[test]
fn every_alert_is_raised_by_its_cause() {
    let rules = fs::read_to_string(files().join("alerts.yaml")).unwrap();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/alerts.yaml");
    let covered = fs::read_to_string(&cases).unwrap();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(
            covered.contains(&format!("alertname: {alert}\n")),
            "{alert} is in no case of {}",
            cases.display()
        );
    }
    let output = Command::new("promtool").args(["test", "rules"]).arg(&cases).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
