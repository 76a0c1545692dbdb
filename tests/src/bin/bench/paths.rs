//! The ways that protocols take through the programs: for each a conversation up to the packet that is measured, which
//! is the next of a long request or of a long answer.

use std::net::IpAddr;

use anyhow::Result;
use hydrometer_tests::{
    frames::{HTTP2_PREFACE, Tcp, flags, http2_frame, tls_record},
    programs::Programs,
};

use super::packets::{Hook, PORT, SEGMENT};

/// Bytes of payload of the packet that is measured, over TCP.
const PAYLOAD: usize = SEGMENT - 54;

/// A way to measure.
pub(super) struct Path {
    /// What it is.
    pub(super) name: &'static str,
    client_port: u16,
    /// Before the packet: what each side sends.
    steps: Vec<(Side, u8, Vec<u8>)>,
    /// Who sends the packet.
    from: Side,
    payload: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

use Side::{Client, Server};

impl Path {
    /// The hook that sees the packet.
    pub(super) fn hook(&self) -> Hook {
        if self.from == Client { Hook::Xdp } else { Hook::Tc }
    }

    /// Holds the conversation; returns the packet.
    pub(super) fn prepare(&self, programs: &mut Programs) -> Result<Vec<u8>> {
        let mut next = [1000_u32; 2];
        for (from, flags, payload) in &self.steps {
            let frame = self.frame(*from, next, *flags, payload);
            match from {
                Client => programs.xdp("ingress_next", &frame, 1).map(drop),
                Server => programs.tc("egress_next", &frame, 1).map(drop),
            }?;
            next[*from as usize] += payload.len() as u32 + u32::from(flags & flags::SYN != 0);
        }
        Ok(self.frame(self.from, next, flags::ACK, &self.payload))
    }

    /// A segment where its stream is: `next` tells, of the server's and the client's. The programs move the sequence
    /// number on by the payload before they look at it.
    fn frame(&self, from: Side, next: [u32; 2], flags: u8, payload: &[u8]) -> Vec<u8> {
        let client: (IpAddr, u16) = ([10, 0, 0, 9].into(), self.client_port);
        let server: (IpAddr, u16) = ([10, 0, 0, 1].into(), PORT);
        let (source, destination) = if from == Client { (client, server) } else { (server, client) };
        let seq = next[from as usize].wrapping_sub(payload.len() as u32);
        let tcp = Tcp { source, destination, seq, flags, vlans: Vec::new(), payload: payload.to_vec() };
        tcp.acknowledging(next[1 - from as usize])
    }
}

/// All ways.
pub(super) fn all() -> Vec<Path> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_HEADERS: u8 = 4;
    let opening = || {
        let steps = [(Client, flags::SYN), (Server, flags::SYN | flags::ACK), (Client, flags::ACK)];
        steps.map(|(from, flags)| (from, flags, Vec::new())).to_vec()
    };
    let send = |steps: Vec<(Side, u8, Vec<u8>)>, more: &[(Side, &[u8])]| {
        let more = more.iter().map(|&(from, payload)| (from, flags::ACK, payload.to_vec()));
        steps.into_iter().chain(more).collect::<Vec<_>>()
    };
    let request: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\n\r\n";
    let answer: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    let (hello, finished) = (server_hello(), tls_record(23));
    let record = tls_record(PAYLOAD - 22);
    let preface = [HTTP2_PREFACE, &http2_frame(SETTINGS, 0, 0, 0)].concat();
    let (settings, head) = (http2_frame(SETTINGS, 0, 0, 0), http2_frame(HEADERS, END_HEADERS, 1, 60));
    let data = http2_frame(DATA, 0, 1, PAYLOAD - 9);
    let http1 = || send(opening(), &[(Client, request)]);
    let upgraded = || send(http1(), &[(Server, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")]);
    let tls12 = || {
        let client_hello = [&[22, 3, 1, 0, 4, 1, 0, 0][..], &[0]].concat();
        send(opening(), &[(Client, &client_hello), (Server, &hello), (Client, &finished)])
    };
    let http2 = || send(opening(), &[(Client, &preface), (Server, &settings), (Client, &head)]);
    let path = |client_port, name, from, steps, payload| Path { name, client_port, steps, from, payload };
    vec![
        path(41_000, "http/1.1 request", Client, http1(), vec![b'a'; PAYLOAD]),
        path(41_001, "http/1.1 answer", Server, send(http1(), &[(Server, answer)]), vec![b'a'; PAYLOAD]),
        path(41_003, "websocket client", Client, upgraded(), vec![0x82; PAYLOAD]),
        path(41_004, "websocket server", Server, upgraded(), vec![0x82; PAYLOAD]),
        path(41_005, "tls 1.2 request", Client, tls12(), record.clone()),
        path(
            41_006,
            "tls 1.2 answer",
            Server,
            send(tls12(), &[(Server, &record), (Server, &record)]),
            record.clone(),
        ),
        path(41_007, "http/2 request", Client, http2(), data.clone()),
        path(41_008, "http/2 answer", Server, send(http2(), &[(Server, &head)]), data),
    ]
}

/// A ServerHello of TLS 1.2 with AES-GCM in a record of its own.
fn server_hello() -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &[0], &[0xc0, 0x2f, 0]].concat();
    let message = [&[2, 0, 0, body.len() as u8][..], &body].concat();
    [&[22, 3, 3, 0, message.len() as u8][..], &message].concat()
}
