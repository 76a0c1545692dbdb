//! What is in `deploy/` for Kubernetes, by the engines and the programs that will read it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Parser;
use hydrometer_agent::{
    cli::Cli,
    config::{Config, ControlPlane, Settings},
};
use hydrometer_tests::{binary, nginx, python};
use serde::Deserialize;
use serde_json::Value;

/// What `manifests.py VERB` prints; its reasons where something does not hold.
fn manifests(verb: &str) -> String {
    let mut command = Command::new(python::interpreter().unwrap());
    let output = command.arg(python::script("manifests.py")).arg(verb).output().unwrap();
    assert!(output.status.success(), "{verb}:\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A rendered pod with the files that its settings are in.
#[derive(Deserialize)]
struct Pod {
    container: Container,
    volumes: Vec<Value>,
    settings: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    command: Vec<String>,
    args: Vec<String>,
    startup_probe: Value,
    readiness_probe: Value,
    liveness_probe: Value,
    security_context: Value,
    volume_mounts: Vec<Mount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    name: String,
    mount_path: String,
}

/// The pods of each set of values, by component.
fn pods() -> BTreeMap<String, BTreeMap<String, Pod>> {
    serde_json::from_str(&manifests("render")).unwrap()
}

impl Pod {
    /// Its arguments, and its files in `folder`, as if that were the container's root.
    fn in_folder(&self, folder: &Path) -> Vec<String> {
        let moved =
            |text: &str| text.replace("/etc/hydrometer", &format!("{}/etc/hydrometer", folder.display()));
        for (name, text) in &self.settings {
            let path = folder.join("etc/hydrometer").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, moved(text)).unwrap();
        }
        self.container.args.iter().map(|argument| moved(argument)).collect()
    }

    fn mounts(&self) -> BTreeSet<&str> {
        self.container.volume_mounts.iter().map(|mount| mount.mount_path.as_str()).collect()
    }
}

#[test]
fn the_chart_is_free_of_lint_and_every_kubernetes_takes_what_it_renders() {
    let said = manifests("validate");
    assert!(said.contains("kinds of objects, Kubernetes 1."), "{said}");
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    assert!(manifests("refuse").contains("wrong values refused"));
}

#[test]
fn every_value_is_documented_and_in_the_schema() {
    assert!(manifests("documented").contains("values documented"));
}

#[test]
fn the_kustomize_manifests_are_what_the_chart_renders() {
    manifests("equal");
}

/// The settings of `hydrometer agent`, read as it reads them.
#[derive(Parser)]
struct Agent {
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

fn agent_settings(pod: &Pod) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let arguments = pod.in_folder(folder.path());
    certificate(&folder.path().join("etc/hydrometer-tls"));
    // The whole command line knows every flag, and the settings are valid.
    Cli::try_parse_from(pod.container.command.iter().chain(&arguments)).unwrap();
    let agent = Agent::try_parse_from(&arguments).unwrap();
    let file = Settings::read(&agent.config.unwrap()).unwrap();
    agent.settings.over(file).validate().unwrap()
}

#[test]
fn the_agent_accepts_the_settings_of_every_rendered_pod() {
    let pods = pods();
    let default = agent_settings(&pods["default"]["agent"]);
    let Some(ControlPlane::Tls { uri, .. }) = default.control_plane else {
        panic!("{:?}", default.control_plane)
    };
    assert_eq!(uri.to_string(), "https://hydrometer-control.hydrometer.svc:7070/");
    assert_eq!(default.metrics.unwrap().address.to_string(), "0.0.0.0:9464");

    let minimal = agent_settings(&pods["minimal"]["agent"]);
    assert_eq!((minimal.control_plane, minimal.metrics), (None, None));

    let full = agent_settings(&pods["full"]["agent"]);
    assert_eq!((full.kernel.max_flows, full.kernel.services.len(), full.kernel.pin), (262_144, 3, true));
    assert_eq!(full.metrics.unwrap().clients, 20);
    assert_eq!(full.engine.context.contracts[0].name, "Acme, nightly evaluation");
    let Some(ControlPlane::Tls { files, .. }) = full.control_plane else {
        panic!("{:?}", full.control_plane)
    };
    assert_eq!(files.domain.as_deref(), Some("control.internal"));
}

#[test]
fn the_control_plane_accepts_the_settings_of_every_rendered_pod() {
    for (values, pods) in pods() {
        let Some(pod) = pods.get("control-plane") else { continue };
        let folder = tempfile::tempdir().unwrap();
        let arguments = pod.in_folder(folder.path());
        certificate(&folder.path().join("etc/hydrometer/tls"));
        for Mount { mount_path, .. } in &pod.container.volume_mounts {
            if let Some(secret) = mount_path.strip_prefix("/etc/hydrometer/secrets/") {
                let secret = folder.path().join("etc/hydrometer/secrets").join(secret);
                fs::create_dir_all(&secret).unwrap();
                fs::write(secret.join("token"), "0123\n").unwrap();
            }
        }
        let mut control = Command::new(binary::path(&pod.container.command[0]).unwrap());
        let output = control.args(arguments).arg("--check").output().unwrap();
        assert!(output.status.success(), "{values}: {}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("with mutual TLS on TCP"), "{values}: {said}");
        assert!(said.contains(if values == "full" { "sinks siem" } else { "no sinks" }), "{values}: {said}");
    }
}

/// tls.crt, tls.key and ca.crt in `folder`.
fn certificate(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    nginx::make_certificate(folder).unwrap();
    for (made, mounted) in
        [("certificate.pem", "tls.crt"), ("key.pem", "tls.key"), ("certificate.pem", "ca.crt")]
    {
        fs::copy(folder.join(made), folder.join(mounted)).unwrap();
    }
}

#[test]
fn probes_ask_what_the_programs_answer() {
    for (values, pods) in pods() {
        for (component, pod) in pods {
            let Container { args, startup_probe, readiness_probe, liveness_probe, .. } = &pod.container;
            let port =
                args.iter().find_map(|argument| argument.strip_prefix("--metrics=")?.rsplit(':').next());
            let services = [(startup_probe, "liveness"), (readiness_probe, ""), (liveness_probe, "liveness")];
            for (probe, service) in services {
                let place = format!("{values}, {component}: {probe}");
                if let Some(port) = port {
                    assert_eq!(probe["grpc"]["port"], port.parse::<u16>().unwrap(), "{place}");
                    assert_eq!(probe["grpc"]["service"].as_str().unwrap_or(""), service, "{place}");
                } else {
                    let asked: Vec<String> =
                        serde_json::from_value(probe["exec"]["command"].clone()).unwrap();
                    let mut help = Command::new(binary::path(&asked[0]).unwrap());
                    assert!(
                        help.args(&asked[1..]).arg("--help").output().unwrap().status.success(),
                        "{place}"
                    );
                }
                // The programs answer within three seconds, whatever happens.
                assert!(
                    probe["timeoutSeconds"].as_u64().unwrap() > hydrometer_monitor::PATIENCE.as_secs(),
                    "{place}"
                );
            }
        }
    }
}

/// A row of the tables in docs/kubernetes.md.
struct Right<'a> {
    name: &'a str,
    file: &'a str,
    line: &'a str,
}

/// The rows of the table whose first column is headed so.
fn rights<'a>(text: &'a str, heading: &str) -> Vec<Right<'a>> {
    let heading = format!("| {heading} |");
    let rows = text.lines().skip_while(|line| !line.starts_with(&heading)).skip(2);
    rows.take_while(|line| line.starts_with('|')).map(right).collect()
}

fn right(row: &str) -> Right<'_> {
    let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
    let [name, _, _, place] = cells[..] else { panic!("{row} has not four cells") };
    let (file, line) = place.split_once(": ").unwrap_or_else(|| panic!("{row} names no line"));
    let [name, file, line] = [name, file, line].map(|cell| cell.trim_matches('`'));
    Right { name, file, line }
}

#[test]
fn every_capability_and_mount_has_the_line_of_code_that_needs_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("docs/kubernetes.md")).unwrap();
    let (agent, control) = (rights(&text, "right of the agent"), rights(&text, "right of the control plane"));
    for Right { name, file, line } in agent.iter().chain(&control) {
        let code =
            fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{name}: {file}: {error}"));
        let tests = code.find("#[cfg(test)]").unwrap_or(code.len());
        assert!(code[..tests].contains(line), "{name}: {file} has no {line}");
    }

    let pods = &pods()["full"];
    let names = |rights: &[Right], is_mount: bool| -> BTreeSet<String> {
        let names = rights.iter().map(|right| right.name.to_owned());
        names.filter(|name| name.starts_with('/') == is_mount).collect()
    };
    let context = &pods["agent"].container.security_context;
    let mut granted: BTreeSet<String> =
        serde_json::from_value(context["capabilities"]["add"].clone()).unwrap();
    granted.insert("hostNetwork".to_owned());
    assert_eq!(names(&agent, false), granted);
    assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert_eq!(names(&agent, true), owned(&pods["agent"].mounts()));
    let mounts = owned(&pods["control-plane"].mounts());
    // A folder stands for what is mounted in it.
    let mounts = mounts.into_iter().map(|mount| match mount.strip_prefix("/etc/hydrometer/secrets/") {
        Some(_) => "/etc/hydrometer/secrets/".to_owned(),
        None => mount,
    });
    assert_eq!(names(&control, true), mounts.collect());
    assert_eq!(names(&control, false), BTreeSet::new());
    let context = &pods["control-plane"].container.security_context["capabilities"];
    assert_eq!(*context, serde_json::json!({"drop": ["ALL"]}));
}

fn owned(names: &BTreeSet<&str>) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn every_mount_has_its_volume_and_every_volume_is_mounted() {
    for (values, pods) in pods() {
        for (component, pod) in pods {
            let name = |volume: &Value| {
                let named = volume["name"].as_str().or(volume["metadata"]["name"].as_str());
                named.unwrap_or_default().to_owned()
            };
            let volumes: BTreeSet<String> = pod.volumes.iter().map(name).collect();
            let mounted: BTreeSet<String> =
                pod.container.volume_mounts.iter().map(|mount| mount.name.clone()).collect();
            assert_eq!(volumes, mounted, "{values}, {component}");
            let context = &pod.container.security_context;
            assert_eq!(context["readOnlyRootFilesystem"], true, "{values}, {component}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{values}, {component}");
        }
    }
}
