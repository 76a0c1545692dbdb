//! Nothing is lost and nobody delayed, whatever a destination does.

use std::{fs, path::Path};

use hydrometer_proto::v1::{Anomaly, Severity};
use serde_json::Value;

use super::{destinations::webhook, findings::finding, http, http::Receiver, report, status, until};
use crate::{
    process::lines,
    program::{Site, poll, refusal, text},
};

fn named(numbers: std::ops::Range<usize>) -> Vec<Anomaly> {
    numbers.map(|number| finding(&format!("id-{number}"))).collect()
}

/// The identifiers in a file of JSON lines.
fn ids(path: &Path) -> Vec<String> {
    let id = |line: &String| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["finding_info"]["uid"].as_str().unwrap().to_owned()
    };
    lines(path).iter().map(id).collect()
}

fn expected(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("id-{number}")).collect()
}

#[tokio::test]
async fn a_destination_that_answers_500_or_never_loses_nothing_and_delays_no_other() {
    let site = Site::new();
    fs::write(site.path("secret"), "shared").unwrap();
    let failing = Receiver::start(|_| Some((500, "out of order".into()))).await;
    let silent = Receiver::start(|_| None).await;
    let archive = site.path("archive.jsonl");
    let settings = [
        webhook("failing", &failing, &site, ""),
        webhook("silent", &silent, &site, "timeout_s = 1"),
        format!("[[sink]]\nname = \"archive\"\nfile = {{ path = {archive:?} }}\n"),
    ];
    let program = site.start_configured(&settings.concat());
    report(&site, named(0..20)).await;
    until(&site, "archive", |sink| sink.delivered == 20).await;
    let said = until(&site, "failing", |sink| sink.retries >= 3).await;
    assert!(said.error.contains("HTTP 500") && said.error.contains("out of order"), "{said:?}");
    let said = until(&site, "silent", |sink| sink.retries >= 1).await;
    assert!(said.error.contains("no answer within 1 s"), "{said:?}");
    assert_eq!((said.delivered, said.position), (0, 0));

    // Neither a restart nor a kill makes it forget what is not delivered.
    program.kill();
    let _program = site.start_configured(&settings.concat());
    failing.answer(http::taken);
    silent.answer(http::taken);
    for (name, receiver) in [("failing", &failing), ("silent", &silent)] {
        let said = until(&site, name, |sink| sink.delivered == 20).await;
        assert_eq!((said.error.as_str(), said.dead_lettered), ("", 0));
        let got = receiver.received();
        let ids: Vec<String> =
            got.iter().map(|request| request.headers["x-hydrometer-delivery"].replace("-1", "")).collect();
        assert_eq!(got.len(), 20, "{ids:?}");
    }
    assert_eq!(ids(&archive), expected(0..20));
}

#[tokio::test]
async fn what_is_refused_again_and_again_becomes_a_dead_letter_and_the_rest_goes_on() {
    let site = Site::new();
    fs::write(site.path("token"), "token").unwrap();
    let picky = |body: &str| {
        if body.contains("id-13\"") { Some((400, "{\"code\":6}".into())) } else { http::taken(body) }
    };
    let receiver = Receiver::start(picky).await;
    let _program = site.start_configured(&format!(
        "[[sink]]\nname = \"splunk\"\nrefusals = 2\nsplunk = {{ url = \"http://{}\", token_file = {:?} }}\n",
        receiver.address,
        site.path("token")
    ));
    report(&site, named(0..40)).await;
    let said = until(&site, "splunk", |sink| sink.position == 40).await;
    assert_eq!((said.delivered, said.dead_lettered, said.retries), (39, 1, 1));
    let letters = lines(&site.path("splunk.dead.jsonl"));
    let letter: Value = serde_json::from_str(&letters[0]).unwrap();
    assert_eq!((letters.len(), &letter["uid"], &letter["position"]), (1, &"id-13-1".into(), &14.into()));
    assert!(letter["reason"].as_str().unwrap().contains("HTTP 400"), "{letter}");
    let got: Vec<String> = receiver
        .received()
        .iter()
        .flat_map(|request| request.body.lines().map(str::to_owned).collect::<Vec<_>>())
        .map(|line| serde_json::from_str::<Value>(&line).unwrap()["event"]["finding_info"]["uid"].to_string())
        .map(|id| id.trim_matches('"').to_owned())
        .collect();
    let without: Vec<String> = expected(0..40).into_iter().filter(|id| id != "id-13").collect();
    assert_eq!(got, without);
}

#[tokio::test]
async fn a_wrong_token_loses_nothing() {
    let site = Site::new();
    fs::write(site.path("token"), "wrong").unwrap();
    let receiver = Receiver::start(|_| Some((403, "{\"text\":\"Invalid token\"}".into()))).await;
    let _program = site.start_configured(&format!(
        "[[sink]]\nname = \"splunk\"\nrefusals = 1\nsplunk = {{ url = \"http://{}\", token_file = {:?} }}\n",
        receiver.address,
        site.path("token")
    ));
    report(&site, named(0..3)).await;
    let said = until(&site, "splunk", |sink| sink.retries >= 2).await;
    assert!(said.error.contains("Invalid token") && said.dead_lettered == 0, "{said:?}");
    receiver.answer(http::taken);
    until(&site, "splunk", |sink| sink.delivered == 3).await;
}

#[tokio::test]
async fn kills_leave_no_gap_in_what_is_delivered() {
    let site = Site::new();
    let archive = site.path("archive.jsonl");
    let settings = format!("[[sink]]\nname = \"archive\"\nfile = {{ path = {archive:?} }}\n");
    for round in 0..5 {
        let program = site.start_configured(&settings);
        report(&site, named(round * 400..(round + 1) * 400)).await;
        program.kill();
    }
    let _program = site.start_configured(&settings);
    until(&site, "archive", |sink| sink.position == 2000).await;
    let mut seen = ids(&archive);
    // What was written and not yet remembered when it was killed comes again.
    let mut order = Vec::new();
    seen.retain(|id| {
        let new = !order.contains(id);
        if new {
            order.push(id.clone());
        }
        new
    });
    assert_eq!(seen, expected(0..2000));
}

#[tokio::test]
async fn a_sink_begins_where_it_is_told_and_leaves_out_what_is_too_mild() {
    let site = Site::new();
    let program = site.start();
    report(&site, named(0..5)).await;
    assert!(program.stop().success());
    let paths = ["all", "new", "severe"].map(|name| site.path(name));
    let sink = |name: &str, path: &Path, more: &str| {
        format!("[[sink]]\nname = \"{name}\"\n{more}\nfile = {{ path = {path:?} }}\n")
    };
    let settings = [
        sink("all", &paths[0], ""),
        sink("new", &paths[1], "from = \"now\""),
        sink("severe", &paths[2], "min_severity = \"critical\""),
    ];
    let program = site.start_configured(&settings.concat());
    // It is remembered what "now" was, and what is delivered.
    for name in ["all", "new", "severe"] {
        until(&site, name, |sink| sink.position == 5).await;
    }
    assert!(program.stop().success());
    let _program = site.start_configured(&settings.concat());
    let critical = Anomaly { severity: Severity::Critical.into(), ..finding("id-5") };
    report(&site, [critical, finding("id-6")]).await;
    for name in ["all", "new", "severe"] {
        until(&site, name, |sink| sink.position == 7).await;
    }
    assert_eq!(ids(&paths[0]), expected(0..7));
    assert_eq!(ids(&paths[1]), expected(5..7));
    assert_eq!(ids(&paths[2]), expected(5..6));
    assert_eq!(status(&site, "severe").await.delivered, 1);
}

#[test]
fn mistakes_in_a_sink_are_named_with_it() {
    let site = Site::new();
    let file = site.path("control.toml");
    let cases = [
        ("name = \"A\"\nfile = { path = \"/a\" }", "sink `A`: a name is"),
        ("name = \"a\"", "sink `a`: give exactly one of"),
        (
            "name = \"a\"\nfile = { path = \"/a\" }\notlp = { url = \"http://a\" }",
            "sink `a`: give exactly one of",
        ),
        ("name = \"a\"\nsplunk = { url = \"http://siem\", token_file = \"/x\" }", "in clear text"),
        (
            "name = \"a\"\nsplunk = { url = \"https://siem\", token_file = \"/nowhere/x\" }",
            "cannot read the secret /nowhere/x",
        ),
        ("name = \"a\"\nsyslog = { address = \"siem:514\" }", "neither tls://HOST:PORT nor tcp://HOST:PORT"),
        ("name = \"a\"\nsyslog = { address = \"tls://a:1\", tls = { ca = \"/nowhere/ca\" } }", "/nowhere/ca"),
        ("name = \"a\"\nfile = { path = \"/a\", size = 1 }", "unknown field `size`"),
        ("name = \"a\"\nrefusals = 0\nfile = { path = \"/a\" }", "1 at least"),
    ];
    for (content, what) in cases {
        fs::write(&file, format!("[[sink]]\n{content}\n")).unwrap();
        let said = refusal(&["--check", "--config", text(&file)]);
        assert!(said.contains(what), "{said}");
    }
    let twice = "[[sink]]\nname = \"a\"\nfile = { path = \"/a\" }\n".repeat(2);
    fs::write(&file, twice).unwrap();
    assert!(refusal(&["--check", "--config", text(&file)]).contains("two of this name"));
}

#[tokio::test]
async fn the_status_command_shows_how_sinks_fare() {
    let site = Site::new();
    let archive = site.path("archive.jsonl");
    let _program =
        site.start_configured(&format!("[[sink]]\nname = \"archive\"\nfile = {{ path = {archive:?} }}\n"));
    report(&site, named(0..3)).await;
    let expected = "sink archive (file): 0 behind, 3 delivered, 0 retries, 0 dead letters, 0 missed";
    poll("the status", || {
        let output =
            crate::program::program().args(["status", "--address", &site.address()]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains(expected).then_some(())
    });
}
