//! JA4 of a ClientHello, as FoxIO's specification has it
//! (<https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md>).
//!
//! In flows a whole ClientHello message; out flow 36 characters: what it offers in ten, then a hash of
//! the ciphers and one of the extensions and signature algorithms. GREASE values count nowhere.

use std::{fmt, io::Write as _};

use ring::digest::{SHA256, digest};
use tls_parser::{TlsMessage, TlsMessageHandshake, parse_tls_message_handshake};

/// Characters of a fingerprint.
const LEN: usize = 36;
/// What stands for an empty list.
const NO_HASH: &str = "000000000000";

const SERVER_NAME: u16 = 0x0000;
const SIGNATURE_ALGORITHMS: u16 = 0x000d;
const ALPN: u16 = 0x0010;
const SUPPORTED_VERSIONS: u16 = 0x002b;

/// What carries the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// TLS records over TCP.
    Tcp,
    /// CRYPTO frames of QUIC.
    Quic,
}

/// A JA4 fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ja4([u8; LEN]);

impl Ja4 {
    /// The fingerprint of a ClientHello, a whole handshake message; `None` when it cannot be read.
    pub fn of(carrier: Carrier, message: &[u8]) -> Option<Self> {
        let (_, message) = parse_tls_message_handshake(message).ok()?;
        let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = message else { return None };
        let ciphers = hello.ciphers.iter().map(|cipher| cipher.0);
        let ciphers: Vec<_> = ciphers.filter(|&cipher| !is_grease(cipher)).collect();
        let extensions = Extensions::read(hello.ext.unwrap_or_default())?;
        let version = extensions.versions.iter().copied().max().unwrap_or(hello.version.0);
        let mut text = [0; LEN];
        write!(
            &mut text[..],
            "{}{}{}{:02}{:02}{}_{}_{}",
            if carrier == Carrier::Quic { 'q' } else { 't' },
            version_text(version),
            if extensions.kinds.contains(&SERVER_NAME) { 'd' } else { 'i' },
            ciphers.len().min(99),
            extensions.kinds.len().min(99),
            extensions.alpn,
            hash(&sorted(ciphers), &[]),
            hash(&sorted(extensions.hashed()), &extensions.algorithms),
        )
        .ok()?;
        Some(Self(text))
    }

    /// One of many, for tests.
    #[cfg(test)]
    pub(crate) fn numbered(number: u64) -> Self {
        let mut text = [0; LEN];
        write!(&mut text[..], "t13d1516h2_{number:012x}_{NO_HASH}").unwrap();
        Self(text)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What of the extensions goes into the fingerprint.
#[derive(Debug)]
struct Extensions {
    /// All that are not GREASE, in their order.
    kinds: Vec<u16>,
    versions: Vec<u16>,
    algorithms: Vec<u16>,
    /// Two characters for the first protocol offered.
    alpn: String,
}

impl Extensions {
    /// Reads a list of extensions: type, length and content each (RFC 8446 section 4.2). One whose
    /// content is malformed counts as any other.
    fn read(mut bytes: &[u8]) -> Option<Self> {
        let mut found = Self { kinds: vec![], versions: vec![], algorithms: vec![], alpn: "00".to_owned() };
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_first_chunk::<4>()?;
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let (content, rest) = rest.split_at_checked(u16::from_be_bytes([head[2], head[3]]).into())?;
            bytes = rest;
            if is_grease(kind) {
                continue;
            }
            found.kinds.push(kind);
            match kind {
                SUPPORTED_VERSIONS => found.versions = numbers(content.get(1..)),
                SIGNATURE_ALGORITHMS => found.algorithms = numbers(content.get(2..)),
                ALPN => found.alpn = alpn(content),
                _ => {}
            }
        }
        Some(found)
    }

    /// Those that are hashed: what the first ten characters tell already is left out.
    fn hashed(&self) -> Vec<u16> {
        self.kinds.iter().copied().filter(|kind| ![SERVER_NAME, ALPN].contains(kind)).collect()
    }
}

/// Whether this value says nothing (RFC 8701): both bytes the same, ending in `a`.
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// The numbers in a list, without GREASE.
fn numbers(list: Option<&[u8]>) -> Vec<u16> {
    let pairs = list.unwrap_or_default().as_chunks().0;
    pairs.iter().map(|&pair| u16::from_be_bytes(pair)).filter(|&number| !is_grease(number)).collect()
}

fn version_text(version: u16) -> &'static str {
    match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        0xfeff => "d1",
        0xfefd => "d2",
        0xfefc => "d3",
        _ => "00",
    }
}

/// First and last character of the first protocol name; of its hexadecimal form, where one of them is
/// neither letter nor digit.
fn alpn(content: &[u8]) -> String {
    let name = content
        .get(2..)
        .and_then(|list| list.split_first())
        .and_then(|(&len, names)| names.get(..len.into()));
    let Some((&first, &last)) = name.and_then(|name| name.first().zip(name.last())) else {
        return "00".to_owned();
    };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        String::from_iter([char::from(first), char::from(last)])
    } else {
        format!("{:x}{:x}", first >> 4, last & 0x0f)
    }
}

fn sorted(mut values: Vec<u16>) -> Vec<u16> {
    values.sort_unstable();
    values
}

/// The first twelve hexadecimal characters of the SHA-256 of these lists, as text.
fn hash(values: &[u16], more: &[u16]) -> String {
    if values.is_empty() {
        return NO_HASH.to_owned();
    }
    let text =
        |values: &[u16]| values.iter().map(|value| format!("{value:04x}")).collect::<Vec<_>>().join(",");
    let mut whole = text(values);
    if !more.is_empty() {
        whole += "_";
        whole += &text(more);
    }
    let mut first = [0; 8];
    first[2..].copy_from_slice(&digest(&SHA256, whole.as_bytes()).as_ref()[..6]);
    format!("{:012x}", u64::from_be_bytes(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's example: cipher suites and extensions as Chrome sends them, with GREASE.
    const CIPHERS: [u16; 16] = [
        0x2a2a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014,
        0x009c, 0x009d, 0x002f, 0x0035,
    ];
    const KINDS: [u16; 18] = [
        0x8a8a, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012,
        0x002b, 0xff01, 0x000b, 0x000a, 0x0015, 0xdada,
    ];

    fn list(values: &[u16]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_be_bytes()).collect()
    }

    fn with_length(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    fn hello(ciphers: &[u16], extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, content)| [kind.to_be_bytes().to_vec(), with_length(content)].concat())
            .collect();
        let random = [7; 32];
        let body =
            [&[3, 3][..], &random, &[0], &with_length(&list(ciphers)), &[1, 0], &with_length(&extensions)]
                .concat();
        [&[1, 0][..], &with_length(&body)].concat()
    }

    fn content(kind: u16) -> Vec<u8> {
        match kind {
            SUPPORTED_VERSIONS => [&[6][..], &list(&[0x0a0a, 0x0303, 0x0304])].concat(),
            SIGNATURE_ALGORITHMS => {
                with_length(&list(&[0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601]))
            }
            ALPN => with_length(b"\x02h2\x08http/1.1"),
            _ => vec![],
        }
    }

    #[test]
    fn the_specifications_example_gives_the_specifications_fingerprint() {
        let message = hello(&CIPHERS, &KINDS.map(|kind| (kind, content(kind))));
        let ja4 = Ja4::of(Carrier::Tcp, &message).map(|ja4| ja4.to_string());
        assert_eq!(ja4.as_deref(), Some("t13d1516h2_8daaf6152771_e5627efa2ab1"));
    }

    #[test]
    fn a_hello_without_anything_has_zeros_in_the_place_of_hashes() {
        let ja4 = Ja4::of(Carrier::Quic, &hello(&[0x0a0a], &[])).map(|ja4| ja4.to_string());
        assert_eq!(ja4.as_deref(), Some("q12i000000_000000000000_000000000000"));
    }

    #[test]
    fn names_of_protocols_are_shortened_as_the_specification_says() {
        let cases: [(&[u8], &str); 11] = [
            (b"", "00"),
            (b"h2", "h2"),
            (b"http/1.1", "h1"),
            (b"x", "xx"),
            (b"\xab", "ab"),
            (b"\x20", "20"),
            (b"\xab\xcd", "ad"),
            (b"\x20a", "21"),
            (b"0\xab", "3b"),
            (b"a ", "60"),
            (b"0\xab\xcd1", "01"),
        ];
        for (name, expected) in cases {
            let content = with_length(&[&[name.len() as u8], name].concat());
            assert_eq!(alpn(&content), expected, "{name:02x?}");
        }
        assert_eq!(alpn(&[]), "00");
    }
}
