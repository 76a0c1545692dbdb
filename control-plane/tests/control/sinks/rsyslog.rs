//! Debian's rsyslog, which takes messages over TLS from whom its authority vouches for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    authority::Authority,
    process::{Process, lines},
    program::poll,
};

/// What the certificate is for.
pub(crate) const NAME: &str = "localhost";

/// A running rsyslog.
pub(crate) struct Rsyslog {
    process: Process,
    received: PathBuf,
    pub(crate) port: u16,
}

/// One message as it understood it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) hostname: String,
    pub(crate) app: String,
    pub(crate) kind: String,
    pub(crate) severity: String,
    pub(crate) content: String,
}

impl Rsyslog {
    /// Starts it in `folder`, where `ca.pem`, `client.pem` and `client.key` are for its clients.
    pub(crate) fn start(folder: &Path) -> Self {
        let authority = Authority::new();
        let (server, client) = (authority.issue(NAME), authority.issue("hydrometer-control"));
        let write = |name: &str, content: &str| fs::write(folder.join(name), content).unwrap();
        write("ca.pem", &authority.pem());
        write("server.pem", &server.cert);
        write("server.key", &server.key);
        write("client.pem", &client.cert);
        write("client.key", &client.key);
        let f = folder.display();
        write(
            "rsyslog.conf",
            &format!(
                r#"global(workDirectory="{f}" maxMessageSize="64k" defaultNetstreamDriver="gtls"
    defaultNetstreamDriverCAFile="{f}/ca.pem" defaultNetstreamDriverCertFile="{f}/server.pem"
    defaultNetstreamDriverKeyFile="{f}/server.key")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
template(name="fields" type="string"
    string="%hostname%\t%app-name%\t%msgid%\t%syslogseverity-text%\t%msg%\n")
input(type="imtcp" address="127.0.0.1" port="0" listenPortFileName="{f}/rsyslog.port")
action(type="omfile" file="{f}/received" template="fields")
"#
            ),
        );
        let mut command = Command::new("/usr/sbin/rsyslogd");
        command.args(["-n", "-f"]).arg(folder.join("rsyslog.conf"));
        command.arg("-i").arg(folder.join("rsyslog.pid"));
        let mut process = Process::start(command, folder.join("rsyslog.log"));
        let port = poll("rsyslog to listen", || {
            process.alive();
            fs::read_to_string(folder.join("rsyslog.port")).ok()?.trim().parse().ok()
        });
        Self { process, received: folder.join("received"), port }
    }

    /// Waits for so many messages.
    pub(crate) fn messages(&mut self, count: usize) -> Vec<Message> {
        poll("rsyslog to receive", || {
            self.process.alive();
            let lines = lines(&self.received);
            (lines.len() >= count).then(|| lines.iter().map(|line| message(line)).collect())
        })
    }
}

fn message(line: &str) -> Message {
    let fields: Vec<String> = line.splitn(5, '\t').map(str::to_owned).collect();
    let [hostname, app, kind, severity, content] = fields.try_into().unwrap_or_else(|_| panic!("{line}"));
    Message { hostname, app, kind, severity, content: content.trim_start().to_owned() }
}
