//! The agent's settings: a TOML file and the command line's flags, merged and validated whole.
//!
//! [`Settings`] is what a user may write, the same in the file and as flags; [`Config`] is what the
//! agent runs on. Invariant: a `Config` exists only if every setting in it makes sense, and a
//! refusal names every setting that does not.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use hydrometer_engine::{EngineConfig, Service};
use serde::Deserialize;

use crate::identity::Secret;
use crate::kernel::{AttachOptions, KernelOptions, PatternError, Position, PositionError, Selection, Way};

mod context;
mod control_plane;
mod judging;
mod metrics;
mod traffic;

/// Where the secret of API keys is, unless that is set.
const SECRET: &str = "/var/lib/hydrometer/api-keys.secret";

/// Where mutes and acknowledgements of the command line are kept, unless that is set.
const MUTES: &str = "/var/lib/hydrometer/mutes.json";
/// Where the agent remembers what it has learnt, unless told otherwise.
const STATE: &str = "/var/lib/hydrometer/engine.state";

/// What the kernel programs' table of services holds.
const MAX_SERVICES: usize = 1024;

pub use context::{
    AcknowledgementSettings, ContextSettings, ContractSettings, InfrastructureSettings, MuteSettings,
    ReleaseSettings,
};
pub use control_plane::{ControlPlane, ControlPlaneSettings, SpoolOptions, TlsFiles};
pub use metrics::{Metrics, MetricsSettings};
pub use traffic::TrafficSettings;

/// What the agent runs on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node: String,
    /// Unix socket of the local API.
    pub socket: PathBuf,
    /// What to load into the kernel.
    pub kernel: KernelOptions,
    /// After this long without a byte an answered exchange is over.
    pub quiet: Duration,
    /// What the daemon logs.
    pub log: LogLevel,
    /// Where anomalies are reported; `None` keeps them on this node.
    pub control_plane: Option<ControlPlane>,
    /// Where they wait for it.
    pub spool: SpoolOptions,
    /// Where Prometheus and probes are answered; `None` answers nobody.
    pub metrics: Option<Metrics>,
    /// Where mutes and acknowledgements of the command line are kept.
    pub mutes: PathBuf,
    /// Where it remembers what it has learnt; `None` for learning anew at every start.
    pub state: Option<StateOptions>,
    /// Settings of the engine.
    pub engine: EngineConfig,
}

/// Where the agent remembers what it has learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateOptions {
    /// The file.
    pub file: PathBuf,
    /// Between two writes, where no anomaly changes.
    pub every: Duration,
}

/// What a user may set, each in the file or as a flag.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Attach to these interfaces: a name, a /regular expression/, or an address that they have, with or
    /// without /PREFIX; repeat for several
    #[arg(long = "iface", value_name = "IFACE", value_delimiter = ',')]
    interfaces: Vec<String>,
    /// But not to these; likewise
    #[arg(long = "exclude-iface", value_name = "IFACE", value_delimiter = ',')]
    exclude_interfaces: Vec<String>,
    /// How to attach [default: auto]
    #[arg(long, value_name = "MODE")]
    attach: Option<Way>,
    /// Place among the TC programs of others: first, last, before:PROGRAM or after:PROGRAM (name or id)
    /// [default: first]
    #[arg(long, value_name = "PLACE")]
    tc_position: Option<String>,
    /// Watch this service, a port or ADDRESS:PORT; repeat for several
    #[arg(long = "service", value_name = "[ADDRESS:]PORT", value_delimiter = ',')]
    services: Vec<String>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME", env = "HYDROMETER_NODE")]
    node: Option<String>,
    /// Set by the global flag on the command line.
    #[arg(skip)]
    socket: Option<PathBuf>,
    /// Connections tracked at once [default: 131072]
    #[arg(long, value_name = "COUNT")]
    max_flows: Option<u32>,
    /// Clients counted in the kernel at once [default: 65536]
    #[arg(long, value_name = "COUNT")]
    max_clients: Option<u32>,
    /// HTTP/2 streams in clear text, and HTTP/2 connections, tracked at once [default: 16384]
    #[arg(long, value_name = "COUNT")]
    max_streams: Option<u32>,
    /// Size of the ring buffer that carries finished exchanges [default: 8388608]
    #[arg(long, value_name = "BYTES")]
    ring_bytes: Option<u32>,
    /// After this long without a byte an answered exchange is over [default: 1m]
    #[arg(long, value_name = "SPAN")]
    quiet: Option<String>,
    /// File that keeps baselines and open anomalies across restarts, or none
    /// [default: /var/lib/hydrometer/engine.state]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Between two writes of it; changes of anomalies are written within seconds [default: 5m]
    #[arg(long, value_name = "SPAN")]
    state_every: Option<String>,
    /// Leave the programs attached when the agent ends
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pin: Option<bool>,
    /// Log of the kernel programs [default: off]
    #[arg(long, value_name = "LEVEL")]
    kernel_log: Option<LogLevel>,
    /// Log of the daemon [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<LogLevel>,
    #[command(flatten)]
    traffic: TrafficSettings,
    #[command(flatten)]
    control_plane: ControlPlaneSettings,
    #[command(flatten)]
    metrics: MetricsSettings,
    #[arg(skip)]
    engine: EngineConfig,
    /// File of contracts, of the operator's own machines and of releases, beside those in the settings' file
    #[arg(long, value_name = "FILE")]
    contracts: Option<PathBuf>,
    #[arg(skip)]
    contract: Vec<ContractSettings>,
    #[arg(skip)]
    infrastructure: Vec<InfrastructureSettings>,
    #[arg(skip)]
    release: Vec<ReleaseSettings>,
    /// File in which mutes and acknowledgements of the command line are kept over restarts
    /// [default: /var/lib/hydrometer/mutes.json]
    #[arg(long, value_name = "FILE")]
    mutes: Option<PathBuf>,
    #[arg(skip)]
    mute: Vec<MuteSettings>,
    #[arg(skip)]
    acknowledgement: Vec<AcknowledgementSettings>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing
    Off,
    /// What failed
    Error,
    /// What may soon fail
    Warn,
    /// What changed
    Info,
    /// For finding faults
    Debug,
    /// Everything
    Trace,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or says something that is no setting.
    #[error("{}:{line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: usize,
        /// What is wrong there, with its key.
        message: String,
    },
    /// Settings that make no sense, all of them.
    #[error("the configuration is not usable: {}", problems.join("; "))]
    Invalid {
        /// One sentence each.
        problems: Vec<String>,
    },
}

impl Settings {
    /// Reads a TOML file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| parse_error(path, &text, &error))
    }

    /// These settings, and where they say nothing, those of `file`.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
        let or = |flags: Vec<String>, file| if flags.is_empty() { file } else { flags };
        Self {
            interfaces: or(self.interfaces, file.interfaces),
            exclude_interfaces: or(self.exclude_interfaces, file.exclude_interfaces),
            attach: self.attach.or(file.attach),
            tc_position: self.tc_position.or(file.tc_position),
            services: or(self.services, file.services),
            node: self.node.or(file.node),
            socket: self.socket.or(file.socket),
            max_flows: self.max_flows.or(file.max_flows),
            max_clients: self.max_clients.or(file.max_clients),
            max_streams: self.max_streams.or(file.max_streams),
            ring_bytes: self.ring_bytes.or(file.ring_bytes),
            quiet: self.quiet.or(file.quiet),
            state: self.state.or(file.state),
            state_every: self.state_every.or(file.state_every),
            pin: self.pin.or(file.pin),
            kernel_log: self.kernel_log.or(file.kernel_log),
            log: self.log.or(file.log),
            traffic: self.traffic.over(file.traffic),
            control_plane: self.control_plane.over(file.control_plane),
            metrics: self.metrics.over(file.metrics),
            contracts: self.contracts.or(file.contracts),
            mutes: self.mutes.or(file.mutes),
            // No flags for these.
            engine: file.engine,
            contract: file.contract,
            infrastructure: file.infrastructure,
            release: file.release,
            mute: file.mute,
            acknowledgement: file.acknowledgement,
        }
    }

    /// The same settings with another socket, if there is one.
    #[must_use]
    pub fn with_socket(self, socket: Option<PathBuf>) -> Self {
        Self { socket: socket.or(self.socket), ..self }
    }

    /// Checks everything and fills in the defaults.
    pub fn validate(self) -> Result<Config, ConfigError> {
        let mut problems = Problems::default();
        let services = services(&self.services, &mut problems);
        let interfaces = interfaces(&self.interfaces, &self.exclude_interfaces, &mut problems);
        let attach = AttachOptions {
            way: self.attach.unwrap_or_default(),
            position: position(self.tc_position.as_deref(), &mut problems),
        };
        let node = self.node.unwrap_or_else(host_name);
        problems.check(!node.is_empty() && !node.contains(char::is_control), || {
            format!("node {node:?} is no name: give --node NAME")
        });
        let kernel = KernelOptions {
            services,
            max_flows: within("max_flows", self.max_flows.unwrap_or(131_072), 1 << 24, &mut problems),
            max_clients: within("max_clients", self.max_clients.unwrap_or(65_536), 1 << 24, &mut problems),
            known_clients: self.engine.max_clients,
            max_streams: within("max_streams", self.max_streams.unwrap_or(16_384), 1 << 24, &mut problems),
            ring_bytes: within("ring_bytes", self.ring_bytes.unwrap_or(8 << 20), 1 << 30, &mut problems),
            traffic: self.traffic.validate(Secret::File(SECRET.into()), &mut problems),
            log_level: self.kernel_log.unwrap_or(LogLevel::Off).level(),
            interfaces,
            attach,
            pin: self.pin.unwrap_or(false),
        };
        let quiet = span("quiet", self.quiet.as_deref().unwrap_or("1m"), &mut problems);
        let every = span("state_every", self.state_every.as_deref().unwrap_or("5m"), &mut problems);
        let file = self.state.unwrap_or_else(|| STATE.into());
        let state = (file != Path::new("none")).then_some(StateOptions { file, every });
        let spool = self.control_plane.spool(&mut problems);
        let control_plane = self.control_plane.validate(&mut problems);
        let metrics = self.metrics.validate(&mut problems);
        let context = ContextSettings {
            contract: self.contract,
            infrastructure: self.infrastructure,
            release: self.release,
            mute: self.mute,
            acknowledgement: self.acknowledgement,
        };
        let engine = judging::engine(
            self.engine,
            context,
            self.contracts.as_deref(),
            kernel.traffic.ipv6_prefix,
            &mut problems,
        );
        problems.none_or(Config {
            node,
            socket: self.socket.unwrap_or_else(|| crate::cli::DEFAULT_SOCKET.into()),
            kernel,
            quiet,
            log: self.log.unwrap_or(LogLevel::Info),
            control_plane,
            spool,
            metrics,
            mutes: self.mutes.unwrap_or_else(|| MUTES.into()),
            state,
            engine,
        })
    }
}

impl LogLevel {
    /// The least important level that is logged; `None` for none.
    pub fn level(self) -> Option<tracing::Level> {
        match self {
            Self::Off => None,
            Self::Error => Some(tracing::Level::ERROR),
            Self::Warn => Some(tracing::Level::WARN),
            Self::Info => Some(tracing::Level::INFO),
            Self::Debug => Some(tracing::Level::DEBUG),
            Self::Trace => Some(tracing::Level::TRACE),
        }
    }
}

/// What is wrong so far.
#[derive(Debug, Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: String) {
        self.0.push(problem);
    }

    fn check(&mut self, is_fine: bool, problem: impl FnOnce() -> String) {
        if !is_fine {
            self.add(problem());
        }
    }

    fn none_or<T>(self, settings: T) -> Result<T, ConfigError> {
        if self.0.is_empty() { Ok(settings) } else { Err(ConfigError::Invalid { problems: self.0 }) }
    }
}

fn interfaces(include: &[String], exclude: &[String], problems: &mut Problems) -> Selection {
    problems.check(!include.is_empty(), || {
        "no interface is named: give --iface IFACE, or interfaces in the file".to_owned()
    });
    for (texts, what) in [(include, "interface"), (exclude, "excluded interface")] {
        for text in twice(texts) {
            problems.add(format!("{what} {text} is named twice: name it once"));
        }
    }
    let mut patterns = |texts: &[String]| {
        texts
            .iter()
            .filter_map(|text| {
                text.parse().map_err(|error: PatternError| problems.add(error.to_string())).ok()
            })
            .collect()
    };
    let selection = Selection { include: patterns(include), exclude: patterns(exclude) };
    for name in selection.excluded_names() {
        problems.add(format!("interface {name} is both named and excluded: do one"));
    }
    selection
}

fn position(text: Option<&str>, problems: &mut Problems) -> Position {
    text.map_or_else(Position::default, |text| {
        text.parse().unwrap_or_else(|error: PositionError| {
            problems.add(format!("tc_position: {error}"));
            Position::default()
        })
    })
}

fn services(texts: &[String], problems: &mut Problems) -> Vec<Service> {
    problems.check(!texts.is_empty(), || {
        "no service is named: give --service PORT, or services in the file".to_owned()
    });
    problems.check(texts.len() <= MAX_SERVICES, || {
        format!(
            "{} services are named, and {MAX_SERVICES} is the most: name a port alone to watch it on every address",
            texts.len()
        )
    });
    let services: Vec<_> = texts
        .iter()
        .filter_map(|text| {
            let service = service(text);
            problems.check(service.is_some(), || {
                format!("service {text:?} is neither a port nor ADDRESS:PORT: write 8000, 10.0.0.5:8000 or [fd00::1]:8000")
            });
            service
        })
        .collect();
    for service in twice(&services) {
        problems.add(format!("the service on port {} is named twice: name it once", service.port));
    }
    services
}

/// Reads `8000`, `10.0.0.5:8000` or `[fd00::1]:8000`.
pub(crate) fn service(text: &str) -> Option<Service> {
    let service = if let Ok(port) = text.parse::<u16>() {
        Service { address: None, port }
    } else {
        let address: SocketAddr = text.parse().ok()?;
        Service { address: Some(address.ip().to_canonical()), port: address.port() }
    };
    (service.port != 0).then_some(service)
}

/// Those that stand more than once.
fn twice<T: PartialEq>(values: &[T]) -> impl Iterator<Item = &T> {
    values.iter().enumerate().filter(|&(at, value)| values[..at].contains(value)).map(|(_, value)| value)
}

fn within(name: &str, value: u32, most: u32, problems: &mut Problems) -> u32 {
    problems.check((1..=most).contains(&value), || {
        format!("{name} is {value}: set it to 1 or more, and to {most} or less")
    });
    value
}

fn span(name: &str, text: &str, problems: &mut Problems) -> Duration {
    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_hours(1);
    let span: Option<Duration> =
        text.parse::<jiff::SignedDuration>().ok().and_then(|span| span.try_into().ok());
    problems.check(span.is_some_and(|span| (LEAST..=MOST).contains(&span)), || {
        format!("{name} is {text:?}: set it to a span from 100ms to 1h, such as 10s")
    });
    span.unwrap_or(LEAST)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn parse_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(text.len(), |span| span.start.min(text.len()));
    let line = text.get(..at).map_or(0, |before| before.matches('\n').count());
    let message = error.message().replace('\n', " ");
    let key = text.lines().nth(line).and_then(|line| line.split_once('=')).map_or("", |(key, _)| key.trim());
    ConfigError::Parse {
        path: path.to_owned(),
        line: line + 1,
        message: if key.is_empty() { message } else { format!("{key}: {message}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_toml(text: &str) -> Result<Settings, ConfigError> {
        toml::from_str(text).map_err(|error| parse_error(Path::new("agent.toml"), text, &error))
    }

    fn flags(args: &[&str]) -> Settings {
        #[derive(clap::Parser)]
        struct Flags {
            #[command(flatten)]
            settings: Settings,
        }
        let args = ["test"].iter().chain(args);
        <Flags as clap::Parser>::try_parse_from(args).unwrap().settings
    }

    #[test]
    fn a_service_is_a_port_or_an_address_and_a_port() {
        let cases = [
            ("8000", Some((None, 8000))),
            ("10.0.0.5:8000", Some((Some("10.0.0.5"), 8000))),
            ("[fd00::1]:8000", Some((Some("fd00::1"), 8000))),
            ("[::ffff:10.0.0.5]:8000", Some((Some("10.0.0.5"), 8000))),
            ("0", None),
            ("65536", None),
            ("10.0.0.5", None),
            ("fd00::1:8000", None),
            ("host:8000", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let expected =
                expected.map(|(ip, port)| Service { address: ip.map(|ip| ip.parse().unwrap()), port });
            assert_eq!(service(text), expected, "{text:?}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_defaults_fill_the_rest() {
        let file = from_toml(
            "interfaces = [\"eth0\"]\nservices = [\"8000\"]\nmax_flows = 7\nquiet = \"2s\"\npin = true\n\
             kernel_log = \"debug\"\n[control_plane]\naddress = \"unix:/run/a.sock\"\n[engine]\nmax_clients = 9\n",
        )
        .unwrap();
        let flags = flags(&[
            "--iface",
            "eth1,eth2",
            "--max-flows",
            "8",
            "--node",
            "n1",
            "--pin=false",
            "--control-plane",
            "unix:/run/b.sock",
        ]);
        let config = flags.over(file).with_socket(Some("/run/x.sock".into())).validate().unwrap();
        assert_eq!(config.kernel.interfaces.names().collect::<Vec<_>>(), ["eth1", "eth2"]);
        assert_eq!(config.kernel.services, [Service { address: None, port: 8000 }]);
        assert_eq!((config.kernel.max_flows, config.kernel.max_clients), (8, 65_536));
        assert_eq!((config.kernel.pin, config.kernel.log_level), (false, Some(tracing::Level::DEBUG)));
        assert_eq!(
            (config.quiet, config.node.as_str(), config.log),
            (Duration::from_secs(2), "n1", LogLevel::Info)
        );
        assert_eq!(config.control_plane.unwrap().to_string(), "unix:/run/b.sock");
        assert_eq!((config.engine.max_clients, config.socket), (9, "/run/x.sock".into()));
    }

    #[test]
    fn a_fault_in_the_file_is_named_with_its_line_and_key_on_one_line() {
        for (text, start, key) in [
            ("services = [\"1\"]\nmax_flow = 3\n", "agent.toml:2: ", "max_flow"),
            ("[engine]\n\nmax_client = 3\n", "agent.toml:3: ", "max_client"),
            ("pin = 3\n", "agent.toml:1: pin: ", "boolean"),
            ("log = \"loud\"\n", "agent.toml:1: log: ", "loud"),
            ("[control_plane]\nkey = 1\n", "agent.toml:2: key: ", "string"),
            ("interfaces = [\n", "agent.toml:", ""),
        ] {
            let said = from_toml(text).unwrap_err().to_string();
            assert!(said.starts_with(start) && said.contains(key) && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let text = "exclude_interfaces = [\"/(/\", \"a b\"]\ntc_position = \"middle\"\nservices = [\"8000\", \"8000\", \"x\"]\nmax_clients = 0\nring_bytes = 4000000000\nquiet = \"soon\"\n\
                    node = \"\"\n[control_plane]\naddress = \"http://10.0.0.9:7070\"\n[traffic]\nipv6_prefix_length = 129\ntunnels = [\"vxlan:0\"]\ntrusted_proxies = [\"10.0.0.0/33\"]\napi_keys = true\n[engine]\nmax_clients = 0\n";
        let said = from_toml(text).unwrap().validate().unwrap_err().to_string();
        for problem in [
            "no interface is named",
            "\"/(/\" is no regular expression",
            "\"a b\" is no interface",
            "tc_position: \"middle\" is no position",
            "port 8000 is named twice",
            "service \"x\" is neither",
            "max_clients is 0",
            "ring_bytes is 4000000000",
            "quiet is \"soon\"",
            "node \"\"",
            "traffic.ipv6_prefix_length is over 128",
            "traffic.tunnels: \"vxlan:0\" is no tunnel",
            "traffic.trusted_proxies: \"10.0.0.0/33\" is no address",
            "set traffic.trusted_proxies",
            "control_plane.address http://10.0.0.9:7070",
            "engine: max_clients is 0",
        ] {
            assert!(said.contains(problem), "{problem}: {said}");
        }
        assert!(!said.contains('\n'));
    }

    #[test]
    fn more_services_than_the_kernel_programs_have_room_for_are_refused_here() {
        let with = |count| {
            let services = (1..=count).map(|port: u16| port.to_string()).collect();
            Settings { services, interfaces: vec!["eth0".to_owned()], ..Settings::default() }.validate()
        };
        assert_eq!(with(1024).unwrap().kernel.services.len(), 1024);
        let said = with(1025).unwrap_err().to_string();
        assert!(said.contains("1025 services are named, and 1024 is the most"), "{said}");
    }

    #[test]
    fn the_example_in_deploy_is_a_usable_configuration() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/agent.toml");
        Settings::read(&path).unwrap().validate().unwrap();
        // What is commented out are settings too, and those of the engine its defaults.
        let text = fs::read_to_string(&path).unwrap();
        let is_setting = |line: &str| {
            line.starts_with("[[") && line.ends_with("]]")
                || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
        };
        let whole: Vec<_> = text
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line))
            .collect();
        let whole = from_toml(&whole.join("\n")).unwrap();
        assert!(whole.quiet.is_some() && whole.control_plane != ControlPlaneSettings::default());
        assert_eq!(whole.engine, EngineConfig::default());
        let tables = [whole.contract.len(), whole.infrastructure.len(), whole.release.len()];
        assert_eq!((tables, whole.mute.len(), whole.acknowledgement.len()), ([1, 1, 1], 1, 1));
        let whole = Settings {
            interfaces: whole.interfaces,
            services: whole.services,
            contract: whole.contract,
            release: whole.release,
            mute: whole.mute,
            acknowledgement: whole.acknowledgement,
            ..Settings::default()
        };
        let whole = whole.validate().unwrap();
        assert_eq!((whole.engine.context.contracts.len(), whole.engine.releases.len()), (1, 1));
    }
}
