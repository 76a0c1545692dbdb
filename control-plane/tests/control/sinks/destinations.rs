//! Every destination gets what its own kind of receiver understands.

use std::{fs, io::Write as _, process::Stdio};

use ring::hmac;
use serde_json::Value;

use super::{
    findings, http,
    http::Receiver,
    report,
    rsyslog::{NAME, Rsyslog},
    until,
};
use crate::{
    process::{Process, lines, python},
    program::{Site, poll},
};

/// Fails when the published schema does not accept these events.
fn assert_ocsf(events: &[String]) {
    let mut check =
        python("tests/python/ocsf_check.py").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = check.stdin.take().unwrap();
    input.write_all((events.join("\n") + "\n").as_bytes()).unwrap();
    drop(input);
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("{} events, 0 mistakes", events.len())), "{said}");
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn a_file_gets_every_state_as_ocsf_that_the_published_schema_accepts() {
    let site = Site::new();
    let path = site.path("anomalies.jsonl");
    let _program =
        site.start_configured(&format!("[[sink]]\nname = \"archive\"\nfile = {{ path = {path:?} }}\n"));
    let findings = findings::all();
    report(&site, findings.clone()).await;
    let status = until(&site, "archive", |sink| sink.delivered == findings.len() as u64).await;
    assert_eq!((status.kind.as_str(), status.retries, status.missed), ("file", 0, 0));
    let events = lines(&path);
    assert_ocsf(&events);
    for (event, finding) in events.iter().map(|event| json(event)).zip(&findings) {
        assert_eq!(event["finding_info"]["uid"], finding.id);
        assert_eq!(event["metadata"]["uid"], format!("{}-{}", finding.id, finding.revision));
    }
    let event = json(&events[0]);
    assert_eq!(event["finding_info"]["attacks"][0]["tactic"]["uid"], "AML.TA0010", "{event:#}");
    assert_eq!(event["attacks"][0]["sub_technique"]["uid"], "AML.T0024.002");
    let activities: Vec<_> = events.iter().take(3).map(|event| json(event)["type_uid"].clone()).collect();
    assert_eq!(activities, [200_401, 200_402, 200_403]);
    let campaign = json(&events[findings.len() - 2]);
    assert_eq!(campaign["evidences"].as_array().unwrap().len(), 40);
}

#[tokio::test]
async fn splunk_gets_events_with_the_token_which_shows_nowhere_else() {
    let site = Site::new();
    let receiver = Receiver::start(http::taken).await;
    fs::write(site.path("token"), "very-secret-token\n").unwrap();
    let program = site.start_configured(&format!(
        "log = \"trace\"\n[[sink]]\nname = \"splunk\"\nsplunk = {{ url = \"http://{}\", token_file = {:?}, index = \"ai\" }}\n",
        receiver.address,
        site.path("token")
    ));
    report(&site, findings::all()).await;
    let count = findings::all().len();
    until(&site, "splunk", |sink| sink.delivered == count as u64).await;
    let mut events = Vec::new();
    for request in receiver.received() {
        assert_eq!(request.path, "/services/collector/event");
        assert_eq!(request.headers["authorization"], "Splunk very-secret-token");
        events.extend(request.body.lines().map(json));
    }
    assert!(events.iter().all(|event| event["index"] == "ai" && event["host"] == "gpu-1"));
    assert_eq!(events[0]["time"], 1_795_525_600.25);
    assert_ocsf(&events.iter().map(|event| event["event"].to_string()).collect::<Vec<_>>());
    assert!(!program.output().contains("very-secret"), "{}", program.output());
}

#[tokio::test]
async fn elastic_gets_documents_under_lasting_identifiers() {
    let site = Site::new();
    let answer = |body: &str| {
        let items: Vec<String> =
            (0..body.lines().count() / 2).map(|_| "{\"create\":{\"status\":201}}".to_owned()).collect();
        Some((200, format!("{{\"errors\":false,\"items\":[{}]}}", items.join(","))))
    };
    let receiver = Receiver::start(answer).await;
    fs::write(site.path("key"), "elastic-key").unwrap();
    let _program = site.start_configured(&format!(
        "[[sink]]\nname = \"elastic\"\nelastic = {{ url = \"http://{}\", index = \"logs-ai-default\", api_key_file = {:?} }}\n",
        receiver.address,
        site.path("key")
    ));
    report(&site, [findings::finding("a"), findings::finding("b")]).await;
    until(&site, "elastic", |sink| sink.delivered == 2).await;
    let requests = receiver.received();
    assert!(requests.iter().all(|request| request.path == "/logs-ai-default/_bulk"));
    assert!(requests.iter().all(|request| request.headers["authorization"] == "ApiKey elastic-key"));
    let parts: Vec<Value> = requests.iter().flat_map(|request| request.body.lines().map(json)).collect();
    let ids: Vec<_> = parts.iter().step_by(2).map(|part| part["create"]["_id"].clone()).collect();
    assert_eq!(ids, ["a-1", "b-1"]);
    assert!(parts.iter().skip(1).step_by(2).all(|part| part["@timestamp"] == 1_795_525_600_250_u64));
}

#[tokio::test]
async fn a_webhook_gets_each_state_signed() {
    let site = Site::new();
    let receiver = Receiver::start(http::taken).await;
    fs::write(site.path("secret"), "shared").unwrap();
    let _program = site.start_configured(&webhook("hook", &receiver, &site, ""));
    report(&site, findings::all()).await;
    let count = findings::all().len();
    until(&site, "hook", |sink| sink.delivered == count as u64).await;
    let requests = receiver.received();
    assert_eq!(requests.len(), count);
    for request in &requests {
        let signature = &request.headers["x-hydrometer-signature"];
        let (time, digits) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let bytes: Vec<u8> = digits
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"shared");
        hmac::verify(&key, format!("{time}.{}", request.body).as_bytes(), &bytes).unwrap();
        assert_eq!(json(&request.body)["metadata"]["uid"], request.headers["x-hydrometer-delivery"]);
    }
    assert_ocsf(&requests.into_iter().map(|request| request.body).collect::<Vec<_>>());
}

/// Settings of a webhook, with `more` of them.
pub(crate) fn webhook(name: &str, receiver: &Receiver, site: &Site, more: &str) -> String {
    format!(
        "[[sink]]\nname = \"{name}\"\n{more}\nwebhook = {{ url = \"http://{}/hook\", secret_file = {:?} }}\n",
        receiver.address,
        site.path("secret")
    )
}

#[tokio::test]
async fn rsyslog_receives_ocsf_and_cef_over_tls() {
    let findings = findings::all();
    for format in ["ocsf", "cef"] {
        let (site, folder) = (Site::new(), tempfile::tempdir().unwrap());
        let mut rsyslog = Rsyslog::start(folder.path());
        let file = |name: &str| folder.path().join(name);
        let _program = site.start_configured(&format!(
            "[[sink]]\nname = \"siem\"\n[sink.syslog]\naddress = \"tls://{NAME}:{}\"\nformat = \"{format}\"\n\
             max_bytes = 65536\ntls = {{ ca = {:?}, cert = {:?}, key = {:?} }}\n",
            rsyslog.port,
            file("ca.pem"),
            file("client.pem"),
            file("client.key"),
        ));
        report(&site, findings.clone()).await;
        until(&site, "siem", |sink| sink.delivered == findings.len() as u64).await;
        let messages = rsyslog.messages(findings.len());
        assert_eq!(messages.len(), findings.len());
        assert!(messages.iter().all(|message| message.hostname == "gpu-1" && message.app == "hydrometer"));
        assert_eq!(messages[4].kind, "bulk_extraction");
        assert_eq!((messages[3].severity.as_str(), messages[1].severity.as_str()), ("crit", "warning"));
        let contents: Vec<String> = messages.into_iter().map(|message| message.content).collect();
        if format == "ocsf" {
            assert_ocsf(&contents);
        } else {
            let version = env!("CARGO_PKG_VERSION");
            let begin =
                format!("CEF:0|Hydrometer|hydrometer-control|{version}|bulk_extraction|Bulk extraction by ");
            assert!(contents[4].starts_with(&begin), "{}", contents[4]);
        }
    }
}

#[tokio::test]
async fn a_syslog_receiver_of_another_authority_gets_nothing() {
    let (site, folder) = (Site::new(), tempfile::tempdir().unwrap());
    let rsyslog = Rsyslog::start(folder.path());
    let other = crate::authority::Authority::new();
    fs::write(site.path("ca.pem"), other.pem()).unwrap();
    let _program = site.start_configured(&format!(
        "[[sink]]\nname = \"siem\"\nsyslog = {{ address = \"tls://{NAME}:{}\", tls = {{ ca = {:?} }} }}\n",
        rsyslog.port,
        site.path("ca.pem")
    ));
    report(&site, [findings::finding("a")]).await;
    let status = until(&site, "siem", |sink| sink.retries >= 2).await;
    assert!(status.error.contains("certificate") && status.delivered == 0, "{status:?}");
}

#[tokio::test]
async fn an_opentelemetry_receiver_gets_logs_also_when_it_was_not_ready_at_first() {
    let site = Site::new();
    let mut command = python("tests/python/otlp_receiver.py");
    command.args(["127.0.0.1:0", "2"]);
    let mut receiver = Process::start(command, site.path("otlp"));
    let port: u16 = poll("the receiver to listen", || {
        receiver.alive();
        receiver.lines().first()?.parse().ok()
    });
    let _program = site.start_configured(&format!(
        "[[sink]]\nname = \"otel\"\notlp = {{ url = \"http://127.0.0.1:{port}\" }}\n"
    ));
    let findings = findings::all();
    report(&site, findings.clone()).await;
    let status = until(&site, "otel", |sink| sink.delivered == findings.len() as u64).await;
    assert_eq!((status.retries, status.error.as_str()), (2, ""));
    let logs: Vec<Value> = receiver.lines().iter().skip(1).map(|line| json(line)).collect();
    assert_eq!(logs.len(), findings.len());
    let first = &logs[3];
    assert_eq!(first["resource"]["service.name"], "hydrometer-control");
    let record = &first["record"];
    assert_eq!(
        (&record["eventName"], &record["severityText"]),
        (&"hydrometer.anomaly".into(), &"critical".into())
    );
    assert_eq!(record["timeUnixNano"], "1795525600250000000");
    let attributes = record["attributes"].as_array().unwrap();
    let of = |key: &str| attributes.iter().find(|pair| pair["key"] == key).map(|pair| pair["value"].clone());
    assert_eq!(of("hydrometer.anomaly.kind").unwrap()["stringValue"], "bulk_extraction");
    assert_eq!(of("client.address").unwrap()["stringValue"], findings[3].client);
}
