//! Clients behind real proxies count as the service's own log counts them: haproxy with the PROXY protocol, nginx with
//! `X-Forwarded-For`. Whoever is not trusted is believed nothing.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path, time::Duration};

use hydrometer_engine::ClientId;
use hydrometer_proto::v1::ClientIdentity;
use hydrometer_tests::{
    agent::{Agent, usual_arguments},
    net::{ClientAddress, Network, SERVER_V4},
    nginx::{self, Nginx, PORT, Security, Summary, Told},
    process::{Process, wait_for},
};
use tempfile::TempDir;

/// Waiting for what has to happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bodies of the requests of one connection.
const UPLOADS: [usize; 4] = [0, 60_000, 700, 0];
/// Ports of the proxies.
const VERSION_1: u16 = 9001;
const VERSION_2: u16 = 9002;
const FORWARDING: u16 = 9003;

#[test]
fn clients_behind_haproxy_are_told_apart_by_the_proxy_protocol() {
    for security in [Security::Tls13, Security::Plain] {
        let place = Place::start(security, Told::ProxyProtocol);
        let _haproxy = place.haproxy();
        let agent = place.agent(&place.trusting());
        for port in [VERSION_1, VERSION_2] {
            for client in [place.add_client(), place.add_client()] {
                for address in [IpAddr::from(client.v4), client.v6.into()] {
                    place.ask(security, address, place.proxy(address), port, &[]);
                }
            }
        }
        let counted = place.compare(&agent);
        assert_eq!(counted, 8, "{security:?}");
        // The health checks of haproxy are its own.
        assert_identity(&agent, place.network.first_client().v4.into(), ClientIdentity::Proxy);
        assert_no_losses(&agent);
    }
}

#[test]
fn clients_behind_a_reverse_proxy_are_told_apart_request_by_request() {
    let place = Place::start(Security::Plain, Told::ForwardedFor);
    let _proxy = place.reverse_proxy();
    let agent = place.agent(&place.trusting());
    let clients = [place.add_client(), place.add_client(), place.add_client()];
    // In turns, since the proxy uses its connections again, whoever asks.
    for _ in 0..3 {
        for client in &clients {
            for address in [IpAddr::from(client.v4), client.v6.into()] {
                place.ask(Security::Plain, address, place.proxy(address), FORWARDING, &[]);
                // What a client says of itself comes first, and is nobody's word.
                let lie = "X-Forwarded-For: 198.51.100.1";
                place.ask(Security::Plain, address, place.proxy(address), FORWARDING, &[lie]);
            }
        }
    }
    assert_eq!(place.compare(&agent), 6);
    assert_no_losses(&agent);
}

#[test]
fn whoever_is_not_trusted_asks_for_himself() {
    let place = Place::start(Security::Plain, Told::ForwardedFor);
    let agent = place.agent(&place.trusting());
    let client = place.add_client();
    for address in [IpAddr::from(client.v4), client.v6.into()] {
        let lies = ["X-Forwarded-For: 198.51.100.1", "Forwarded: for=198.51.100.1", "X-Api-Key: sk-1"];
        let server = hydrometer_tests::net::server_for(address);
        place.ask(Security::Plain, address, server, PORT, &lies);
    }
    assert_eq!(place.compare(&agent), 2);
    for address in [IpAddr::from(client.v4), client.v6.into()] {
        assert_identity(&agent, address, ClientIdentity::Direct);
    }
}

#[test]
fn a_proxy_that_says_nothing_is_shown_as_one() {
    let place = Place::start(Security::Tls13, Told::Never);
    let agent = place.agent(&place.trusting());
    let proxy = IpAddr::from(place.network.first_client().v4);
    place.ask(Security::Tls13, proxy, SERVER_V4.into(), PORT, &[]);
    assert_eq!(place.compare(&agent), 1);
    assert_identity(&agent, proxy, ClientIdentity::Proxy);
}

#[test]
fn an_api_key_is_a_client_and_is_written_nowhere() {
    let place = Place::start(Security::Plain, Told::ForwardedFor);
    let _proxy = place.reverse_proxy();
    let secret = place.folder.path().join("api-keys.secret").display().to_string();
    let mut arguments = place.trusting();
    arguments.extend(["--api-keys".to_owned(), "--api-key-secret".to_owned(), secret.clone()]);
    let mut agent = place.agent(&arguments);
    let clients = [place.add_client(), place.add_client()];
    for key in ["sk-raw-key-one", "sk-raw-key-two", "sk-raw-key-three"] {
        for client in &clients {
            let header = format!("Authorization: Bearer {key}");
            place.ask(
                Security::Plain,
                client.v4.into(),
                place.proxy(client.v4.into()),
                FORWARDING,
                &[&header],
            );
        }
    }
    let of_keys = || {
        let mut listed = agent.clients()?;
        listed.retain(|client| client.address.starts_with("key:"));
        Ok::<_, anyhow::Error>(listed)
    };
    let listed = wait_for("three keys with all their requests", PATIENCE, || {
        let listed = of_keys()?;
        let requests =
            |client: &hydrometer_proto::v1::Client| client.counters.map_or(0, |counted| counted.requests);
        let all =
            listed.len() == 3 && listed.iter().all(|client| requests(client) == 2 * UPLOADS.len() as u64);
        Ok(all.then_some(listed))
    });
    let listed = listed.unwrap_or_else(|error| panic!("{error:#}: {:#?}", of_keys()));
    assert!(listed.iter().all(|client| client.identity() == ClientIdentity::Forwarded));
    assert_eq!(fs::read(&secret).unwrap().len(), 32);
    let said = format!(
        "{listed:?} {} {}",
        agent.process().output(),
        fs::read_to_string(&secret).unwrap_or_default()
    );
    assert!(!said.contains("sk-raw-key"), "{said}");
}

/// A service behind proxies, which run where the clients are and ask from the first client's addresses.
struct Place {
    nginx: Nginx,
    network: Network,
    folder: TempDir,
}

impl Place {
    fn start(security: Security, told: Told) -> Self {
        let network = Network::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let nginx = Nginx::start_behind(network.server(), folder.path(), security, told).unwrap();
        Self { nginx, network, folder }
    }

    fn add_client(&self) -> ClientAddress {
        self.network.add_client().unwrap()
    }

    /// The proxy's address of the same family as `client`.
    fn proxy(&self, client: IpAddr) -> IpAddr {
        let proxy = self.network.first_client();
        if client.is_ipv4() { proxy.v4.into() } else { proxy.v6.into() }
    }

    fn trusting(&self) -> Vec<String> {
        let proxy = self.network.first_client();
        vec!["--trusted-proxies".to_owned(), format!("{},{}/128", proxy.v4, proxy.v6)]
    }

    fn agent(&self, arguments: &[String]) -> Agent {
        // The proxy keeps its connections: what is quiet on them has ended.
        let arguments = usual_arguments()
            .into_iter()
            .chain(["--quiet".to_owned(), "500ms".to_owned()])
            .chain(arguments.to_vec());
        Agent::start(self.network.server(), self.folder.path(), arguments).unwrap()
    }

    /// haproxy that hands connections on, and says whose they are.
    fn haproxy(&self) -> Process {
        let proxy = self.network.first_client();
        let (v4, v6) = (proxy.v4, proxy.v6);
        let listen = |port: u16, send: &str| {
            format!(
                "listen v{port}
    bind {v4}:{port}
    bind [{v6}]:{port}
    server s {SERVER_V4}:{PORT} source {v4} {send} check inter 300ms
"
            )
        };
        let config = format!(
            "global
    maxconn 1000
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
{}{}",
            listen(VERSION_1, "send-proxy"),
            listen(VERSION_2, "send-proxy-v2 proxy-v2-options crc32c,ssl"),
        );
        let path = self.folder.path().join("haproxy.cfg");
        fs::write(&path, config).unwrap();
        let mut command = self.network.client().command("haproxy");
        command.args(["-db", "-f"]).arg(&path);
        self.listening(Process::spawn("haproxy", command, self.folder.path()).unwrap(), VERSION_2)
    }

    /// nginx that asks for others, over connections that it keeps.
    fn reverse_proxy(&self) -> Process {
        let proxy = self.network.first_client();
        let folder = self.folder.path().join("reverse");
        fs::create_dir(&folder).unwrap();
        let path = folder.join("nginx.conf");
        fs::write(&path, reverse_proxy(&folder, proxy)).unwrap();
        let mut command = self.network.client().command("nginx");
        command.arg("-e").arg(folder.join("error.log")).arg("-c").arg(&path);
        self.listening(Process::spawn("reverse", command, &folder).unwrap(), FORWARDING)
    }

    fn listening(&self, mut process: Process, port: u16) -> Process {
        let address = self.network.first_client().v4;
        process
            .ready(PATIENCE, |_| {
                let connect = || std::net::TcpStream::connect((address, port)).is_ok();
                self.network.client().run(connect).ok()?.then_some(())
            })
            .unwrap();
        process
    }

    /// `client` asks on one connection to `to`, once for each of [`UPLOADS`], with these header fields.
    fn ask(&self, security: Security, client: IpAddr, to: IpAddr, port: u16, headers: &[&str]) {
        let mut command = self.network.client().command("curl");
        let scheme = if security == Security::Plain { "http" } else { "https" };
        let url = format!("{scheme}://{}/v1", std::net::SocketAddr::new(to, port));
        for (n, &bytes) in UPLOADS.iter().enumerate() {
            if n > 0 {
                command.arg("--next");
            }
            command.args(["--silent", "--show-error", "--fail", "--max-time", "30", "--insecure"]);
            command.args([
                "--output",
                "/dev/null",
                "--interface",
                &client.to_string(),
                "--header",
                "Expect:",
            ]);
            for header in headers {
                command.args(["--header", header]);
            }
            if bytes > 0 {
                let body = self.folder.path().join(format!("upload-{bytes}"));
                fs::write(&body, vec![b'u'; bytes]).unwrap();
                command.arg("--data-binary").arg(format!("@{}", body.display()));
            }
            command.arg(&url);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{client}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits until every client of the service's log has in the agent what the log says; returns how many.
    fn compare(&self, agent: &Agent) -> usize {
        let mut both = (BTreeMap::new(), BTreeMap::new());
        let agreed = wait_for("the counters to be the log's", PATIENCE, || {
            let logged = nginx::summaries(&self.nginx.accesses()?);
            let counted = counted(agent, logged.keys())?;
            both = (logged, counted);
            Ok((both.0 == both.1).then_some(()))
        });
        agreed.unwrap_or_else(|_| panic!("the log has {:#?}, counted were {:#?}", both.0, both.1));
        both.0.len()
    }
}

fn counted<'a>(
    agent: &Agent,
    ids: impl Iterator<Item = &'a ClientId>,
) -> anyhow::Result<BTreeMap<ClientId, Summary>> {
    let listed = agent.clients()?;
    let of = |id: &ClientId| {
        let client = listed.iter().find(|client| client.address == id.to_string());
        let counters = client.and_then(|client| client.counters).unwrap_or_default();
        Summary {
            requests: counters.exchanges,
            request_bytes: counters.request_bytes,
            answer_bytes: counters.answer_bytes,
        }
    };
    Ok(ids.map(|id| (*id, of(id))).collect())
}

fn assert_identity(agent: &Agent, address: IpAddr, expected: ClientIdentity) {
    let id = ClientId::from(address).to_string();
    let found = wait_for("the client to be listed", PATIENCE, || {
        Ok(agent.clients()?.into_iter().find(|client| client.address == id))
    });
    assert_eq!(found.unwrap().identity(), expected, "{address}");
}

fn assert_no_losses(agent: &Agent) {
    let losses = agent.status().unwrap().losses;
    let lost: Vec<_> = losses.iter().filter(|loss| loss.count > 0).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

fn reverse_proxy(folder: &Path, proxy: ClientAddress) -> String {
    let (folder, v4, v6) = (folder.display(), proxy.v4, proxy.v6);
    format!(
        "daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream service {{ server {SERVER_V4}:{PORT}; keepalive 2; }}
    server {{
        listen {v4}:{FORWARDING};
        listen [{v6}]:{FORWARDING};
        client_max_body_size 10m;
        location / {{
            proxy_pass http://service;
            proxy_bind {v4};
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"
    )
}
