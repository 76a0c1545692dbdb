//! Under a flood of SYNs from random addresses real clients lose nothing, and the daemon's memory stays what it was.
//!
//! With `HYDROMETER_FULL` set, ten million SYNs, and twice as many clients at a time: some minutes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{env, fs, net::IpAddr, sync::Mutex, thread, time::Duration};

use hydrometer_proto::v1::GetStatusResponse;
use hydrometer_tests::{
    agent::{self, Agent},
    curl,
    net::{CLIENT_INTERFACE, Network, SERVER_INTERFACE, SERVER_V4},
    nginx::{self, Nginx, Security},
    process::{Process, wait_for},
    python,
};

const CLIENTS: usize = 200;
/// Bodies of the requests of one connection.
const UPLOADS: [usize; 4] = [0, 700, 60_000, 0];
/// How far bytes may be off the log, as a fraction. The flood fills the interface's queue, so segments of real clients
/// are lost, too; until a record boundary is found again, sizes are derived.
const TOLERANCE: f64 = 0.01;
/// What the daemon's memory may grow by during the flood, KiB: buffers that had not been needed.
const MEMORY: u64 = 8 * 1024;
/// And after its first tenth: the real clients' windows go on.
const MEMORY_LATER: u64 = 2 * 1024;
/// For what has to happen.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn a_flood_of_syns_costs_no_real_client_a_count() {
    // The engine keeps 256 exchanges of a client: where memory is compared later, it has them before.
    let is_full = env::var_os("HYDROMETER_FULL").is_some();
    let (syns, at_a_time, before_it) = if is_full { (10_000_000, 8, 64) } else { (300_000, 4, 1) };
    let network = Network::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nginx = Nginx::start_alone(network.server(), folder.path(), Security::Tls13).unwrap();
    // A way back to everywhere, so that the server answers each SYN.
    let gateway = network.first_client().v4;
    network.server().ip(&format!("route add default via {gateway} dev {SERVER_INTERFACE}")).unwrap();
    let mut agent = Agent::start(network.server(), folder.path(), agent::usual_arguments()).unwrap();
    let clients: Vec<IpAddr> = (0..CLIENTS).map(|_| network.add_client().unwrap().v4.into()).collect();
    let ask = |client: IpAddr, uploads: &[usize]| {
        curl::ask(network.client(), &nginx, folder.path(), client, uploads).unwrap();
    };

    // Each is known before the flood, and asks again and again, at least once, while it lasts.
    in_parallel(&clients, at_a_time, |client| ask(client, &UPLOADS.repeat(before_it)));
    let before = memory(agent.process());
    let mut flood = flood(&network, folder.path(), syns);
    let (mut rounds, mut after_a_tenth) = (0, None);
    loop {
        in_parallel(&clients, at_a_time, |client| ask(client, &UPLOADS));
        rounds += 1;
        if after_a_tenth.is_none() && agent.status().unwrap().packets.unwrap().syns >= syns / 10 {
            after_a_tenth = Some(memory(agent.process()));
        }
        if let Some(status) = flood.ended().unwrap() {
            assert!(status.success(), "{}", flood.output());
            break;
        }
    }
    // Before all clients are asked for, which takes some, too.
    let now = memory(agent.process());

    for &client in &clients {
        let asked = (before_it as u64 + rounds) * UPLOADS.len() as u64;
        let log = wait_for("the access log", PATIENCE, || {
            let log = nginx::summaries(&nginx.accesses()?).remove(&client.into()).unwrap_or_default();
            Ok((log.requests == asked).then_some(log))
        });
        let log = log.unwrap();
        let counted = agent.counters(client).unwrap();
        assert_eq!((counted.requests, counted.exchanges), (asked, asked), "{client}");
        assert_eq!(counted.connections, 1 + rounds, "{client}");
        for (counted, logged) in
            [(counted.request_bytes, log.request_bytes), (counted.answer_bytes, log.answer_bytes)]
        {
            let off = counted.abs_diff(logged) as f64 / logged as f64;
            assert!(off < TOLERANCE, "{client}: {counted} bytes, {logged} in the log");
        }
    }
    let status = agent.status().unwrap();
    assert_eq!(status.clients, CLIENTS as u64, "nobody else is a client");
    for stage in
        ["flow_evicted", "client_evicted", "flow_insert", "client_insert", "ring_full", "flow_forgotten"]
    {
        assert_eq!(loss(&status, stage), 0, "{stage}");
    }
    assert!(loss(&status, "newcomer_displaced") > syns / 2, "the flood was one");
    let tables = status.memory.unwrap().tables;
    println!(
        "{syns} SYNs, {rounds} rounds; the daemon took {before} KiB before, {after_a_tenth:?} after a tenth, and takes \
         {now} KiB now; of flows it keeps {tables:?}"
    );
    assert!(now < before + MEMORY, "the daemon took {before} KiB and takes {now} KiB");
    assert!(
        after_a_tenth.is_none_or(|early| now < early + MEMORY_LATER),
        "{after_a_tenth:?} KiB, and {now} KiB"
    );
}

/// SYNs from random addresses, from the clients' end.
fn flood(network: &Network, folder: &std::path::Path, syns: u64) -> Process {
    let link = network.server().ip(&format!("-oneline link show dev {SERVER_INTERFACE}")).unwrap();
    let hardware = link.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let mut command = network.client().command(python::interpreter().unwrap());
    command.arg(python::script("syn_flood.py")).args([CLIENT_INTERFACE, hardware, &SERVER_V4.to_string()]);
    command.args([nginx::PORT.to_string(), syns.to_string()]);
    Process::spawn("syn-flood", command, folder).unwrap()
}

/// Does `job` for each of `clients`, some at a time.
fn in_parallel(clients: &[IpAddr], at_a_time: usize, job: impl Fn(IpAddr) + Sync) {
    let next = Mutex::new(clients.iter());
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let Some(&client) = next.lock().unwrap().next() else { break };
                    job(client);
                }
            });
        }
    });
}

/// Memory of a process that is its own, KiB.
fn memory(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn loss(status: &GetStatusResponse, stage: &str) -> u64 {
    status.losses.iter().find(|loss| loss.stage == stage).unwrap().count
}
