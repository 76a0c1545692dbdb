//! Every way of attaching counts what the proxy's access log says, beside the programs of others, on interfaces that
//! come and go, and each packet once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{net::IpAddr, time::Duration};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, links::Link as _, tc::TcAttachOptions,
    },
};
use hydrometer_proto::v1::{Attachment, ClientCounters};
use hydrometer_tests::{
    agent::Agent,
    attached, curl,
    net::{Network, SERVER_INTERFACE, SERVER_V4},
    nginx::{self, Nginx, Security, Summary},
    process::wait_for,
    programs,
};
use tempfile::TempDir;

/// Waiting for what has to happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bodies of the requests of one connection: small ones, and ones of many segments.
const UPLOADS: [usize; 5] = [0, 200_000, 700, 900_000, 0];

#[test]
fn every_mode_counts_as_the_access_log_counts() {
    let place = Place::start();
    for (way, mtu, ingress, egress) in [
        ("auto", 1500, "xdp-native-frags", "tcx"),
        ("xdp-native", 1500, "xdp-native", "tcx"),
        ("xdp-skb", 1500, "xdp-skb", "tcx"),
        ("tc", 1500, "tcx", "tcx"),
        ("clsact", 1500, "clsact", "clsact"),
        // Jumbo frames: at XDP in several pieces.
        ("xdp", 9000, "xdp-native-frags", "tcx"),
        ("xdp-skb", 9000, "xdp-skb", "tcx"),
        ("tcx", 9000, "tcx", "tcx"),
    ] {
        place.set_mtu(mtu);
        let agent = place.agent(&["--iface", SERVER_INTERFACE, "--attach", way]);
        assert_eq!(modes(&agent), [format!("ingress {ingress}"), format!("egress {egress}")], "{way}");
        for counters in place.ask_and_compare(&agent) {
            let mean = counters.ingress_bytes / counters.ingress_packets;
            println!("{way} at {mtu}: {mean} bytes a packet from the client");
            // Without native XDP the stack hands over super-frames: of those, or of jumbo frames, the mean is above
            // what an ordinary frame holds, acknowledgements included.
            let is_ordinary = mtu == 1500 && ingress.starts_with("xdp-native");
            assert_eq!(mean <= 1500, is_ordinary, "{way} at {mtu}: {counters:?}");
        }
        place.stop(agent);
    }
}

#[test]
fn somebody_elses_xdp_program_stays_and_tc_takes_its_place() {
    let place = Place::start();
    let mut ebpf = Ebpf::load(programs::bench()).unwrap();
    let foreign: &mut Xdp = ebpf.program_mut("empty_xdp").unwrap().try_into().unwrap();
    foreign.load().unwrap();
    let id = foreign.info().unwrap().id();
    place.network.server().run(|| foreign.attach(SERVER_INTERFACE, XdpMode::Driver)).unwrap().unwrap();
    let before = place.attached();
    assert_eq!(before.len(), 1, "{before:?}");

    let agent = place.agent(&["--iface", SERVER_INTERFACE]);
    let attachments = agent.status().unwrap().attachments;
    let [ingress, egress] = attachments.as_slice() else { panic!("{attachments:?}") };
    assert_eq!((ingress.mode.as_str(), egress.mode.as_str()), ("tcx", "tcx"));
    assert_eq!(ingress.note, format!("XDP is taken by program empty_xdp (id {id})"));
    place.ask_and_compare(&agent);
    place.stop(agent);
    assert_eq!(place.attached(), before);
}

#[test]
fn the_programs_stand_where_they_were_told_to_among_those_of_others() {
    let place = Place::start();
    // The same program twice, from two objects.
    let mut objects = [(); 2].map(|()| Ebpf::load(programs::bench()).unwrap());
    let mut links = Vec::new();
    let ids = objects.each_mut().map(|ebpf| {
        let program: &mut SchedClassifier = ebpf.program_mut("empty_tc").unwrap().try_into().unwrap();
        program.load().unwrap();
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let last = TcAttachOptions::TcxOrder(LinkOrder::last());
            let attach = || program.attach_with_options(SERVER_INTERFACE, direction, last);
            let id = place.network.server().run(attach).unwrap().unwrap();
            links.push(program.take_link(id).unwrap());
        }
        program.info().unwrap().id()
    });
    let [a, b] = ids.map(|id| format!("empty_tc id {id}"));
    let before = place.attached();
    for (position, order) in [
        ("first", ["ours", &a, &b]),
        ("last", [&a, &b, "ours"]),
        ("before:empty_tc", ["ours", &a, &b]),
        ("after:empty_tc", [&a, "ours", &b]),
        (&format!("before:{}", ids[1]), [&a, "ours", &b]),
        (&format!("after:{}", ids[1]), [&a, &b, "ours"]),
        // One that is not there.
        ("before:cil_to_netdev", ["ours", &a, &b]),
    ] {
        let agent = place.agent(&["--iface", SERVER_INTERFACE, "--attach", "tc", "--tc-position", position]);
        for (direction, ours) in [("ingress", "hyd_tc_ingress"), ("egress", "hyd_egress")] {
            let programs = place.programs_at_tcx(direction);
            assert_eq!(programs.len(), 3, "{programs:?}");
            for (program, expected) in programs.iter().zip(order) {
                let expected = if expected == "ours" { ours } else { expected };
                assert!(program.starts_with(expected), "{position}, {direction}: {programs:?}");
            }
        }
        let is_absent = position.contains("cil");
        for attachment in agent.status().unwrap().attachments {
            assert_eq!(attachment.note.contains("is not found here"), is_absent, "{attachment:?}");
        }
        place.ask_and_compare(&agent);
        place.stop(agent);
        assert_eq!(place.attached(), before, "{position}");
    }
    for link in links {
        link.detach().unwrap();
    }
}

/// A device on top of the server's interface, by whose address the server is reached as well.
const UPPER: &str = "upper0";
const UPPER_CLIENT: &str = "10.79.0.2";

#[test]
fn a_packet_that_crosses_two_devices_is_counted_at_one_of_them() {
    let place = Place::start();
    for kind in ["macvlan mode bridge", "vlan id 42"] {
        let Some(device) = place.add_upper(kind) else {
            println!("{kind}: not tried, since this kernel makes no such device");
            continue;
        };
        let both = format!("{SERVER_INTERFACE},{UPPER}");
        for (include, exclude, watched, left_out) in [
            (both.as_str(), "lo", SERVER_INTERFACE, &[UPPER][..]),
            ("/server0|upper0/", "lo", SERVER_INTERFACE, &[UPPER]),
            (UPPER, "lo", UPPER, &[]),
            ("10.79.0.0/24", "lo", UPPER, &[]),
            ("/.*/", "lo,10.77.0.1", UPPER, &[]),
        ] {
            let agent = place.agent(&["--iface", include, "--exclude-iface", exclude]);
            wait_until_watching(&agent, &[watched]);
            let unwatched = agent.status().unwrap().interfaces.unwrap().unwatched;
            let names: Vec<_> = unwatched.iter().map(|unwatched| unwatched.interface.as_str()).collect();
            assert_eq!(names, left_out, "{kind}, {include}: {unwatched:?}");
            // Tags are in the frames, or taken off by the kernel before TC.
            let counters = place.ask_by_way_of(&agent, "10.79.0.1", &device, UPPER_CLIENT);
            assert_eq!(counters.syns, 1, "{kind}, {include}");
            place.stop(agent);
        }
        place.remove_upper(&device);
    }
}

/// The clients' end of a tunnel whose other end is the server's.
const TUNNEL_CLIENT: &str = "10.80.0.2";

#[test]
fn what_a_tunnel_carries_is_counted_at_the_device_below_it() {
    let place = Place::start();
    let (server, client) = (place.network.server(), place.network.client());
    server.ip(&format!("address add 192.168.77.1/24 dev {SERVER_INTERFACE}")).unwrap();
    client.ip("address add 192.168.77.2/24 dev client0").unwrap();
    let first = place.network.first_client().v6.to_string();
    for (way, from, to, port) in [
        ("auto", "192.168.77.1", "192.168.77.2", 4789),
        ("tc", "192.168.77.1", "192.168.77.2", 8472),
        ("auto", "fd77::1", first.as_str(), 8472),
        ("tc", "fd77::1", first.as_str(), 4789),
    ] {
        let add = |local: &str, remote: &str, below: &str| {
            format!("link add vx0 type vxlan id 42 dstport {port} local {local} remote {remote} dev {below}")
        };
        if let Err(error) = server.ip(&add(from, to, SERVER_INTERFACE)) {
            assert!(error.to_string().contains("Unknown device type"), "{error:#}");
            println!("not tried, since this kernel has no VXLAN");
            return;
        }
        client.ip(&add(to, from, "client0")).unwrap();
        for (namespace, address) in [(server, "10.80.0.1"), (client, TUNNEL_CLIENT)] {
            namespace.ip(&format!("address add {address}/24 dev vx0")).unwrap();
            namespace.ip("link set vx0 up").unwrap();
        }
        let tunnel = format!("vxlan:{port}");
        let agent = place.agent(&["--iface", SERVER_INTERFACE, "--attach", way, "--tunnels", &tunnel]);
        let counters = place.ask_by_way_of(&agent, "10.80.0.1", "vx0", TUNNEL_CLIENT);
        assert_eq!(counters.syns, 1, "{way}, {from}");
        let losses = agent.status().unwrap().losses;
        assert!(losses.iter().all(|loss| loss.count == 0), "{losses:?}");
        place.stop(agent);
        server.ip("link delete vx0").unwrap();
        client.ip("link delete vx0").unwrap();
    }
}

/// The end of a veth pair between the two namespaces that is not there from the start; the server is reached
/// through it as well.
const LATE: &str = "late0";
const LATE_CLIENT: &str = "10.78.0.2";

#[test]
fn an_interface_that_appears_later_is_watched_until_it_goes() {
    let place = Place::start();
    for rule in ["/late[0-9]/", "10.78.0.0/24"] {
        let agent = place.agent(&["--iface", rule]);
        assert_eq!(modes(&agent), [""; 0], "nothing to watch yet");

        place.add_late();
        wait_until_watching(&agent, &[LATE]);
        place.ask_through_late(&agent);

        let server = place.network.server();
        server.ip(&format!("link set {LATE} down")).unwrap();
        server.ip(&format!("link set {LATE} name other0")).unwrap();
        // Found by its name it is no longer wanted; by its address it still is.
        let renamed: &[&str] = if rule.starts_with('/') { &[] } else { &["other0"] };
        wait_until_watching(&agent, renamed);
        server.ip(&format!("link set other0 name {LATE}")).unwrap();
        server.ip(&format!("link set {LATE} up")).unwrap();
        wait_until_watching(&agent, &[LATE]);
        place.ask_through_late(&agent);

        server.ip(&format!("link delete {LATE}")).unwrap();
        wait_until_watching(&agent, &[]);
        let interfaces = agent.status().unwrap().interfaces.unwrap();
        assert_eq!(interfaces.vanished, 1, "{interfaces:?}");
        place.add_late();
        wait_until_watching(&agent, &[LATE]);
        place.ask_through_late(&agent);
        place.network.server().ip(&format!("link delete {LATE}")).unwrap();
        place.stop(agent);
    }
}

fn wait_until_watching(agent: &Agent, expected: &[&str]) {
    wait_for(&format!("{expected:?} to be watched"), PATIENCE, || {
        let attachments = agent.status()?.attachments;
        let names: Vec<_> = attachments.iter().map(|attachment| attachment.interface.as_str()).collect();
        Ok((names == expected.repeat(2)).then_some(()))
    })
    .unwrap();
}

/// `DIRECTION MODE` of each attachment.
fn modes(agent: &Agent) -> Vec<String> {
    let attachments = agent.status().unwrap().attachments;
    attachments.iter().map(|Attachment { direction, mode, .. }| format!("{direction} {mode}")).collect()
}

/// A server that answers in TLS 1.3.
struct Place {
    nginx: Nginx,
    network: Network,
    folder: TempDir,
}

impl Place {
    fn start() -> Self {
        let network = Network::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let nginx = Nginx::start_alone(network.server(), folder.path(), Security::Tls13).unwrap();
        Self { nginx, network, folder }
    }

    fn agent(&self, arguments: &[&str]) -> Agent {
        let port = nginx::PORT.to_string();
        let service = ["--service", &port];
        Agent::start(self.network.server(), self.folder.path(), [arguments, &service].concat()).unwrap()
    }

    fn stop(&self, mut agent: Agent) {
        assert!(agent.process().terminate(PATIENCE).unwrap().success(), "{}", agent.process().output());
        let ours: Vec<_> = self.attached().into_iter().filter(|line| line.contains("hyd_")).collect();
        assert_eq!(ours, [""; 0], "after SIGTERM");
    }

    fn set_mtu(&self, mtu: u32) {
        self.network.server().ip(&format!("link set {SERVER_INTERFACE} mtu {mtu}")).unwrap();
        self.network.client().ip(&format!("link set client0 mtu {mtu}")).unwrap();
    }

    fn attached(&self) -> Vec<String> {
        attached::programs(self.network.server(), SERVER_INTERFACE).unwrap()
    }

    /// The programs at tcx, `NAME id ID`, in the order in which they run.
    fn programs_at_tcx(&self, direction: &str) -> Vec<String> {
        let prefix = format!("tcx/{direction} ");
        let attached = self.attached();
        attached.iter().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// A new client asks over IPv4 and over IPv6; what is counted must be what is in the log.
    fn ask_and_compare(&self, agent: &Agent) -> [ClientCounters; 2] {
        let client = self.network.add_client().unwrap();
        [IpAddr::from(client.v4), IpAddr::from(client.v6)].map(|address| self.ask(agent, address))
    }

    fn ask(&self, agent: &Agent, address: IpAddr) -> ClientCounters {
        let (log_before, counted_before) = (self.logged(address), agent.counters(address).unwrap());
        let asked = curl::ask(self.network.client(), &self.nginx, self.folder.path(), address, &UPLOADS);
        asked.unwrap_or_else(|error| panic!("{address}: {error:#}"));
        let log = wait_for("the access log", PATIENCE, || {
            let now = difference(self.logged(address), log_before);
            Ok((now.requests == UPLOADS.len() as u64).then_some(now))
        })
        .unwrap();
        let mut counters = ClientCounters::default();
        let agreed = wait_for("the counters to be the log's", PATIENCE, || {
            counters = agent.counters(address)?;
            let counted = difference(summary(&counters), summary(&counted_before));
            Ok((counted == log && counters.requests == counters.exchanges).then_some(()))
        });
        agreed.unwrap_or_else(|_| panic!("{address}: the log has {log:?}, counted were {counters:?}"));
        counters
    }

    fn logged(&self, address: IpAddr) -> Summary {
        let accesses = self.nginx.accesses().unwrap();
        nginx::summaries(&accesses).remove(&address.into()).unwrap_or_default()
    }

    /// Adds the late interface, with a way through it to the server's address.
    fn add_late(&self) {
        let (server, client) = (self.network.server(), self.network.client());
        server.ip(&format!("link add {LATE} type veth peer name late1 netns {}", client.name())).unwrap();
        server.ip(&format!("address add 10.78.0.1/24 dev {LATE}")).unwrap();
        server.ip(&format!("link set {LATE} up")).unwrap();
        client.ip(&format!("address add {LATE_CLIENT}/24 dev late1")).unwrap();
        client.ip("link set late1 up").unwrap();
    }

    fn ask_through_late(&self, agent: &Agent) {
        self.ask_by_way_of(agent, "10.78.0.1", "late1", LATE_CLIENT);
    }

    /// Adds the upper device, and on the clients' side what it takes to reach it: the name of that device. `None` where
    /// the kernel has no such devices.
    fn add_upper(&self, kind: &str) -> Option<String> {
        let (server, client) = (self.network.server(), self.network.client());
        if let Err(error) = server.ip(&format!("link add link {SERVER_INTERFACE} name {UPPER} type {kind}")) {
            assert!(error.to_string().contains("Unknown device type"), "{kind}: {error:#}");
            return None;
        }
        server.ip(&format!("address add 10.79.0.1/24 dev {UPPER}")).unwrap();
        server.ip(&format!("link set {UPPER} up")).unwrap();
        let device = if kind.starts_with("vlan") {
            client.ip(&format!("link add link client0 name tagged0 type {kind}")).unwrap();
            client.ip("link set tagged0 up").unwrap();
            "tagged0"
        } else {
            "client0"
        };
        client.ip(&format!("address add {UPPER_CLIENT}/24 dev {device}")).unwrap();
        // The lower device would answer for the address of the upper one as well.
        let link = server.ip(&format!("-oneline link show dev {UPPER}")).unwrap();
        let hardware = link.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
        client.ip(&format!("neighbour replace 10.79.0.1 lladdr {hardware} dev {device}")).unwrap();
        Some(device.to_owned())
    }

    fn remove_upper(&self, device: &str) {
        self.network.server().ip(&format!("link delete {UPPER}")).unwrap();
        self.network.client().ip(&format!("address delete {UPPER_CLIENT}/24 dev {device}")).unwrap();
        self.network.client().ip("neighbour flush to 10.79.0.1").unwrap();
    }

    /// `from` asks by way of `gateway`, an address of the server's that is reached through `device`.
    fn ask_by_way_of(&self, agent: &Agent, gateway: &str, device: &str, from: &str) -> ClientCounters {
        let route = format!("{SERVER_V4}/32 via {gateway} dev {device} src {from}");
        self.network.client().ip(&format!("route replace {route}")).unwrap();
        let counters = self.ask(agent, from.parse().unwrap());
        self.network.client().ip(&format!("route delete {route}")).unwrap();
        counters
    }
}

fn summary(counters: &ClientCounters) -> Summary {
    Summary {
        requests: counters.exchanges,
        request_bytes: counters.request_bytes,
        answer_bytes: counters.answer_bytes,
    }
}

fn difference(now: Summary, before: Summary) -> Summary {
    Summary {
        requests: now.requests - before.requests,
        request_bytes: now.request_bytes - before.request_bytes,
        answer_bytes: now.answer_bytes - before.answer_bytes,
    }
}
