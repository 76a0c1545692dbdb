//! The commands as a user runs them: the binary against an agent on a unix socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, unreachable_pub, reason = "a test is not a library")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use insta::assert_snapshot;

#[expect(dead_code, reason = "the screens' tests use the rest")]
mod cli_fixture;

fn command(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
    command.arg("--socket").arg(socket).args(args).env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn run(socket: &Path, args: &[&str]) -> Output {
    command(socket, args).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn json_keeps_its_schema() {
    let agent = cli_fixture::serve();
    for (name, args) in [
        ("json_clients", &["clients", "-o", "json", "--limit", "1"][..]),
        ("json_client", &["client", "203.0.113.66", "-o", "json"]),
        ("json_client_compared", &["client", "203.0.113.66", "--with", "203.0.113.7", "-o", "json"]),
        ("json_anomalies", &["anomalies", "-o", "json", "--kind", "low_and_slow"]),
        ("json_status", &["status", "-o", "json"]),
        ("json_mutes", &["mutes", "-o", "json"]),
    ] {
        let output = run(agent.socket(), args);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output).lines().count(), 1, "a pipe gets one object a line");
        let value: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
        assert_snapshot!(name, serde_json::to_string_pretty(&value).unwrap());
    }
}

#[test]
fn muting_and_acknowledging_say_what_holds_now() {
    let agent = cli_fixture::serve();
    let why = ["--reason", "load test", "--by", "ann"];
    let said = |args: &[&str]| {
        let output = run(agent.socket(), &[args, &why].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).to_owned()
    };
    let muted = said(&["mute", "203.0.113.0/24", "--kind", "flood", "--for", "1d"]);
    assert_eq!(muted, "muted 203.0.113.0/24 flood, by ann until 2026-05-05T10:00:00Z: load test\n");
    assert!(said(&["acknowledge", "an-logit"]).contains("acknowledged by ann until 2026-05-04T11:00:00Z"));
    let output = run(agent.socket(), &["unmute", "203.0.113.0/24"]);
    assert!(stdout(&output).starts_with("no longer muted: 203.0.113.0/24 flood, by ann"), "{output:?}");
    let output = run(agent.socket(), &["mute", "203.0.113.7", "--for", "1d"]);
    assert_eq!(output.status.code(), Some(2), "a mute has a reason: {}", stderr(&output));
    let output = run(agent.socket(), &[&["acknowledge", "an-none"][..], &why].concat());
    assert!(stderr(&output).contains("cannot acknowledge: the agent says: no anomaly an-none"), "{output:?}");
}

#[test]
fn a_pipe_gets_no_colour_unless_asked() {
    let agent = cli_fixture::serve();
    for args in [
        &["clients"][..],
        &["client", "203.0.113.66"],
        &["anomalies", "-o", "wide"],
        &["status"],
        &["top", "--once"],
    ] {
        let output = run(agent.socket(), args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert!(!stdout(&output).is_empty() && !stdout(&output).contains('\x1b'), "{args:?}");
    }
    assert!(stdout(&run(agent.socket(), &["status", "--color", "always"])).contains("\x1b[32mno losses"));
}

#[test]
fn anomalies_are_filtered_by_the_agent() {
    let agent = cli_fixture::serve();
    for (args, lines) in [
        (&["anomalies", "-o", "json"][..], 3),
        (&["anomalies", "-o", "json", "--min-severity", "high"], 2),
        (&["anomalies", "-o", "json", "--client", "203.0.113.7"], 1),
        (&["anomalies", "-o", "json", "--kind", "logit_harvest,flood"], 2),
    ] {
        assert_eq!(stdout(&run(agent.socket(), args)).lines().count(), lines, "{args:?}");
    }
}

#[test]
fn errors_name_the_thing_and_the_remedy() {
    let agent = cli_fixture::serve();
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.sock");
    let absent_said = format!(
        "no agent is listening on {}; start one with `hydrometer agent --iface IFACE --service PORT` or give --socket",
        absent.display()
    );
    let cases: [(&Path, &[&str], i32, &str); 6] = [
        (&absent, &["clients"], 1, &absent_said),
        (&absent, &["top", "--once"], 1, &absent_said),
        (
            agent.socket(),
            &["client", "9.9.9.9"],
            1,
            "no client 9.9.9.9 is known to this agent; `hydrometer clients",
        ),
        (agent.socket(), &["top"], 1, "needs a terminal; use `hydrometer top --once`"),
        (agent.socket(), &["anomalies", "--since", "yesterday"], 2, "give a span such as 10m"),
        (agent.socket(), &["top", "--once", "--filter", "speed>1"], 1, "is not a column"),
    ];
    for (socket, args, code, said) in cases {
        let output = run(socket, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(stderr(&output).contains(said), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_socket_without_an_agent_is_told_from_one_without_permission() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(
        stderr(&run(&socket, &["status"])).contains("no agent is listening"),
        "left over by a killed agent"
    );
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root may open any socket; the message is for everyone else.
    if std::os::unix::net::UnixStream::connect(&socket)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    {
        assert!(stderr(&run(&socket, &["status"])).contains("not permitted to open"));
    }
}

#[test]
fn following_ends_with_a_clear_message_when_the_agent_goes() {
    let agent = cli_fixture::serve();
    let mut child = command(agent.socket(), &["anomalies", "--follow", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..cli_fixture::anomalies().len() {
        lines.next().unwrap().unwrap();
    }
    drop(agent);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(said.contains("the agent"), "{said}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let agent = cli_fixture::serve();
    let mut child =
        command(agent.socket(), &["clients"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}
