//! What is in `deploy/` for a host of its own: units as systemd reads them, and packages as dpkg installs them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use hydrometer_tests::binary;

/// Each unit with its program.
const UNITS: [(&str, &str); 2] =
    [("hydrometer-agent", "hydrometer"), ("hydrometer-control", "hydrometer-control")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What a command that succeeds says.
fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {said}");
    said
}

#[test]
fn systemd_understands_the_units() {
    let folder = tempfile::tempdir().unwrap();
    for (unit, program) in UNITS {
        let text = fs::read_to_string(root().join(format!("deploy/{unit}.service"))).unwrap();
        let built = binary::path(program).unwrap().canonicalize().unwrap();
        let installed = format!("/usr/bin/{program} ");
        assert!(text.contains(&installed), "{unit} does not start {program}");
        let path = folder.path().join(format!("{unit}.service"));
        fs::write(&path, text.replace(&installed, &format!("{} ", built.display()))).unwrap();
        // It warns about what it passes over, and succeeds.
        assert_eq!(said(Command::new("systemd-analyze").arg("verify").arg(&path)), "", "{unit}");
    }
}

/// The systemd whose scale the README's figures are on: each release weighs directives anew.
const SCALE: &str = "systemd 252 ";
/// What no release may say.
const TOO_EXPOSED: f64 = 2.5;

#[test]
fn the_readme_states_how_exposed_the_units_are() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let is_on_scale = said(Command::new("systemd-analyze").arg("--version")).starts_with(SCALE);
    for (unit, _) in UNITS {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager"]);
        let said = said(command.arg(root().join(format!("deploy/{unit}.service"))));
        let (_, level) = said.split_once("Overall exposure level for ").unwrap();
        let level = level.split_whitespace().nth(1).unwrap();
        assert!(level.parse::<f64>().unwrap() < TOO_EXPOSED, "{unit} has {level}");
        assert!(!is_on_scale || readme.contains(&format!("`{unit}` {level}")), "{unit} has {level}");
    }
}

/// A root in which dpkg has installed nothing yet.
struct Host {
    root: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("var/lib/dpkg/info")).unwrap();
        fs::write(root.path().join("var/lib/dpkg/status"), "").unwrap();
        Self { root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn dpkg(&self, arguments: &[&str]) -> String {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("--root").arg(self.root.path());
        // There are neither a shell nor a C library in that root.
        dpkg.args(["--force-script-chrootless", "--force-depends"]);
        said(dpkg.args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))
    }

    /// Everything there is, but dpkg's own book-keeping.
    fn files(&self) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.root.path()).unwrap().display().to_string();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if !name.starts_with("var/lib/dpkg/") && !name.starts_with("var/log/dpkg") {
                    files.insert(name);
                }
            }
        }
        files
    }
}

#[test]
fn packages_install_what_they_say_and_a_purge_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let programs = binary::path("hydrometer").unwrap().parent().unwrap().to_owned();
    binary::path("hydrometer-control").unwrap();
    let mut pack = Command::new(binary::path("xtask").unwrap());
    pack.args(["deb", "--programs"]).arg(&programs).arg("--output").arg(folder.path());
    // What is built for debugging is large.
    said(pack.env("DPKG_DEB_COMPRESSOR_TYPE", "none"));
    let packages: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect();
    assert_eq!(packages.len(), 2, "{packages:?}");

    let host = Host::new();
    let install = ["--install"].into_iter().chain(packages.iter().map(String::as_str)).collect::<Vec<_>>();
    host.dpkg(&install);
    let files = host.files();
    for file in [
        "usr/bin/hydrometer",
        "usr/bin/hydrometer-control",
        "usr/lib/systemd/system/hydrometer-agent.service",
        "usr/lib/systemd/system/hydrometer-control.service",
        "etc/hydrometer/agent.toml",
        "etc/hydrometer/control.toml",
        "usr/share/man/man1/hydrometer.1.gz",
        "usr/share/man/man1/hydrometer-agent.1.gz",
        "usr/share/man/man1/hydrometer-control.1.gz",
        "usr/share/bash-completion/completions/hydrometer",
        "usr/share/zsh/vendor-completions/_hydrometer",
        "usr/share/fish/vendor_completions.d/hydrometer-control.fish",
        "usr/share/doc/hydrometer/copyright",
        "usr/share/doc/hydrometer/LICENSE-GPL-2.0",
    ] {
        assert!(files.contains(file), "{file} is not among {files:#?}");
    }
    for (_, program) in UNITS {
        let version = said(Command::new(host.at("usr/bin").join(program)).arg("--version"));
        let listed = host.dpkg(&["--status", program]);
        let listed = listed.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap();
        assert!(version.trim().ends_with(listed), "{version} is not {listed}");
    }
    said(Command::new("bash").arg("-n").arg(host.at("usr/share/bash-completion/completions/hydrometer")));

    // An operator's settings outlive the package, until it is purged; so does what it kept.
    let settings = host.at("etc/hydrometer/agent.toml");
    fs::write(&settings, "interfaces = [\"lo\"]\n").unwrap();
    for state in ["hydrometer", "hydrometer-control"] {
        fs::create_dir_all(host.at("var/lib/private").join(state)).unwrap();
        fs::write(host.at("var/lib/private").join(state).join("kept"), "x").unwrap();
        symlink(Path::new("private").join(state), host.at("var/lib").join(state)).unwrap();
    }
    host.dpkg(&["--remove", "hydrometer", "hydrometer-control"]);
    assert_eq!(fs::read_to_string(&settings).unwrap(), "interfaces = [\"lo\"]\n");
    assert!(!host.at("usr/bin/hydrometer").exists() && host.at("var/lib/private/hydrometer/kept").exists());
    host.dpkg(&["--purge", "hydrometer", "hydrometer-control"]);
    assert_eq!(host.files(), BTreeSet::new());
    assert!(!host.at("etc/hydrometer").exists() && !host.at("var/lib/hydrometer").is_symlink());
}
