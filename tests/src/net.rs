//! Two network namespaces joined by a veth pair: servers at one end, clients at the other.
//!
//! Needs root. Every pair has the same addresses, since nothing leaves the namespaces: the server's end is
//! 10.77.0.1/16 and fd77::1/32, the clients' end has as many addresses as there are clients (each its own IPv4
//! address and its own IPv6 /64). Names are `hyd-PID-N-s` and `hyd-PID-N-c`; a namespace whose PID is no longer there is swept,
//! with the processes in it, when the next network is made.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// The server's IPv4 address.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The server's IPv6 address.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// The server's interface, inside its namespace: where the agent attaches.
pub const SERVER_INTERFACE: &str = "server0";
/// The clients' interface, inside theirs.
pub const CLIENT_INTERFACE: &str = "client0";

/// Where iproute2 keeps named namespaces.
const NAMESPACES: &str = "/run/netns";
/// First part of every name made here.
const PREFIX: &str = "hyd-";

/// Two namespaces joined by a veth pair, removed on drop.
#[derive(Debug)]
pub struct Network {
    server: Namespace,
    client: Namespace,
    clients: Mutex<u16>,
}

impl Network {
    /// Makes the pair, up and addressed; the first client address exists already.
    pub fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root; run this as root");
        sweep()?;
        let stem = format!("{PREFIX}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let server = Namespace::new(format!("{stem}-s"))?;
        let client = Namespace::new(format!("{stem}-c"))?;
        ip(&format!(
            "link add {SERVER_INTERFACE} netns {} type veth peer name {CLIENT_INTERFACE} netns {}",
            server.name, client.name
        ))?;
        for (namespace, interface) in [(&server, SERVER_INTERFACE), (&client, CLIENT_INTERFACE)] {
            namespace.ip("link set lo up")?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        server.ip(&format!("address add {SERVER_V4}/16 dev {SERVER_INTERFACE}"))?;
        server.ip(&format!("address add {SERVER_V6}/32 dev {SERVER_INTERFACE} nodad"))?;
        let network = Self { server, client, clients: Mutex::new(0) };
        network.add_client()?;
        Ok(network)
    }

    /// Gives the clients' end one more IPv4 address and one more IPv6 address in a /64 of its own.
    pub fn add_client(&self) -> Result<ClientAddress> {
        let mut count =
            self.clients.lock().map_err(|_| anyhow::anyhow!("a thread panicked while adding a client"))?;
        ensure!(*count < 60_000, "a network has room for 60000 clients");
        *count += 1;
        let address = ClientAddress::nth(*count);
        self.client.ip(&format!("address add {}/16 dev {CLIENT_INTERFACE}", address.v4))?;
        self.client.ip(&format!("address add {}/32 dev {CLIENT_INTERFACE} nodad", address.v6))?;
        Ok(address)
    }

    /// The address that was there from the start.
    pub fn first_client(&self) -> ClientAddress {
        ClientAddress::nth(1)
    }

    /// The servers' end.
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// The clients' end.
    pub fn client(&self) -> &Namespace {
        &self.client
    }
}

/// The two addresses of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress {
    /// 10.77.x.y.
    pub v4: Ipv4Addr,
    /// fd77:0:0:n::1: a client to Hydrometer is its /64.
    pub v6: Ipv6Addr,
}

impl ClientAddress {
    /// Those of the client number `n`, from 1.
    pub(crate) fn nth(n: u16) -> Self {
        let [high, low] = (n + 1).to_be_bytes();
        Self { v4: Ipv4Addr::new(10, 77, high, low), v6: Ipv6Addr::new(0xfd77, 0, 0, n, 0, 0, 0, 1) }
    }
}

/// The server's address of the same family as `client`.
pub fn server_for(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => SERVER_V4.into(),
        IpAddr::V6(_) => SERVER_V6.into(),
    }
}

/// One named network namespace, removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    fn new(name: String) -> Result<Self> {
        ip(&format!("netns add {name}"))?;
        Ok(Self { name })
    }

    /// The name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// `program`, to be run in this namespace. `ip` replaces itself, so the process id is the program's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `ip ARGUMENTS` in this namespace.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        ip(&format!("-netns {} {arguments}", self.name))
    }

    /// Runs `job` on a thread of its own inside this namespace: sockets that it opens, and interfaces that it names,
    /// are the namespace's. A panic in `job` is passed on.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| enter(&self.path()).map(|()| job()));
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Begins `job` on a thread of its own inside this namespace, and does not wait for it.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) -> JoinHandle<Result<()>> {
        let path = self.path();
        thread::spawn(move || enter(&path).map(|()| job()))
    }
}

/// Moves this thread, and those that it will start, into the network namespace that `path` holds.
fn enter(path: &Path) -> Result<()> {
    let file =
        File::open(path).with_context(|| format!("cannot open the network namespace {}", path.display()))?;
    move_into_link_name_space(rustix::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter the network namespace {}", path.display()))
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A namespace lives on for as long as a process is in it, listed or not.
        kill_processes(&self.name);
        if let Err(error) = ip(&format!("netns delete {}", self.name)) {
            eprintln!("cannot remove the network namespace {}: {error:#}", self.name);
        }
    }
}

/// Removes namespaces, and the processes in them, that runs now dead have left behind.
pub fn sweep() -> Result<()> {
    let names = match fs::read_dir(NAMESPACES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list the network namespaces in {NAMESPACES}"));
        }
    };
    for entry in names {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(PREFIX).is_some_and(is_of_the_dead) {
            kill_processes(&name);
            // Another test may be sweeping the same name at this moment.
            if let Err(error) = ip(&format!("netns delete {name}"))
                && Path::new(NAMESPACES).join(&name).exists()
            {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Whether `name`, PID-anything, was given by a process that is no longer there.
pub(crate) fn is_of_the_dead(name: &str) -> bool {
    let maker = name.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
    maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Kills what still runs in a namespace made here.
fn kill_processes(name: &str) {
    let Ok(pids) = ip(&format!("netns pids {name}")) else { return };
    for pid in pids.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
        // It may have ended since.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Runs `ip ARGUMENTS` (separated by blanks) and returns its output.
fn ip(arguments: &str) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .context("cannot run `ip`; install iproute2 (`cargo xtask setup`)")?;
    if !output.status.success() {
        bail!("`ip {arguments}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
