//! What a real HTTP load notices of the agent: requests a second and the 99th percentile of latency, of wrk against nginx
//! over a veth pair, in clear text and in TLS.
//!
//! Each round measures with no program, with programs that do nothing, and with the agent, in an order that rotates:
//! what disturbs the machine meets all of them alike. Programs in native XDP turn offloads of a veth pair off by
//! themselves, so the agent is compared with the empty ones, attached in the same way.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, TcAttachType, Xdp, XdpMode},
};
use hydrometer_tests::{
    agent::Agent,
    net::{Network, SERVER_INTERFACE, SERVER_V4},
    nginx,
    process::{Process, wait_for},
    programs,
};

/// Of pairs, so of each measurement; 13 have one in the middle, and one in the middle of each half.
const ROUNDS: usize = 13;
const SECONDS: u32 = 3;
const CONNECTIONS: u32 = 16;
/// Bytes of an answer's body.
const BODY: usize = 1024;
/// What the agent may cost, compared with programs that do nothing.
const LEAST_RATE: f64 = 0.99;
const MOST_LATENCY: f64 = 1.02;

/// The ports of nginx, and what is spoken there.
const LOADS: [(&str, u16); 2] = [("http", 8080), ("https", 8443)];

/// What is on the server's interface.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Nothing,
    Empty,
    Agent,
}

const PROGRAMS: [Program; 3] = [Program::Nothing, Program::Empty, Program::Agent];

/// What one run of wrk says.
#[derive(Clone, Copy)]
struct Measured {
    /// Requests a second.
    rate: f64,
    /// 99th percentile of latency, seconds.
    latency: f64,
    /// Time of a processor that the agent's process took for each request, seconds.
    agent: f64,
}

/// Measures, prints and judges.
pub(crate) fn run() -> Result<()> {
    let network = Network::new()?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let _nginx = serve(&network, folder.path())?;
    let mut empty = EbpfLoader::new().load(programs::bench()).context("cannot load the empty programs")?;
    // By load, by round, by program.
    let mut rounds = [const { Vec::new() }; LOADS.len()];
    for round in 0..ROUNDS {
        let mut measured = [[None; PROGRAMS.len()]; LOADS.len()];
        for turn in 0..PROGRAMS.len() {
            let number = (round + turn) % PROGRAMS.len();
            let mut attached = attach(PROGRAMS[number], &network, &mut empty, folder.path())?;
            for (load, measured) in LOADS.iter().zip(&mut measured) {
                let before = attached.processor_time()?;
                let mut run = wrk(&network, *load)?;
                let took = attached.processor_time()?.saturating_sub(before);
                run.agent = took.as_secs_f64() / (run.rate * f64::from(SECONDS));
                measured[number] = Some(run);
            }
            attached.detach(&network, &mut empty)?;
        }
        for (rounds, measured) in rounds.iter_mut().zip(measured) {
            let [Some(nothing), Some(empty), Some(agent)] = measured else {
                bail!("a measurement is missing")
            };
            rounds.push([nothing, empty, agent]);
        }
    }
    let mut dear = Vec::new();
    for ((name, _), rounds) in LOADS.iter().zip(&rounds) {
        dear.extend(judge(name, rounds));
    }
    ensure!(dear.is_empty(), "{}", dear.join("; "));
    Ok(())
}

/// Prints what the rounds of one load say; returns what is dearer than it may be.
fn judge(name: &str, rounds: &[[Measured; PROGRAMS.len()]]) -> Vec<String> {
    let median = |of: fn(&Measured) -> f64| Spread::of(rounds.iter().map(|[nothing, ..]| of(nothing))).median;
    println!(
        "load {name}: {:.0} requests/s and {:.2} ms at p99 with no program",
        median(|measured| measured.rate),
        median(|measured| measured.latency) * 1e3
    );
    let agent = Spread::of(rounds.iter().map(|round| round[Program::Agent as usize].agent * 1e6));
    println!("  the agent's process took {:.2} us of a processor for each request", agent.median);
    let mut dear = Vec::new();
    for (what, one, other, is_limited) in [
        ("empty programs to none", Program::Empty, Program::Nothing, false),
        ("agent to none", Program::Agent, Program::Nothing, false),
        ("agent to empty programs", Program::Agent, Program::Empty, true),
    ] {
        let ratios = |of: fn(&Measured) -> f64| {
            Spread::of(rounds.iter().map(|round| of(&round[one as usize]) / of(&round[other as usize])))
        };
        let (rate, latency) = (ratios(|measured| measured.rate), ratios(|measured| measured.latency));
        println!("  {what:<24} requests/s {rate}   p99 {latency}");
        if is_limited && (rate.median < LEAST_RATE || latency.median > MOST_LATENCY) {
            dear.push(format!("with the agent, {name} has {rate} the requests/s and {latency} the p99"));
        }
    }
    dear
}

/// The middle of many values, and between what the middle half of them is.
struct Spread {
    median: f64,
    quartiles: [f64; 2],
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
        Self { median: at(2), quartiles: [at(1), at(3)] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [low, high] = self.quartiles;
        write!(f, "{:.3}x ({low:.3} to {high:.3})", self.median)
    }
}

/// What is attached.
enum Attached {
    Nothing,
    Empty,
    Agent(Box<Agent>),
}

fn attach(program: Program, network: &Network, empty: &mut Ebpf, folder: &Path) -> Result<Attached> {
    Ok(match program {
        Program::Nothing => Attached::Nothing,
        Program::Empty => {
            network.server().run(|| attach_empty(empty))??;
            Attached::Empty
        }
        Program::Agent => {
            let services = LOADS.map(|(_, port)| port.to_string()).join(",");
            let arguments = ["--iface", SERVER_INTERFACE, "--service", &services];
            Attached::Agent(Box::new(Agent::start(network.server(), folder, arguments)?))
        }
    })
}

/// As the agent attaches on a veth pair: native XDP for packets in several pieces, and TCX.
fn attach_empty(empty: &mut Ebpf) -> Result<()> {
    let xdp = xdp(empty)?;
    xdp.load().context("cannot load empty_frags")?;
    xdp.attach(SERVER_INTERFACE, XdpMode::Driver).context("cannot attach empty_frags")?;
    let tc = tc(empty)?;
    tc.load().context("cannot load empty_tc")?;
    tc.attach(SERVER_INTERFACE, TcAttachType::Egress).context("cannot attach empty_tc")?;
    Ok(())
}

fn xdp(empty: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(empty.program_mut("empty_frags").context("no program empty_frags")?.try_into()?)
}

fn tc(empty: &mut Ebpf) -> Result<&mut SchedClassifier> {
    Ok(empty.program_mut("empty_tc").context("no program empty_tc")?.try_into()?)
}

impl Attached {
    /// What the agent's process has taken so far.
    fn processor_time(&mut self) -> Result<Duration> {
        let Self::Agent(agent) = self else { return Ok(Duration::ZERO) };
        let path = format!("/proc/{}/stat", agent.process().id());
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // Behind the name, which is in brackets: user time is the 12th field, system time the 13th (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(')').with_context(|| format!("{path} is not as proc(5) says"))?;
        let ticks =
            fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Takes it off, and waits until it is.
    fn detach(self, network: &Network, empty: &mut Ebpf) -> Result<()> {
        match self {
            Self::Nothing => return Ok(()),
            Self::Empty => {
                xdp(empty)?.unload()?;
                tc(empty)?.unload()?;
            }
            Self::Agent(mut agent) => {
                agent.process().terminate(Duration::from_secs(10))?;
            }
        }
        wait_for("programs to be gone", Duration::from_secs(10), || {
            let left = hydrometer_tests::attached::programs(network.server(), SERVER_INTERFACE)?;
            Ok(left.is_empty().then_some(()))
        })
    }
}

/// nginx, which answers by itself, in clear text and in TLS.
fn serve(network: &Network, folder: &Path) -> Result<Process> {
    nginx::make_certificate(folder)?;
    let folder_shown = folder.display();
    let [(_, plain), (_, tls)] = LOADS;
    let body = "a".repeat(BODY);
    let config = format!(
        "daemon off; master_process off; pid {folder_shown}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 100000000; tcp_nodelay on;
    ssl_certificate {folder_shown}/certificate.pem; ssl_certificate_key {folder_shown}/key.pem;
    server {{ listen {SERVER_V4}:{plain}; listen {SERVER_V4}:{tls} ssl; location / {{ return 200 {body}; }} }}
}}
"
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = network.server().command("nginx");
    command.arg("-e").arg(folder.join("error.log")).arg("-c").arg(&path);
    let mut nginx = Process::spawn("nginx", command, folder)?;
    nginx.ready(Duration::from_secs(20), |_| {
        network.server().run(|| std::net::TcpStream::connect((SERVER_V4, plain)).is_ok()).ok()?.then_some(())
    })?;
    Ok(nginx)
}

/// Loads nginx for a while.
fn wrk(network: &Network, (scheme, port): (&str, u16)) -> Result<Measured> {
    let mut command = network.client().command("wrk");
    command.args(["--threads", "1", "--connections", &CONNECTIONS.to_string()]);
    command.args([
        "--duration",
        &format!("{SECONDS}s"),
        "--latency",
        &format!("{scheme}://{SERVER_V4}:{port}/"),
    ]);
    let output = command.output().context("cannot run wrk; install it (`cargo xtask setup`)")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    ensure!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "not all was answered: {said}");
    let value = |label: &str| said.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    let rate = value("Requests/sec:").and_then(|rate| rate.parse().ok());
    let latency = value("99%").and_then(seconds);
    let (Some(rate), Some(latency)) = (rate, latency) else { bail!("wrk says something else: {said}") };
    Ok(Measured { rate, latency, agent: 0.0 })
}

/// A time as wrk writes it, such as 812.00us.
fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|character: char| character.is_ascii_alphabetic())?);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}
