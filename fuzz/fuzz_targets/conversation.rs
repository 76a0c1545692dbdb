//! The whole state machine: connections whose segments come in any order, more than once, overlapping, with gaps, cut by
//! resets, on ports that are used again; what they carry is well framed, or not.
#![no_main]

use hydrometer_fuzz::{Connection, Host, Side, flags};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

/// Something that happens on a connection.
#[derive(Arbitrary, Debug)]
enum Action<'a> {
    /// It begins, or begins anew on the same ports.
    Connect { first: u32 },
    /// One side sends.
    Send { client: bool, place: Place, push: bool, payload: Payload<'a> },
    /// One side sends no more.
    Finish { client: bool },
    /// One side cuts it, or somebody else would like to.
    Reset { client: bool, offset: i32 },
    /// The next of four connections has its turn.
    Switch,
}

/// Where in its stream a segment is.
#[derive(Arbitrary, Debug)]
enum Place {
    Next,
    Behind(u16),
    Ahead(u16),
    Anywhere(i32),
}

/// What a segment carries.
#[derive(Arbitrary, Debug)]
enum Payload<'a> {
    Nothing,
    /// TLS records of these kinds and lengths; the last is cut off.
    Records {
        records: [(u8, u16); 3],
        count: u8,
        cut: u16,
    },
    /// A ClientHello or a ServerHello of these bytes.
    Hello {
        server: bool,
        bytes: &'a [u8],
    },
    Request,
    Answer {
        interim: bool,
    },
    Preface,
    /// An HTTP/2 frame.
    Frame {
        len: u16,
        kind: u8,
        flags: u8,
        stream: u8,
    },
    Raw(&'a [u8]),
}

impl Payload<'_> {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Records { records, count, cut } => {
                let mut bytes = Vec::new();
                for (kind, len) in &records[..usize::from(*count) % 4] {
                    let len = len % 2000;
                    bytes.extend([20 + kind % 5, 3, 3]);
                    bytes.extend(len.to_be_bytes());
                    bytes.resize(bytes.len() + usize::from(len), 0xa5);
                }
                bytes.truncate(bytes.len().saturating_sub(usize::from(*cut) % 64));
                bytes
            }
            Self::Hello { server, bytes } => {
                let len = bytes.len().min(1000) as u16;
                let mut hello = vec![22, 3, 3];
                hello.extend((len + 4).to_be_bytes());
                hello.extend([if *server { 2 } else { 1 }, 0]);
                hello.extend(len.to_be_bytes());
                hello.extend(&bytes[..len.into()]);
                hello
            }
            Self::Request => b"POST /v1/chat/completions HTTP/1.1\r\n\r\n".to_vec(),
            Self::Answer { interim: true } => b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
            Self::Answer { interim: false } => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            Self::Preface => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            Self::Frame { len, kind, flags, stream } => {
                let len = len % 2000;
                let [high, low] = len.to_be_bytes();
                let mut bytes = vec![0, high, low, kind % 10, *flags, 0, 0, 0, *stream];
                bytes.resize(9 + usize::from(len), 0xa5);
                bytes
            }
            Self::Raw(bytes) => bytes[..bytes.len().min(3000)].to_vec(),
        }
    }
}

fuzz_target!(|actions: Vec<Action<'_>>| {
    let mut host = Host::new(1 << 24);
    let mut connections = [0, 1, 2, 3].map(|number| (number, Connection::default()));
    let side = |client: bool| if client { Side::Client } else { Side::Server };
    for (number, connection) in &mut connections {
        *connection = host.connect(*number, 1000);
    }
    for action in actions {
        let (number, connection) = &mut connections[0];
        match action {
            Action::Connect { first } => *connection = host.connect(*number, first),
            Action::Send { client, place, push, payload } => {
                let offset = match place {
                    Place::Next => 0,
                    Place::Behind(by) => -i32::from(by),
                    Place::Ahead(by) => by.into(),
                    Place::Anywhere(offset) => offset,
                };
                let flags = flags::ACK | if push { flags::PSH } else { 0 };
                host.segment(connection, side(client), offset, flags, &payload.bytes());
            }
            Action::Finish { client } => {
                host.segment(connection, side(client), 0, flags::FIN | flags::ACK, &[]);
            }
            Action::Reset { client, offset } => {
                host.segment(connection, side(client), offset, flags::RST, &[])
            }
            Action::Switch => connections.rotate_left(1),
        }
    }
    host.end();
});
