//! Agents come and go, in good order or killed, and nobody on the wire notices: no request fails, nothing stays attached
//! that was not asked to.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hydrometer_proto::v1::{AnomalyKind, AnomalyState};
use hydrometer_tests::{
    agent::{self, Agent},
    attached, binary,
    control::Control,
    feed::Subscriber,
    net::{Namespace, SERVER_INTERFACE, SERVER_V4, SERVER_V6},
    nginx::{self, Security},
    process::{Process, wait_for},
    stack::Stack,
};

/// Waiting for what has to happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests, of each kind, that show that traffic flows.
const SOME: u64 = 20;

#[test]
fn no_request_fails_while_agents_start_stop_and_are_killed() {
    let stack = Stack::start(Security::Plain, 1).unwrap();
    let server = stack.network.server();
    let start = || Agent::start(server, stack.folder(), agent::usual_arguments()).unwrap();
    let traffic = Traffic::default();
    traffic.flow(&stack, || {
        traffic.goes_on();

        let mut agent = start();
        counts(&agent, &stack);
        let socket = agent.socket().to_owned();
        assert!(agent.process().terminate(PATIENCE).unwrap().success(), "{}", agent.process().output());
        assert_eq!(attached(server), [""; 0], "after SIGTERM");
        assert!(!socket.exists(), "the socket is left behind");
        traffic.goes_on();

        let mut agent = start();
        counts(&agent, &stack);
        agent.process().kill().unwrap();
        // The kernel lets go of a dead process's links in its own time.
        wait_for("nothing to be attached", PATIENCE, || Ok(attached(server).is_empty().then_some(())))
            .unwrap();
        traffic.goes_on();

        let mut agent = start();
        counts(&agent, &stack);
        agent.process().terminate(PATIENCE).unwrap();
        traffic.goes_on();
    });
    let done = traffic.done();
    println!("requests without a failure, on one connection and on one each: {done:?}");
    // The server says the same.
    wait_for("all requests in the access log", PATIENCE, || {
        let log = stack.nginx.accesses()?;
        Ok((log.len() as u64 == done.iter().sum::<u64>() && log.iter().all(|access| access.status == 200))
            .then_some(()))
    })
    .unwrap();
}

#[test]
fn a_check_attaches_nothing() {
    let stack = Stack::start(Security::Plain, 1).unwrap();
    let server = stack.network.server();
    let mut command = server.command(binary::path("hydrometer").unwrap());
    let output = command.args(["agent", "--check"]).args(agent::usual_arguments()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        said.contains("program hyd_ingress: verified") && said.contains("nothing was attached"),
        "{said}"
    );
    assert_eq!(attached(server), [""; 0]);
}

/// The last request of a run is still open: only the flush at the end makes the run long enough to be found.
#[test]
fn the_end_takes_in_open_exchanges_and_delivers_what_they_tell() {
    let stack = Stack::start(Security::Plain, 1).unwrap();
    let server = stack.network.server();
    let control = Control::start(server, stack.folder()).unwrap();
    let report =
        agent::reporting(&control, stack.folder()).into_iter().chain(["--quiet", "1h"].map(str::to_owned));
    let mut agent =
        Agent::start(server, stack.folder(), agent::usual_arguments().into_iter().chain(report)).unwrap();
    let subscriber = Subscriber::start(control.socket(), "").unwrap();
    let client = IpAddr::from(stack.network.first_client().v4);

    let connection = ask_in_time(&stack, 12);
    wait_for("all requests but the last to be over", PATIENCE, || {
        let counters = agent.counters(client)?;
        Ok(((counters.requests, counters.exchanges) == (12, 11)).then_some(()))
    })
    .unwrap();
    assert_eq!(agent.anomalies().unwrap(), []);

    assert!(agent.process().terminate(PATIENCE).unwrap().success(), "{}", agent.process().output());
    drop(connection);
    let anomaly = wait_for("the anomaly at the control plane", PATIENCE, || {
        Ok(subscriber.received().into_iter().find_map(|message| message.anomaly))
    })
    .unwrap();
    assert_eq!((anomaly.kind(), anomaly.client), (AnomalyKind::LowAndSlow, client.to_string()));
}

/// Nobody has it but the agent's disk, and the next agent delivers it.
#[test]
fn what_an_agent_found_outlives_it_while_the_control_plane_is_away() {
    let stack = Stack::start(Security::Plain, 1).unwrap();
    let server = stack.network.server();
    let mut control = Control::start(server, stack.folder()).unwrap();
    let start = |control: &Control| {
        let report = agent::reporting(control, stack.folder());
        Agent::start(server, stack.folder(), agent::usual_arguments().into_iter().chain(report)).unwrap()
    };
    let mut agent = start(&control);
    control.kill().unwrap();
    drop(ask_in_time(&stack, 20));
    let said = wait_for("an anomaly on disk", PATIENCE, || {
        let link = agent.status()?.control_plane.unwrap_or_default();
        let said = agent.anomalies()?;
        Ok((link.last_sequence > 0
            && link.last_sequence == said.iter().map(|said| u64::from(said.revision)).sum::<u64>())
        .then_some(said))
    })
    .unwrap();
    agent.process().kill().unwrap();
    drop(agent);

    control.restart(server).unwrap();
    let agent = start(&control);
    let subscriber = Subscriber::start(control.socket(), "").unwrap();
    wait_for("an acknowledgement of everything", PATIENCE, || {
        let link = agent.status()?.control_plane.unwrap_or_default();
        Ok((link.last_sequence > 0 && link.pending == 0).then_some(()))
    })
    .unwrap();
    assert_eq!(agent.anomalies().unwrap(), [], "it has found nothing itself");
    let states = said.iter().map(|said| said.revision as usize).sum();
    let received = wait_for("each state at the subscriber", PATIENCE, || {
        let received: Vec<_> =
            subscriber.received().into_iter().filter_map(|message| message.anomaly).collect();
        Ok((received.len() >= states).then_some(received))
    })
    .unwrap();
    let revisions =
        |id: &str| received.iter().filter(|of| of.id == id).map(|of| of.revision).collect::<Vec<_>>();
    for anomaly in &said {
        assert_eq!(revisions(&anomaly.id), (1..=anomaly.revision).collect::<Vec<_>>(), "once each, in order");
    }
}

/// Under the next agent it keeps its id and goes on counting its states, whether the one before was killed or ended in
/// good order; and it is closed when it is over.
#[test]
fn an_anomaly_that_was_open_when_an_agent_ended_goes_on_under_the_next() {
    let stack = Stack::start(Security::Plain, 1).unwrap();
    let server = stack.network.server();
    let state = stack.folder().join("engine.state").display().to_string();
    let start = |more: &[String]| {
        let arguments = agent::usual_arguments().into_iter().chain(["--state".to_owned(), state.clone()]);
        Agent::start(server, stack.folder(), arguments.chain(more.iter().cloned())).unwrap()
    };
    let only = |agent: &Agent| {
        let found = agent.anomalies()?;
        assert!(found.len() <= 1, "{found:?}");
        anyhow::Ok(found.into_iter().next())
    };

    let mut agent = start(&[]);
    drop(ask_in_time(&stack, 20));
    let opened = wait_for("an anomaly, and the state with it on disk", 2 * PATIENCE, || {
        let saved = agent.status()?.state.and_then(|state| state.saved);
        let found = only(&agent)?;
        Ok(found.filter(|found| {
            saved.zip(found.raised).is_some_and(|(saved, raised)| saved.seconds > raised.seconds)
        }))
    })
    .unwrap();
    agent.process().kill().unwrap();
    drop(agent);

    let mut agent = start(&[]);
    let resumed = only(&agent).unwrap().unwrap();
    assert_eq!((&resumed.id, resumed.raised), (&opened.id, opened.raised));
    assert!(agent.status().unwrap().state.unwrap().resumed);
    assert_eq!(
        agent
            .client_in_depth(IpAddr::from(stack.network.first_client().v4))
            .unwrap()
            .fingerprint
            .unwrap()
            .requests,
        20
    );
    drop(ask_in_time(&stack, 20));
    let updated = wait_for("its next state", 3 * PATIENCE, || {
        Ok(only(&agent)?.filter(|found| found.revision > resumed.revision))
    })
    .unwrap();
    assert_eq!((&updated.id, updated.state()), (&opened.id, AnomalyState::Updated));
    assert!(agent.process().terminate(PATIENCE).unwrap().success(), "{}", agent.process().output());
    drop(agent);

    let settings = stack.folder().join("soon.toml");
    std::fs::write(&settings, "[engine.lifecycle]\nclose_after_s = 1.0\n").unwrap();
    let agent = start(&["--config".to_owned(), settings.display().to_string()]);
    let closed = wait_for("its end", PATIENCE, || {
        Ok(only(&agent)?.filter(|found| found.state() == AnomalyState::Closed))
    })
    .unwrap();
    assert_eq!(closed.id, opened.id);
    assert!(closed.revision > updated.revision, "{} after {}", closed.revision, updated.revision);
}

/// Asks on one connection, `requests` times, as a machine does, for answers that differ.
fn ask_in_time(stack: &Stack, requests: u32) -> Connection {
    const PERIOD: Duration = Duration::from_millis(700);
    let connection = stack.network.client().run(|| {
        let mut connection = Connection::open((SERVER_V4, nginx::PORT).into()).unwrap();
        // A cadence is its subject: it keeps time, however long the answers take.
        let begin = Instant::now();
        for n in 1..=requests {
            thread::sleep((begin + PERIOD * n).saturating_duration_since(Instant::now()));
            connection.complete(8 * (1 + n as usize % 5)).unwrap();
        }
        connection
    });
    connection.unwrap()
}

#[test]
fn what_is_pinned_stays_until_the_next_agent_takes_over() {
    let stack = Stack::start(Security::Plain, 1).unwrap();
    let server = stack.network.server();
    let pins = Pins::mount(server, stack.folder());
    let start = |pin: &str| {
        let arguments = agent::usual_arguments().into_iter().chain(["--pin".to_owned(), pin.to_owned()]);
        let hydrometer = pins.command(&binary::path("hydrometer").unwrap());
        Agent::start_with(hydrometer, stack.folder(), arguments)
    };
    let traffic = Traffic::default();
    traffic.flow(&stack, || {
        for killed in [false, true] {
            let mut agent = start("true").unwrap();
            counts(&agent, &stack);
            let refused = start("true").unwrap_err();
            assert!(format!("{refused:#}").contains("choose another interface"), "{refused:#}");
            if killed {
                agent.process().kill().unwrap();
            } else {
                assert!(agent.process().terminate(PATIENCE).unwrap().success());
            }
            drop(agent);
            let programs = attached(server);
            assert_eq!(programs.len(), 2, "both programs stay: {programs:?}");
            traffic.goes_on();
        }
        let mut agent = start("false").unwrap();
        counts(&agent, &stack);
        assert_eq!(attached(server).len(), 2, "the predecessor's are gone");
        assert!(agent.process().terminate(PATIENCE).unwrap().success());
        assert_eq!(attached(server), [""; 0]);
        traffic.goes_on();
    });
}

fn attached(namespace: &Namespace) -> Vec<String> {
    attached::programs(namespace, SERVER_INTERFACE).unwrap()
}

/// Waits until `agent` has counted requests of both kinds.
fn counts(agent: &Agent, stack: &Stack) {
    let client = stack.network.first_client();
    wait_for("requests to be counted", PATIENCE, || {
        let [kept, new] =
            [agent.counters(IpAddr::from(client.v4))?, agent.counters(IpAddr::from(client.v6))?];
        Ok((kept.exchanges >= SOME && new.exchanges >= SOME && new.connections >= SOME).then_some(()))
    })
    .unwrap();
}

/// Requests without a pause: on one connection over IPv4, and on a connection each over IPv6.
#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    done: [AtomicU64; 2],
    failures: Mutex<Vec<String>>,
}

impl Traffic {
    /// Lets requests flow while `test` runs; none may fail.
    fn flow(&self, stack: &Stack, test: impl FnOnce()) {
        thread::scope(|scope| {
            let _stop = Stop(&self.stop);
            for new in [false, true] {
                scope.spawn(move || stack.network.client().run(|| self.ask_on(new)).unwrap());
            }
            test();
        });
        assert_eq!(*self.failures.lock().unwrap(), [""; 0]);
    }

    fn ask_on(&self, new: bool) {
        let server: SocketAddr =
            if new { (SERVER_V6, nginx::PORT).into() } else { (SERVER_V4, nginx::PORT).into() };
        let mut connection = Connection::open(server).unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            let asked = connection.ask(0).and_then(|()| {
                if new {
                    connection = Connection::open(server)?;
                }
                Ok(())
            });
            if let Err(error) = asked {
                return self.failures.lock().unwrap().push(format!("{error} (new: {new})"));
            }
            self.done[usize::from(new)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until more requests of both kinds have been answered.
    fn goes_on(&self) {
        let before = self.done();
        wait_for("traffic to go on", PATIENCE, || {
            let done = self.done();
            Ok(done.iter().zip(before).all(|(now, before)| *now >= before + SOME).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}; {:?}", self.failures.lock().unwrap()));
    }

    fn done(&self) -> [u64; 2] {
        self.done.each_ref().map(|done| done.load(Ordering::Relaxed))
    }
}

/// Ends the traffic also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One connection, one request after the other. A server that is silent for three seconds has failed.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(server: SocketAddr) -> std::io::Result<Self> {
        let limit = Duration::from_secs(3);
        let stream = TcpStream::connect_timeout(&server, limit)?;
        stream.set_read_timeout(Some(limit))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks for the models, in a request with `padding` bytes more, and reads the whole answer.
    fn ask(&mut self, padding: usize) -> std::io::Result<()> {
        let padding = "x".repeat(padding);
        self.exchange(&format!("GET /v1/models HTTP/1.1\r\nHost: model\r\nX-Padding: {padding}\r\n\r\n"))
    }

    /// Asks the model for so many tokens, and reads the whole answer.
    fn complete(&mut self, tokens: usize) -> std::io::Result<()> {
        let body = format!(r#"{{"prompt": "Name a number.", "max_tokens": {tokens}, "ignore_eos": true}}"#);
        let head = "POST /v1/completions HTTP/1.1\r\nHost: model\r\nContent-Type: application/json";
        self.exchange(&format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    fn exchange(&mut self, request: &str) -> std::io::Result<()> {
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.0.read_until(b'\n', &mut head)? == 0 {
                return Err(std::io::Error::other("the server closed the connection"));
            }
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let length = length.filter(|_| head.starts_with("http/1.1 200"));
        let mut body = vec![0; length.ok_or_else(|| std::io::Error::other(head))?];
        self.0.read_exact(&mut body)
    }
}

/// A BPF file system of this test's own: pins in it go with the process that holds it.
struct Pins {
    holder: Process,
}

impl Pins {
    fn mount(namespace: &Namespace, folder: &Path) -> Self {
        let mut command = namespace.command("sh");
        command.args(["-c", "mount -t bpf bpf /sys/fs/bpf && echo mounted && exec cat"]);
        let mut holder = Process::spawn("pins", command, folder).unwrap();
        holder.ready(PATIENCE, |holder| holder.output().contains("mounted").then_some(())).unwrap();
        Self { holder }
    }

    /// `program`, to be run where it sees them, in the same network.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount", "--net"]).arg(program);
        command
    }
}
