//! An answer that is over although nothing says so is reported once it has been quiet, and once only. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use hydrometer_tests::{
    agent::Agent,
    net::{Network, SERVER_INTERFACE, SERVER_V4},
    process::wait_for,
};

const PORT: u16 = 9000;
const PATIENCE: Duration = Duration::from_secs(20);
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n";
const BODY: usize = 20_000;

/// A client whose answer comes in two parts: the second when `go_on` is told.
#[expect(clippy::needless_pass_by_value, reason = "a receiver belongs to one thread")]
fn ask(network: &Network, go_on: mpsc::Receiver<()>) -> TcpStream {
    let listener = network.server().run(|| TcpListener::bind((SERVER_V4, PORT)).unwrap()).unwrap();
    let mut client = network.client().run(|| TcpStream::connect((SERVER_V4, PORT)).unwrap()).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut asked = [0; 18];
    server.read_exact(&mut asked).unwrap();
    server.write_all(HEAD).unwrap();
    go_on.recv().unwrap();
    server.write_all(&vec![b'x'; BODY]).unwrap();
    let mut answer = vec![0; HEAD.len() + BODY];
    client.read_exact(&mut answer).unwrap();
    client
}

/// An agent to which an answer is over soon.
fn watch(network: &Network, folder: &Path) -> Agent {
    let port = PORT.to_string();
    let arguments = ["--iface", SERVER_INTERFACE, "--service", &port, "--quiet", "500ms"];
    Agent::start(network.server(), folder, arguments).unwrap()
}

fn resumed(agent: &Agent) -> u64 {
    let losses = agent.status().unwrap().losses;
    losses.iter().find(|loss| loss.stage == "answer_resumed").unwrap().count
}

#[test]
fn an_answer_that_pauses_is_reported_once_and_what_came_late_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::new().unwrap();
    let agent = watch(&network, folder.path());
    let client = IpAddr::from(network.first_client().v4);
    let exchanges = || agent.client_in_depth(client).map_or_else(|_| Vec::new(), |client| client.exchanges);

    let (go_on, told) = mpsc::channel();
    thread::scope(|scope| {
        let connection = scope.spawn(|| ask(&network, told));
        wait_for("the quiet answer", PATIENCE, || Ok((exchanges().len() == 1).then_some(()))).unwrap();
        assert_eq!((exchanges()[0].answer_bytes, resumed(&agent)), (HEAD.len() as u64, 0));
        go_on.send(()).unwrap();
        drop(connection.join().unwrap());
    });
    wait_for("the end of the connection", PATIENCE, || Ok((resumed(&agent) == 1).then_some(()))).unwrap();
    assert_eq!(exchanges().len(), 1);
    // The kernel's own count is of the whole.
    let counters = agent.counters(client).unwrap();
    assert_eq!((counters.exchanges, counters.answer_bytes), (1, (HEAD.len() + BODY) as u64));
}

#[test]
fn the_last_answer_on_an_idle_connection_is_reported_and_not_again_when_it_closes() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::new().unwrap();
    let agent = watch(&network, folder.path());
    let client = IpAddr::from(network.first_client().v4);
    let exchanges = || agent.client_in_depth(client).map_or_else(|_| Vec::new(), |client| client.exchanges);

    let (go_on, told) = mpsc::channel();
    go_on.send(()).unwrap();
    let connection = ask(&network, told);
    wait_for("the quiet answer", PATIENCE, || Ok((exchanges().len() == 1).then_some(()))).unwrap();
    assert_eq!(exchanges()[0].answer_bytes, (HEAD.len() + BODY) as u64);
    drop(connection);
    wait_for("the end of the connection", PATIENCE, || {
        Ok((agent.counters(client)?.exchanges == 1).then_some(()))
    })
    .unwrap();
    assert_eq!((exchanges().len(), resumed(&agent)), (1, 0));
}
