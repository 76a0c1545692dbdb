//! Compiles the .proto files in pure Rust (no protoc needed) and keeps their descriptors for reflection.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 6] = [
    "hydrometer/v1/agent.proto",
    "hydrometer/v1/anomaly.proto",
    "hydrometer/v1/client.proto",
    "hydrometer/v1/control_plane.proto",
    "hydrometer/v1/feed.proto",
    "hydrometer/v1/operations.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
