//! What the operator has said to an agent is there after a restart, however the agent ended; and a file of it that is
//! damaged is named, not overwritten.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, path::Path, time::Duration};

use hydrometer_tests::{
    agent::{self, Agent},
    binary,
    net::Network,
};
use serde_json::Value;

/// For an agent to end.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn mutes_outlive_a_killed_agent_and_a_damaged_file_of_them_is_refused() {
    let (network, folder) = (Network::new().unwrap(), tempfile::tempdir().unwrap());
    let file = folder.path().join("state/mutes.json");
    let mut first = start(&network, folder.path(), &file);
    say(&first, "mute 203.0.113.0/24 --kind flood --reason test --by ann --for 7d");
    say(&first, "mute 198.51.100.7 --reason test --by ann --for 1d");
    say(&first, "unmute 198.51.100.7");
    first.process().kill().unwrap();

    let mut second = start(&network, folder.path(), &file);
    let mutes: Value = serde_json::from_str(&say(&second, "mutes -o json")).unwrap();
    assert_eq!(mutes.as_array().map(Vec::len), Some(1), "{mutes}");
    let mute = &mutes[0];
    assert_eq!((&mute["target"], &mute["kind"]), (&"203.0.113.0/24".into(), &"flood".into()));
    assert_eq!((&mute["remark"]["by"], &mute["in_settings"]), (&"ann".into(), &false.into()));
    second.process().terminate(PATIENCE).unwrap();

    let damaged = fs::read_to_string(&file).unwrap().replace("203.0.113.0/24", "nobody");
    fs::write(&file, &damaged).unwrap();
    let mut command = network.server().command(binary::path("hydrometer").unwrap());
    command.arg("agent").arg("--socket").arg(folder.path().join("third.sock"));
    let output = command.args(agent::usual_arguments()).arg("--mutes").arg(&file).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("mutes.json holds no mutes: \"nobody\" is not a client"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), damaged);
}

fn start(network: &Network, folder: &Path, file: &Path) -> Agent {
    let mutes = ["--mutes".to_owned(), file.display().to_string()];
    Agent::start(network.server(), folder, agent::usual_arguments().into_iter().chain(mutes)).unwrap()
}

/// What the command prints.
fn say(agent: &Agent, arguments: &str) -> String {
    let output = agent.command(arguments).unwrap().output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
