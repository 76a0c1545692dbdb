//! System packages, through apt-get; elsewhere their names for a person to install.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::python;
use crate::shell::{ask, command, execute, say};

/// A program that tests and the demo run, and the Debian packages that bring it.
struct Need {
    packages: &'static str,
    present: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need { packages: "iproute2", present: || answers("ip", "-V") },
    // Not in the PATH of everybody.
    Need { packages: "nginx-light", present: || answers("nginx", "-v") || answers("/usr/sbin/nginx", "-v") },
    Need { packages: "haproxy", present: || answers("haproxy", "-v") || answers("/usr/sbin/haproxy", "-v") },
    Need { packages: "curl", present: || answers("curl", "--version") },
    // It has no argument with which it succeeds.
    Need { packages: "wrk", present: || ask(command("sh", "-c").arg("command -v wrk")).is_some() },
    Need { packages: "openssl", present: || answers("openssl", "version") },
    Need { packages: "prometheus", present: || answers("prometheus", "--version") },
    Need { packages: "systemd", present: || answers("systemd-analyze", "--version") },
    Need { packages: "rsyslog rsyslog-gnutls", present: has_rsyslog },
    Need { packages: "python3 python3-venv", present: || python::base().is_some() },
];

/// The packages that are not there.
pub(super) fn missing() -> Option<String> {
    let packages: Vec<_> = NEEDS.iter().filter(|need| !(need.present)()).map(|need| need.packages).collect();
    (!packages.is_empty()).then(|| packages.join(" "))
}

/// Installs them.
pub(super) fn install() -> Result<()> {
    apt_install(&missing().unwrap_or_default())
}

fn answers(program: &str, arguments: &str) -> bool {
    ask(&mut command(program, arguments)).is_some()
}

/// With the driver for TLS, which Debian packs apart.
fn has_rsyslog() -> bool {
    let driver = "ls /usr/lib*/rsyslog/lmnsd_gtls.so /usr/lib/*/rsyslog/lmnsd_gtls.so 2>/dev/null | grep .";
    answers("/usr/sbin/rsyslogd", "-v") && ask(command("sh", "-c").arg(driver)).is_some()
}

/// Those of `packages` (separated by blanks) that dpkg does not list as installed.
pub(super) fn not_installed(packages: &str) -> Option<String> {
    let installed = |package: &&str| {
        ask(&mut command("dpkg-query", &format!("--show --showformat ${{db:Status-Status}} {package}")))
            .is_some_and(|status| status == "installed")
    };
    let missing: Vec<_> = packages.split_whitespace().filter(|package| !installed(package)).collect();
    (!missing.is_empty()).then(|| missing.join(" "))
}

/// Installs `packages` (separated by blanks) and nothing that they only recommend.
pub(super) fn apt_install(packages: &str) -> Result<()> {
    ensure!(
        ask(&mut command("apt-get", "--version")).is_some(),
        "there is no apt-get here; install what Debian calls {packages} with this system's own package manager"
    );
    ensure!(
        rustix::process::geteuid().is_root(),
        "this needs root; run `apt-get install --no-install-recommends {packages}` as root"
    );
    apt_update();
    execute(&mut apt_get(&format!("install --yes --no-install-recommends {packages}")))
        .context("apt-get says why above")
}

/// Renews the package index. A foreign repository that does not answer is no reason to stop: the index at hand may do.
pub(super) fn apt_update() {
    if let Err(error) = execute(&mut apt_get("update")) {
        say(&format!("{error:#}; going on with the package index that is there"));
    }
}

fn apt_get(arguments: &str) -> Command {
    // Another apt-get may be at work; wait for it.
    let mut apt_get = command("apt-get", "-o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0");
    apt_get.args(arguments.split_whitespace()).env("DEBIAN_FRONTEND", "noninteractive");
    apt_get
}
