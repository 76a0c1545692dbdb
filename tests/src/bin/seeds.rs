//! What the fuzz targets begin with: `seeds CAPTURES CORPUS` takes the begin of each capture in the folder CAPTURES and
//! writes it in the form of each target (`fuzz/src/lib.rs`) into the folder CORPUS.

use std::{env, fs, path::Path};

use anyhow::{Context, Result, ensure};
use hydrometer_agent::replay::pcap::Capture;
use hydrometer_ebpf::packet::{Direction, parse};

/// Bytes of a seed at most: short ones are tried more often.
const LIMIT: usize = 16 << 10;
/// Set in the two bytes before a piece that the client sends.
const CLIENT: u16 = 0x8000;
/// The services of the captures.
const PORTS: [u16; 5] = [8080, 8443, 8444, 8445, 9443];

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [captures, corpus] = &arguments[..] else {
        anyhow::bail!("give a folder of captures, and one for seeds")
    };
    let mut count = 0;
    for entry in fs::read_dir(captures).with_context(|| format!("cannot read {}", captures.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pcap") {
            write(&path, Path::new(corpus))?;
            count += 1;
        }
    }
    ensure!(count > 0, "there are no captures in {}", captures.display());
    println!("seeds of {count} captures in {}", corpus.display());
    Ok(())
}

/// Writes the seeds of one capture.
fn write(path: &Path, corpus: &Path) -> Result<()> {
    let whole = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut frames, mut payloads) = (Vec::new(), Vec::new());
    let mut capture = Capture::new(&whole[..])?;
    while let Some(frame) = capture.next()? {
        add(&mut frames, 0, frame.bytes);
        for (direction, side) in [(Direction::Ingress, CLIENT), (Direction::Egress, 0)] {
            if let Ok(segment) = parse(&frame, direction, |port| PORTS.contains(&u16::from_be(port))) {
                let payload = &frame.bytes[segment.payload as usize..][..segment.payload_len as usize];
                add(&mut payloads, side, payload);
            }
        }
    }
    let name = path.file_stem().unwrap_or_default();
    for (target, seed) in [("capture", &whole), ("packet", &frames), ("tls", &payloads)] {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let seed = &seed[..seed.len().min(LIMIT)];
        fs::write(folder.join(name), seed)
            .with_context(|| format!("cannot write to {}", folder.display()))?;
    }
    Ok(())
}

/// Adds a piece in the targets' form, while there is room.
fn add(seed: &mut Vec<u8>, side: u16, piece: &[u8]) {
    if !piece.is_empty() && seed.len() < LIMIT {
        let piece = &piece[..piece.len().min(0x7fff)];
        seed.extend((side | piece.len() as u16).to_be_bytes());
        seed.extend(piece);
    }
}
