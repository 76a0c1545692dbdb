//! Recorded exchanges through `hydrometer detect`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use hydrometer_tests::{binary, process::fed};
use serde_json::Value;

fn recording() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/fixtures/logit_and_cadence.jsonl");
    fs::read_to_string(path).unwrap()
}

/// What the command says about these lines.
fn detect(lines: &str, output: &str) -> Output {
    let mut command = Command::new(binary::path("hydrometer").unwrap());
    command.args(["detect", "-", "-o", output]);
    fed(&mut command, lines.as_bytes()).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The changes of anomalies, and the summary behind them.
fn parts(output: &Output) -> (Vec<Value>, Value) {
    let lines = text(&output.stdout);
    let mut lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap()["summary"].take();
    (lines, summary)
}

/// Clients of which an anomaly was opened.
fn opened(output: &Output) -> BTreeSet<String> {
    let (anomalies, _) = parts(output);
    let opened = anomalies.iter().filter(|anomaly| anomaly["state"] == "open");
    opened.map(|anomaly| anomaly["client"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn recorded_offenders_are_found_and_nobody_else() {
    let output = detect(&recording(), "json");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(opened(&output).iter().eq(["198.51.100.66", "198.51.100.9"]), "{output:?}");
    let table = text(&detect(&recording(), "table").stdout);
    assert!(table.starts_with("LAST SEEN") && table.contains("198.51.100.66"), "{table}");
}

#[test]
fn a_recording_by_the_end_of_its_exchanges_says_what_one_by_their_begin_says() {
    let recording = recording();
    let end = |line: &&str| {
        let exchange: Value = serde_json::from_str(line).unwrap();
        exchange["start"].as_f64().unwrap() + exchange["duration_ms"].as_f64().unwrap() / 1e3
    };
    let mut lines: Vec<_> = recording.lines().collect();
    lines.sort_by(|a, b| end(a).total_cmp(&end(b)));
    assert_eq!(detect(&lines.join("\n"), "json").stdout, detect(&recording, "json").stdout);
}

#[test]
fn alerts_are_written_for_those_who_score_them() {
    let folder = tempfile::tempdir().unwrap();
    let (records, alerts) = (folder.path().join("records.jsonl"), folder.path().join("alerts.jsonl"));
    fs::write(&records, recording()).unwrap();
    let output = Command::new(binary::path("hydrometer").unwrap())
        .args(["detect", "--releases", "8003:60", "--alerts"])
        .args([&alerts, &records])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let alerts = fs::read_to_string(alerts).unwrap();
    let alerts = alerts.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found: BTreeSet<(String, String)> = alerts
        .map(|alert| {
            assert!(alert["t"].as_f64().unwrap() > 0.0 && alert["id"].is_string(), "{alert}");
            (alert["clients"][0].as_str().unwrap().to_owned(), alert["kind"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [("198.51.100.66", "logit_harvest"), ("198.51.100.9", "low_and_slow")];
    assert!(found.iter().map(|(client, kind)| (client.as_str(), kind.as_str())).eq(expected), "{found:?}");
}

/// What the command finds of which clients when the operator has told it `context`.
fn found_knowing(context: &str) -> BTreeSet<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let contracts = folder.path().join("contracts.toml");
    fs::write(&contracts, context).unwrap();
    let mut command = Command::new(binary::path("hydrometer").unwrap());
    command.args(["detect", "-", "-o", "json", "--contracts"]).arg(&contracts);
    let output = fed(&mut command, recording().as_bytes()).unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (anomalies, _) = parts(&output);
    let word = |anomaly: &Value, field: &str| anomaly[field].as_str().unwrap().to_owned();
    anomalies.iter().map(|anomaly| (word(anomaly, "client"), word(anomaly, "kind"))).collect()
}

#[test]
fn what_a_contract_allows_is_not_raised_and_going_over_it_is() {
    const HARVEST: (&str, &str) = ("198.51.100.66", "logit_harvest");
    const SLOW: (&str, &str) = ("198.51.100.9", "low_and_slow");
    const OVER: (&str, &str) = ("198.51.100.66", "contract_exceeded");
    let contract =
        |more: &str| format!("[[contract]]\nname = \"Acme\"\nclients = [\"198.51.100.64/30\"]\n{more}\n");
    for (context, expected) in [
        (contract(""), &[HARVEST, SLOW][..]),
        (contract("allows = [\"logprobs\"]"), &[SLOW]),
        (contract("allows = [\"logprobs\"]\nexpires = 1970-01-01T00:00:00Z"), &[HARVEST, SLOW]),
        (contract("allows = [\"batch\"]"), &[HARVEST, SLOW]),
        (contract("allows = [\"logprobs\"]\nrequests_per_day = 1e6"), &[SLOW]),
        (contract("allows = [\"logprobs\"]\nrequests_per_day = 10"), &[OVER, SLOW]),
        (contract("requests_per_minute = 1\nallows = [\"evaluation\"]"), &[OVER, SLOW]),
        ("[[infrastructure]]\nrole = \"monitoring\"\nclients = [\"198.51.100.9\"]\n".to_owned(), &[HARVEST]),
    ] {
        let found = found_knowing(&context);
        assert!(
            found.iter().map(|(client, kind)| (client.as_str(), kind.as_str())).eq(expected.iter().copied()),
            "{context}{found:?}"
        );
    }
}

#[test]
fn what_is_muted_is_counted_and_left_out_unless_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (contracts, alerts) = (folder.path().join("contracts.toml"), folder.path().join("alerts.jsonl"));
    let mute = "[[mute]]\nclients = [\"198.51.100.64/30\"]\nkinds = [\"logit_harvest\"]\nreason = \"evaluation\"\n\
                expires = 2100-01-01\n";
    fs::write(&contracts, mute).unwrap();
    let detect = |more: &[&str]| {
        let mut command = Command::new(binary::path("hydrometer").unwrap());
        command.args(["detect", "-", "-o", "json", "--contracts"]).arg(&contracts).args(more);
        fed(&mut command, recording().as_bytes()).unwrap()
    };
    let output = detect(&["--alerts", alerts.to_str().unwrap()]);
    assert!(opened(&output).iter().eq(["198.51.100.9"]), "{output:?}");
    assert!(text(&output.stderr).contains("anomalies that were muted, and are not shown without --muted: 1"));
    assert!(!fs::read_to_string(alerts).unwrap().contains("198.51.100.66"));
    let output = detect(&["--muted"]);
    assert!(opened(&output).iter().eq(["198.51.100.66", "198.51.100.9"]), "{output:?}");
    let muted =
        text(&output.stdout).lines().filter(|line| line.contains("\"reason\":\"evaluation\"")).count();
    assert!(muted > 0, "{output:?}");
}

#[test]
fn a_line_that_is_no_exchange_is_named_and_all_others_are_judged() {
    let recording = recording();
    let (whole, _) = parts(&detect(&recording, "json"));
    for (bad, reason, first) in [
        ("{\"start\":1", "not_json", "EOF while parsing"),
        ("{\"start\":1}", "missing_field", "missing field port"),
        (
            &recording.lines().next().unwrap().replace("198.51.100.11", "nobody"),
            "client",
            "field client: \"nobody\"",
        ),
    ] {
        let lines: Vec<&str> = recording.lines().collect();
        let (before, after) = lines.split_at(lines.len() / 2);
        let output = detect(&format!("{}\n{bad}\n{}\n", before.join("\n"), after.join("\n")), "json");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let (anomalies, summary) = parts(&output);
        assert_eq!(anomalies, whole);
        let fault = &summary["faults"][reason];
        assert_eq!(
            (&fault["count"], &fault["lines"]),
            (&Value::from(1), &Value::from(vec![before.len() + 1]))
        );
        assert!(fault["first"].as_str().unwrap().starts_with(first), "{fault}");
    }
}

#[test]
fn a_silence_of_years_is_passed_over() {
    let late = recording().lines().last().unwrap().replace("\"start\":", "\"start\":10000000");
    let output = detect(&format!("{}{late}", recording()), "json");
    assert!(output.status.success());
    assert_eq!(opened(&output).len(), 2);
    // The clock was set to that time: everything has closed.
    let (anomalies, _) = parts(&output);
    assert_eq!(anomalies.iter().filter(|anomaly| anomaly["state"] == "closed").count(), 2);
}

#[test]
fn nothing_is_found_in_nothing() {
    assert_eq!(text(&detect("", "table").stdout), "no anomalies\n\n0 exchanges of 0 clients\n");
    let (anomalies, summary) = parts(&detect("\n", "json"));
    assert_eq!((anomalies.len(), &summary["exchanges"]), (0, &Value::from(0)));
}
