//! nginx in front of the model server: TLS towards the clients, clear text behind, every request in a log.
//!
//! The log is the truth that counts and sizes are compared with, so nothing may be buffered: an answer's bytes leave
//! as the model server writes them, and a line is in the file before the next request of its connection is read.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hydrometer_engine::ClientId;
use serde::{Deserialize, Deserializer};

use crate::{
    grpc, llama,
    net::{ClientAddress, Namespace, SERVER_V4, SERVER_V6},
    process::Process,
};

/// The port that clients use; the agent's `--service`.
pub const PORT: u16 = 8443;
/// Bytes of the body of every answer of a server without a model.
pub const ANSWER: usize = 300_000;

/// What clients and nginx speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// HTTP/1.1 in clear text.
    Plain,
    /// HTTP/1.1 in TLS 1.2.
    Tls12,
    /// HTTP/1.1 in TLS 1.3.
    Tls13,
    /// HTTP/2 in clear text, with prior knowledge; also gRPC, for [`grpc::PATH`].
    Http2,
    /// HTTP/2 in TLS 1.2.
    Http2Tls12,
    /// HTTP/2 in TLS 1.3.
    Http2Tls13,
}

impl Security {
    /// Whether it is HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls12 | Self::Http2Tls13)
    }

    /// The TLS version, as nginx names it; `None` in clear text.
    fn tls(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Http2 => None,
            Self::Tls12 | Self::Http2Tls12 => Some("TLSv1.2"),
            Self::Tls13 | Self::Http2Tls13 => Some("TLSv1.3"),
        }
    }
}

/// How nginx learns on whose behalf a proxy before it asks. In its log that is then the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// There is none.
    Never,
    /// By the PROXY protocol, on every connection.
    ProxyProtocol,
    /// By `X-Forwarded-For`, from [`crate::net::ClientAddress`] number one.
    ForwardedFor,
}

/// The running proxy.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    folder: PathBuf,
    security: Security,
}

impl Nginx {
    /// Starts nginx on [`PORT`], IPv4 and IPv6, with a certificate of its own; files go into `folder`.
    pub fn start(namespace: &Namespace, folder: &Path, security: Security) -> Result<Self> {
        Self::start_with(namespace, folder, security, Told::Never, "")
    }

    /// Likewise, without a model behind it: whatever is asked, the answer is [`ANSWER`] bytes.
    pub fn start_alone(namespace: &Namespace, folder: &Path, security: Security) -> Result<Self> {
        Self::start_behind(namespace, folder, security, Told::Never)
    }

    /// Likewise, behind another proxy.
    pub fn start_behind(
        namespace: &Namespace,
        folder: &Path,
        security: Security,
        told: Told,
    ) -> Result<Self> {
        let answer = folder.join("answer");
        fs::write(&answer, vec![b'a'; ANSWER])
            .with_context(|| format!("cannot write {}", answer.display()))?;
        // What a POST finds to be a file is answered as a GET is.
        let server = format!(
            "server {{ listen 127.0.0.1:{}; access_log off; root {}; error_page 405 =200 /answer;
             location / {{ rewrite .* /answer break; }} }}",
            llama::PORT,
            folder.display()
        );
        Self::start_with(namespace, folder, security, told, &server)
    }

    fn start_with(
        namespace: &Namespace,
        folder: &Path,
        security: Security,
        told: Told,
        behind: &str,
    ) -> Result<Self> {
        let folder = folder.join("nginx");
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        make_certificate(&folder)?;
        let config = folder.join("nginx.conf");
        fs::write(&config, configuration(&folder, security, told, behind))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = namespace.command("nginx");
        command.arg("-e").arg(folder.join("error.log")).arg("-c").arg(&config);
        let process = Process::spawn("nginx", command, &folder)?;
        let mut nginx = Self { process, folder, security };
        nginx.wait_until_it_listens(namespace)?;
        Ok(nginx)
    }

    /// What the OpenAI client is given, for a client with this address.
    pub fn base_url(&self, client: IpAddr) -> String {
        let scheme = if self.security.tls().is_none() { "http" } else { "https" };
        format!("{scheme}://{}/v1", SocketAddr::new(crate::net::server_for(client), PORT))
    }

    /// What it speaks.
    pub fn security(&self) -> Security {
        self.security
    }

    /// The certificate that clients have to trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    /// All requests that have ended, in the order they ended.
    pub fn accesses(&self) -> Result<Vec<Access>> {
        let path = self.folder.join("access.log");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("not a line of the access log: {line}"))
            })
            .collect()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn wait_until_it_listens(&mut self, namespace: &Namespace) -> Result<()> {
        self.process.ready(Duration::from_secs(20), |_| {
            namespace.run(|| std::net::TcpStream::connect((SERVER_V4, PORT)).is_ok()).ok()?.then_some(())
        })
    }
}

/// What one client did, summed over its finished requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Requests.
    pub requests: u64,
    /// Bytes of the requests, heads included.
    pub request_bytes: u64,
    /// Bytes of the answers, heads included.
    pub answer_bytes: u64,
}

/// Sums up `accesses` by client, each as Hydrometer names it.
pub fn summaries(accesses: &[Access]) -> BTreeMap<ClientId, Summary> {
    let mut summaries: BTreeMap<_, Summary> = BTreeMap::new();
    for access in accesses {
        let summary = summaries.entry(ClientId::from(access.client)).or_default();
        summary.requests += 1;
        summary.request_bytes += access.request_length;
        summary.answer_bytes += access.bytes_sent;
    }
    summaries
}

/// One finished request, as nginx tells it. Sizes are HTTP bytes inside TLS, head and body.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Access {
    /// Client address.
    pub client: IpAddr,
    /// Client port.
    #[serde(deserialize_with = "parsed")]
    pub client_port: u16,
    /// Serial number of the connection.
    #[serde(deserialize_with = "parsed")]
    pub connection: u64,
    /// Number of the request on its connection, from 1.
    #[serde(deserialize_with = "parsed")]
    pub connection_request: u64,
    /// Bytes of the request.
    #[serde(deserialize_with = "parsed")]
    pub request_length: u64,
    /// Bytes of the answer.
    #[serde(deserialize_with = "parsed")]
    pub bytes_sent: u64,
    /// Bytes of the answer's body.
    #[serde(deserialize_with = "parsed")]
    pub body_bytes_sent: u64,
    /// Seconds from asking the model server to the head of its answer; none when it was not asked.
    #[serde(deserialize_with = "seconds")]
    pub upstream_header_time: Option<f64>,
    /// Seconds from the first byte of the request to the last byte of the answer.
    #[serde(deserialize_with = "parsed")]
    pub request_time: f64,
    /// When the request ended, seconds since the epoch.
    #[serde(deserialize_with = "parsed")]
    pub ended: f64,
    /// HTTP status.
    #[serde(deserialize_with = "parsed")]
    pub status: u16,
    /// TLS version, as nginx names it ("TLSv1.3"); empty in clear text.
    pub tls_version: String,
}

/// Fields of [`Access`] and the variables that nginx fills them from.
const LOG_FIELDS: [(&str, &str); 12] = [
    ("client", "remote_addr"),
    ("client_port", "realip_remote_port"),
    ("connection", "connection"),
    ("connection_request", "connection_requests"),
    ("request_length", "request_length"),
    ("bytes_sent", "bytes_sent"),
    ("body_bytes_sent", "body_bytes_sent"),
    ("upstream_header_time", "upstream_header_time"),
    ("request_time", "request_time"),
    ("ended", "msec"),
    ("status", "status"),
    ("tls_version", "ssl_protocol"),
];

/// One process without a master, so that ending it by its id ends all of it.
fn configuration(folder: &Path, security: Security, told: Told, behind: &str) -> String {
    let proxy = ClientAddress::nth(1);
    let real = format!("set_real_ip_from {}; set_real_ip_from {};", proxy.v4, proxy.v6);
    let (proxied, real) = match told {
        Told::Never => ("", String::new()),
        Told::ProxyProtocol => (" proxy_protocol", format!("{real} real_ip_header proxy_protocol;")),
        Told::ForwardedFor => ("", format!("{real} real_ip_header X-Forwarded-For; real_ip_recursive on;")),
    };
    let folder = folder.display();
    let listen = match (security.tls(), security.is_http2()) {
        (None, false) => "",
        (None, true) => " http2",
        (Some(_), false) => " ssl",
        (Some(_), true) => " ssl http2",
    };
    let tls = security.tls().map_or_else(String::new, |version| {
        format!(
            "ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols {version};"
        )
    });
    let grpc = if security == Security::Http2 {
        format!("location {} {{ grpc_pass grpc://127.0.0.1:{}; }}", grpc::PATH, grpc::PORT)
    } else {
        String::new()
    };
    let log_format = LOG_FIELDS.map(|(field, variable)| format!("\"{field}\":\"${variable}\"")).join(",");
    let upstream = llama::PORT;
    format!(
        "daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    log_format exchange escape=json '{{{log_format}}}';
    access_log {folder}/access.log exchange;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout 300s;
    keepalive_requests 1000000;
    tcp_nodelay on;
    {tls}
    server {{
        listen {SERVER_V4}:{PORT}{listen}{proxied};
        listen [{SERVER_V6}]:{PORT}{listen}{proxied};
        {real}
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_read_timeout 120s;
        }}
        {grpc}
    }}
    {behind}
}}
"
    )
}

/// Makes a self-signed certificate for the server's addresses: `certificate.pem` and `key.pem` in `folder`.
pub fn make_certificate(folder: &Path) -> Result<()> {
    let names = format!("subjectAltName=IP:{SERVER_V4},IP:{SERVER_V6}");
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=hydrometer-test", "-addext", &names, "-keyout"])
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("certificate.pem"))
        .output()
        .context("cannot run openssl; install it (`cargo xtask setup`)")?;
    ensure!(output.status.success(), "openssl failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// nginx quotes every variable.
fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
}

/// "0.003", or "" or "-" where there is none, or a list when several servers were tried: the last one answered.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(text.rsplit([',', ':', ' ']).next().and_then(|last| last.parse().ok()))
}
