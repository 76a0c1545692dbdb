//! What an agent cannot do it refuses in one line that names the thing and the remedy, with an exit code that is not 0,
//! and with nothing left attached.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, path::PathBuf, process::Command};

use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use hydrometer_tests::{
    agent::Agent,
    attached, binary,
    net::{Network, SERVER_INTERFACE},
    programs,
};
use tempfile::TempDir;

/// An interface and a service.
const USUAL: [&str; 4] = ["--iface", SERVER_INTERFACE, "--service", "8443"];
/// What the programs take, and nothing more.
const ENOUGH: &str = "-all,+bpf,+net_admin,+perfmon";

#[test]
fn settings_that_make_no_sense_are_refused() {
    let place = Place::new();
    let typo = place.file("typo.toml", "services = [\"8443\"]\ninterface = [\"server0\"]\n");
    let absent = place.folder.path().join("absent.toml");
    let (typo, absent) = (typo.to_str().unwrap(), absent.to_str().unwrap());
    for (arguments, named) in [
        (
            &["--iface", "server9", "--service", "8443"][..],
            &["no network interface server9", "`ip link`"][..],
        ),
        (&["--iface", SERVER_INTERFACE], &["no service is named", "--service PORT"]),
        (&["--service", "8443"], &["no interface is named", "--iface IFACE"]),
        (&["--iface", SERVER_INTERFACE, "--service", "https"], &["\"https\"", "write 8000, 10.0.0.5:8000"]),
        (&["--config", typo], &["typo.toml:2:", "`interface`", "expected", "`interfaces`"]),
        (&["--config", absent], &["cannot read", "absent.toml", "No such file"]),
        (
            &["--iface", SERVER_INTERFACE, "--service", "8443", "--control-plane", "http://192.0.2.1:7070"],
            &["http://192.0.2.1:7070", "clear text", "https:// with ca, cert and key"],
        ),
        (
            &["--iface", SERVER_INTERFACE, "--service", "8443", "--control-plane", "https://192.0.2.1:7070"],
            &["https://192.0.2.1:7070", "set ca, cert, key to PEM files"],
        ),
    ] {
        place.refuses(&[], arguments, named);
        assert_eq!(place.attached(), [""; 0]);
    }
}

#[test]
fn an_interface_that_is_not_there_leaves_nothing_on_those_that_are() {
    let place = Place::new();
    let both = ["--iface", SERVER_INTERFACE, "--iface", "server9", "--service", "8443"];
    place.refuses(&[], &both, &["no network interface server9", "`ip link`"]);
    assert_eq!(place.attached(), [""; 0]);
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let mut first = Agent::start(place.network.server(), place.folder.path(), USUAL).unwrap();
    let before = place.attached();

    let same_interface = ["server0", "agent", "stop", "choose another interface"];
    place.refuses(&[], &USUAL, &same_interface);
    let socket = first.socket().to_str().unwrap().to_owned();
    let same_socket = [USUAL.as_slice(), &["--socket", &socket]].concat();
    place.refuses(&[], &same_socket, &["another agent is listening on", &socket, "--socket"]);

    assert_eq!(place.attached(), before, "the first agent's programs");
    first.status().unwrap();
    assert!(first.process().ended().unwrap().is_none());
}

#[test]
fn a_socket_path_that_is_taken_by_a_file_is_refused_and_the_file_is_kept() {
    let place = Place::new();
    let file = place.file("precious", "precious");
    let arguments = ["--iface", SERVER_INTERFACE, "--service", "8443", "--socket", file.to_str().unwrap()];
    place.refuses(&[], &arguments, &[file.to_str().unwrap(), "is no socket", "--socket"]);
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
    assert_eq!(place.attached(), [""; 0]);
}

#[test]
fn somebody_elses_xdp_program_is_named_and_left_alone() {
    let place = Place::new();
    let mut ebpf = Ebpf::load(programs::bench()).unwrap();
    let foreign: &mut Xdp = ebpf.program_mut("empty_xdp").unwrap().try_into().unwrap();
    foreign.load().unwrap();
    place.network.server().run(|| foreign.attach(SERVER_INTERFACE, XdpMode::Driver)).unwrap().unwrap();
    let before = place.attached();
    assert_eq!(before.len(), 1, "{before:?}");
    let only_xdp = [USUAL.as_slice(), &["--attach", "xdp"]].concat();
    let holder = format!("program empty_xdp (id {})", foreign.info().unwrap().id());
    place.refuses(&[], &only_xdp, &["XDP on server0 is taken by", &holder, "stop it", "auto or tc"]);
    assert_eq!(place.attached(), before);
}

#[test]
fn each_capability_is_missed_and_three_are_enough() {
    let place = Place::new();
    for missing in ["-all", "-all,+net_admin,+perfmon", "-all,+bpf,+perfmon", "-all,+bpf,+net_admin"] {
        let named = ["not permitted to", "BPF programs", "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"];
        place.refuses(&confined(missing), &USUAL, &named);
        assert_eq!(place.attached(), [""; 0], "with {missing}");
    }
    let mut agent =
        Agent::start_with(place.hydrometer(&confined(ENOUGH)), place.folder.path(), USUAL).unwrap();
    assert_eq!(place.attached().len(), 2, "{}", agent.process().output());
}

/// Runs a program with these capabilities.
fn confined(capabilities: &str) -> [&str; 5] {
    ["setpriv", "--bounding-set", capabilities, "--inh-caps", "-all"]
}

/// A network without a server, and a folder.
struct Place {
    network: Network,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { network: Network::new().unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    /// `hydrometer`, run at the server's end by the command `under`.
    fn hydrometer(&self, under: &[&str]) -> Command {
        let mut command = self.network.server().command("env");
        command.args(under).arg(binary::path("hydrometer").unwrap());
        command
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn attached(&self) -> Vec<String> {
        attached::programs(self.network.server(), SERVER_INTERFACE).unwrap()
    }

    /// Runs an agent that must end with one line that has all of `named` in it.
    fn refuses(&self, under: &[&str], arguments: &[&str], named: &[&str]) {
        // One that is not refused must not run for ever.
        let mut hydrometer = self.hydrometer(&[&["timeout", "20"], under].concat());
        hydrometer.arg("agent").args(arguments);
        if !arguments.contains(&"--socket") {
            hydrometer.arg("--socket").arg(self.socket());
        }
        let output = hydrometer.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        println!("{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
        for part in named {
            assert!(said.contains(part), "{arguments:?}: {part:?} is not in: {said}");
        }
        assert!(!self.socket().exists(), "the socket is left behind");
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }
}
