//! What the fuzz targets begin with: `seeds CORPUS CAPTURES...` takes the begin of each capture in the folders CAPTURES
//! and writes it in the form of each target (`fuzz/src/lib.rs`) into the folder CORPUS; HTTP/2 in clear text, which no
//! capture has, is made here.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use hydrometer_agent::replay::pcap::Capture;
use hydrometer_ebpf::packet::{Direction, UDP, parse};
use hydrometer_tests::frames::http2_frame;

/// Bytes of a seed at most: short ones are tried more often.
const LIMIT: usize = 16 << 10;
/// Set in the two bytes before a piece that the client sends.
const CLIENT: u16 = 0x8000;
/// The services of the captures.
const PORTS: [u16; 5] = [8080, 8443, 8444, 8445, 9443];

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [corpus, folders @ ..] = &arguments[..] else {
        anyhow::bail!("give a folder for seeds, and folders of captures")
    };
    let mut count = 0;
    for folder in folders {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "pcap") {
                write(&path, corpus)?;
                count += 1;
            }
        }
    }
    store(corpus, "http2", "made".as_ref(), &http2())?;
    println!("seeds of {count} captures in {}", corpus.display());
    Ok(())
}

/// Writes the seeds of one capture.
fn write(path: &Path, corpus: &Path) -> Result<()> {
    let whole = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut frames, mut tunnelled) = (Vec::new(), Vec::new());
    let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
    let mut capture = Capture::new(&whole[..])?;
    while let Some(frame) = capture.next()? {
        add(&mut frames, 0, frame.bytes);
        add(&mut tunnelled, 0, &[&[0], frame.bytes].concat());
        for (direction, side) in [(Direction::Ingress, CLIENT), (Direction::Egress, 0)] {
            if let Ok(segment) = parse(&frame, direction, |port| PORTS.contains(&u16::from_be(port))) {
                // A capture may have kept less of a frame than was sent.
                let kept = frame.bytes.get(segment.payload as usize..).unwrap_or_default();
                let payload = &kept[..kept.len().min(segment.payload_len as usize)];
                add(if segment.transport == UDP { &mut datagrams } else { &mut streams }, side, payload);
            }
        }
    }
    let mut proxied = Vec::new();
    add(&mut proxied, CLIENT, b"PROXY TCP4 203.0.113.7 10.0.0.1 53000 8443\r\n");
    proxied.extend(&streams);
    let name = path.file_stem().unwrap_or_default();
    for (target, seed) in [
        ("capture", &whole),
        ("packet", &frames),
        ("tunnel", &tunnelled),
        ("tls", &streams),
        ("proxy", &proxied),
        ("quic", &datagrams),
    ] {
        store(corpus, target, name.as_ref(), seed)?;
    }
    Ok(())
}

/// A connection with a question of two frames and its answer.
fn http2() -> Vec<u8> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let mut seed = Vec::new();
    for (side, frame) in [
        (CLIENT, http2_frame(SETTINGS, 0, 0, 0)),
        (0, http2_frame(SETTINGS, 0, 0, 0)),
        (CLIENT, http2_frame(HEADERS, END_HEADERS, 1, 60)),
        (CLIENT, http2_frame(DATA, END_STREAM, 1, 300)),
        (0, http2_frame(HEADERS, END_HEADERS, 1, 40)),
        (0, http2_frame(DATA, END_STREAM, 1, 500)),
    ] {
        add(&mut seed, side, &frame);
    }
    seed
}

/// Writes a seed of a target, unless there is nothing in it.
fn store(corpus: &Path, target: &str, name: &Path, seed: &[u8]) -> Result<()> {
    if seed.is_empty() {
        return Ok(());
    }
    let folder = corpus.join(target);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(folder.join(name), &seed[..seed.len().min(LIMIT)])
        .with_context(|| format!("cannot write to {}", folder.display()))
}

/// Adds a piece in the targets' form, while there is room.
fn add(seed: &mut Vec<u8>, side: u16, piece: &[u8]) {
    if !piece.is_empty() && seed.len() < LIMIT {
        let piece = &piece[..piece.len().min(0x7fff)];
        seed.extend((side | piece.len() as u16).to_be_bytes());
        seed.extend(piece);
    }
}
