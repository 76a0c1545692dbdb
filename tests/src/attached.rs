//! What hangs on an interface, as the kernel tells: whoever put it there.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};

use crate::net::Namespace;

/// Every program on `interface` of `namespace`, one line each; empty when nothing is attached.
pub fn programs(namespace: &Namespace, interface: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let link = namespace.ip(&format!("-details link show dev {interface}"))?;
    found.extend(link.lines().filter(|line| line.contains("prog/xdp")).map(|line| line.trim().to_owned()));
    for (direction, way) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
        let (_, programs) = namespace
            .run(|| SchedClassifier::query_tcx(interface, way))?
            .with_context(|| format!("cannot ask for the {direction} programs of {interface}"))?;
        found.extend(programs.iter().map(|program| {
            format!("tcx/{direction} {} id {}", program.name_as_str().unwrap_or("?"), program.id())
        }));
        // A filter, where the kernel has no tcx.
        let filters = filters(namespace.command("tc"), interface, direction)?;
        found.extend(filters.lines().map(|line| line.trim().to_owned()));
    }
    Ok(found)
}

fn filters(mut tc: Command, interface: &str, direction: &str) -> Result<String> {
    let output = tc
        .args(["filter", "show", "dev", interface, direction])
        .output()
        .context("cannot run `tc`; install iproute2 (`cargo xtask setup`)")?;
    ensure!(
        output.status.success(),
        "cannot list the {direction} filters of {interface}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
