//! The commands that judge recorded exchanges, as a user runs them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a test is not a library")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

/// One client that asks for log-probabilities, one that keeps an even pace, and others.
fn recording() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/fixtures/logit_and_cadence.jsonl")
}

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
    command.args(args).env_remove("NO_COLOR").stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// The lines of JSON that a command prints.
fn lines(args: &[&str]) -> Vec<Value> {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn everything_wrong_is_counted_by_reason_and_fails_only_where_that_is_asked() {
    let files = Files::new();
    let mut wrong: Vec<String> =
        fs::read_to_string(recording()).unwrap().lines().map(str::to_owned).collect();
    let good = wrong.len();
    let first = wrong[0].clone();
    wrong.insert(good / 2, wrong[5].replacen("\"start\":", "\"start\":-", 1));
    wrong.insert(good / 2, wrong[5].replacen("\"start\":", "\"start\":9000000", 1));
    wrong.insert(2, first.replacen('{', "{\"mood\":1,", 1).replacen("\"flow\":", "\"flow\":77", 1));
    wrong.insert(1, first);
    let path = files.write("wrong.jsonl", wrong.join("\n"));

    let summary = lines(&["detect", &path, "-o", "json"]).pop().unwrap()["summary"].take();
    assert_eq!(summary["exchanges"], good + 1);
    for (reason, line) in
        [("duplicate", 2), ("unknown_field", 4), ("future", good / 2 + 3), ("negative", good / 2 + 4)]
    {
        assert_eq!(summary["faults"][reason]["lines"], json!([line]), "{reason}: {summary}");
    }
    let table = run(&["detect", &path]);
    assert!(table.status.success());
    for words in ["WRONG", "duplicate", "negative", "field start is -", "check the clock"] {
        assert!(stdout(&table).contains(words), "{words}: {}", stdout(&table));
    }
    let strict = run(&["detect", &path, "--strict"]);
    assert_eq!(strict.status.code(), Some(1));
    assert!(
        stderr(&strict).contains("is not in order (negative, duplicate, future, unknown_field)"),
        "{}",
        stderr(&strict)
    );
    assert!(run(&["detect", recording().to_str().unwrap(), "--strict"]).status.success());
}

#[test]
fn compression_that_is_cut_off_gives_what_came_before_and_fails() {
    let files = Files::new();
    let plain = fs::read(recording()).unwrap();
    let compressed = zstd::encode_all(&plain[..], 3).unwrap();
    // Its name says nothing.
    let whole = files.write("whole", &compressed);
    let expected = lines(&["detect", recording().to_str().unwrap(), "-o", "json"]);
    assert_eq!(lines(&["detect", &whole, "-o", "json"]), expected);
    let cut = run(&["detect", &files.write("cut.zst", &compressed[..compressed.len() - 9]), "-o", "json"]);
    assert_eq!(cut.status.code(), Some(1));
    assert!(stderr(&cut).contains("everything before it was judged"), "{}", stderr(&cut));
    assert!(stdout(&cut).lines().last().unwrap().contains("\"damaged\":{\"count\":1"), "{}", stdout(&cut));
}

#[test]
fn an_explanation_says_what_decided_and_what_would_make_it_harmless() {
    let path = recording();
    let path = path.to_str().unwrap();
    let all = run(&["detect", path, "--explain"]);
    for words in [
        "server_record_median: ",
        " σ from ",
        "harmless if ",
        "values every 10.0 s from ",
        "KIND",
        "low_and_slow",
    ] {
        assert!(stdout(&all).contains(words), "{words}: {}", stdout(&all));
    }
    let explained = lines(&["detect", path, "--explain", "-o", "json"]);
    let (anomalies, summary) = explained.split_at(explained.len() - 1);
    assert_eq!(anomalies.len(), 2, "one each, however often it changed");
    assert_eq!(summary[0]["summary"]["kinds"].as_array().map(Vec::len), Some(2));
    let id = anomalies[1]["id"].as_str().unwrap();
    let one = lines(&["detect", path, &format!("--explain={id}"), "-o", "json"]);
    assert_eq!((one.len(), &one[0]), (2, &anomalies[1]));
    let none = run(&["detect", path, "--explain=abc"]);
    assert!(
        !none.status.success() && stderr(&none).contains("no anomaly has the id abc"),
        "{}",
        stderr(&none)
    );
}

/// What the recording's two offenders are, and that nobody else is one.
fn labels(second: &str) -> Value {
    let campaign = |id: &str, kind: &str, client: &str| json!({"id": id, "kind": kind, "clients": [client], "start": 0, "end": 1e6, "atlas": "x"});
    json!({
        "split": "test", "days": 1,
        "benign": {"198.51.100.11": "office", "198.51.100.12": "office"},
        "campaigns": [campaign("c0", "logit_harvest", "198.51.100.66"), campaign("c1", second, "198.51.100.9")],
    })
}

#[test]
fn an_evaluation_says_what_was_found_and_how_reliable_scores_are() {
    let files = Files::new();
    let path = recording();
    let path = path.to_str().unwrap();
    let right = files.write("right.json", labels("low_and_slow").to_string());
    let figures = &lines(&["evaluate", path, &right, "-o", "json"])[0];
    assert_eq!(
        (&figures["found"], &figures["named"], &figures["precision"]),
        (&json!(2), &json!(2), &json!(1.0))
    );
    let bins = figures["reliability"].as_array().unwrap();
    assert_eq!(bins.iter().map(|bin| bin["true"].as_u64().unwrap()).sum::<u64>(), 2);
    assert_eq!(figures["per_kind"]["low_and_slow"]["alerts"], 1);

    let other = files.write("other.json", labels("flood").to_string());
    let table = run(&["evaluate", path, &other]);
    for words in ["2 of 2 found, 1 by the right kind", "precision 1.00", "SAID TO BE", "logit_harvest"] {
        assert!(stdout(&table).contains(words), "{words}: {}", stdout(&table));
    }
    let wrong = files.write("wrong.json", labels("flood").to_string().replace("\"days\":1", "\"days\":-1"));
    let wrong = run(&["evaluate", path, &wrong]);
    assert!(!wrong.status.success() && stderr(&wrong).contains("days is -1"), "{}", stderr(&wrong));
}

#[test]
fn a_proposal_shows_what_would_appear_and_go() {
    let files = Files::new();
    let path = recording();
    let path = path.to_str().unwrap();
    let current =
        files.write("agent.toml", "interfaces = [\"eth0\"]\n[engine]\ndisabled = [\"low_and_slow\"]\n");
    let tune = |more: &[&str]| {
        lines(&[&["tune", path, "--config", &current, "-o", "json"][..], more].concat()).remove(0)
    };
    let changes = |document: &Value| {
        let changes = document["changes"].as_array().unwrap().iter();
        changes.map(|entry| (entry["change"].clone(), entry["anomaly"]["kind"].clone())).collect::<Vec<_>>()
    };
    let other_kind = tune(&["--set", "engine.disabled=[\"logit_harvest\"]"]);
    let mut expected =
        vec![(json!("appears"), json!("low_and_slow")), (json!("goes"), json!("logit_harvest"))];
    let mut is = changes(&other_kind);
    is.sort_by_key(|(change, _)| change.to_string());
    expected.sort_by_key(|(change, _)| change.to_string());
    assert_eq!(is, expected);
    assert_eq!(
        other_kind["kinds"]["logit_harvest"],
        json!({"now": 1, "proposed": 0, "appear": 0, "go": 1, "move": 0})
    );
    assert_eq!(changes(&tune(&["--set", "engine.logit_harvest.ratio=50"])).len(), 1);
    let file = files.write("new.toml", "[engine]\nfalse_alarms = 2.0\n");
    assert_eq!(changes(&tune(&["--proposed", &file])).len(), 1);
    let table = run(&["tune", path, "--set", "engine.disabled=[\"flood\"]"]);
    assert!(stdout(&table).contains("nothing would change"), "{}", stdout(&table));
    for (args, said) in [
        (&["tune", path][..], "nothing is proposed"),
        (&["tune", path, "--set", "engine.mood=1"], "mood"),
        (&["tune", path, "--false-alarms", "0"], "false_alarms is 0"),
    ] {
        let output = run(args);
        assert!(!output.status.success() && stderr(&output).contains(said), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_capture_is_judged_as_its_exchanges_are() {
    let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/http3_caddy.pcap");
    let capture = capture.to_str().unwrap();
    let exchanges = run(&["replay", capture, "--service", "8443", "--exchanges", "-o", "json"]);
    let count = stdout(&exchanges).lines().count();
    let summary = &lines(&["detect", capture, "--service", "8443", "-o", "json"])[0]["summary"];
    assert!(count > 0 && summary["exchanges"] == count, "{count}: {summary}");
    let no_service = run(&["detect", capture]);
    assert!(stderr(&no_service).contains("say which ports are services"), "{}", stderr(&no_service));
}
